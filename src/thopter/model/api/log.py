"""Answers of the API about what happened in a thopter."""

from __future__ import annotations

from msgspec import Struct


class LogLine(Struct, kw_only=True):
    """One thing that the hub did or saw. ``text`` is for a person; words in it may be a box's."""

    seq: int
    at_ms: int
    kind: str
    text: str


class LogLines(Struct, kw_only=True):
    """``GET /v1/thopters/{name}/log/steps``, oldest first. Events of ``box`` and ``flow`` bring more."""

    lines: list[LogLine]
    box: str = ""
    flow: str = ""
