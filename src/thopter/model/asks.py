"""What agents ask a person while they wait, and the person's answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct


class Question(Struct, frozen=True, kw_only=True):
    """One question of an agent to a person; ``several`` of its options may be chosen."""

    text: str
    options: tuple[str, ...] = ()
    several: bool = False


class Ask(Struct, frozen=True, kw_only=True):
    """What an agent asks a person while its hook is held open. ``kind``: permission or question.
    ``for_run``: what allowing it for the rest of the run would allow, empty when that can't be had."""

    kind: str
    tool: str
    input: Mapping[str, Any]
    summary: str
    for_run: str = ""
    questions: tuple[Question, ...] = ()


class AskReply(Struct, frozen=True, kw_only=True):
    """A person's answer to an :class:`Ask`: ``message`` is told to the agent with a no, ``answers`` are
    to its questions in their order."""

    allow: bool
    message: str = ""
    for_run: bool = False
    answers: tuple[str, ...] = ()
