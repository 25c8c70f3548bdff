"""Notes: what is sent to a person. What each is about, and the fate of each sending of it."""

from __future__ import annotations

import enum

from msgspec import Struct


class NoteKind(enum.StrEnum):
    """What a note is about; ``notify.on`` names those that are wanted."""

    WAITING_PERMISSION = "waiting_permission"
    WAITING_QUESTION = "waiting_question"
    TURN_END = "turn_end"
    RATE_LIMIT = "rate_limit"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    STUCK = "stuck"  # at work, as far as is known, and nothing shown for long
    UNKNOWN = "unknown"  # for long nobody knows what it does
    BUDGET = "budget"
    DISK = "disk"  # thopters stand still, because the disk is nearly full
    TEST = "test"


# What may stand in ``notify.on``; a test is always sent.
CHOICES = tuple(k.value for k in NoteKind if k is not NoteKind.TEST)


class Letter(Struct, frozen=True, kw_only=True):
    """The words of a note, safe for any channel: one line of title, text without control characters.

    ``priority``: ``min low default high max``; ``tags``: comma-separated; ``click``: a URL or empty.
    """

    title: str
    body: str = ""
    priority: str = "default"
    tags: str = ""
    click: str = ""


class Note(Struct, frozen=True, kw_only=True):
    """One note. ``key`` names its episode: one note for each key, ever. ``held``: why it is sent to
    nobody, empty when it is."""

    id: str
    key: str
    kind: NoteKind
    letter: Letter
    created_ms: int
    box: str = ""
    run: str = ""
    name: str = ""
    held: str = ""


class Send(Struct, frozen=True, kw_only=True):
    """One note on its way to one target. ``state``: queued, sent, given_up. ``problem``: why the last
    attempt failed; ``next_ms``: when the next one is."""

    note: str
    target: str
    state: str = "queued"
    attempts: int = 0
    next_ms: int = 0
    problem: str = ""
    sent_ms: int = 0


class PushOrder(Struct, frozen=True, kw_only=True):
    """A message for one browser by its push service. ``topic``: of one the newest is kept there."""

    endpoint: str
    p256dh: str
    auth: str
    payload: bytes
    topic: str
    urgent: bool = False


class Pushed(Struct, frozen=True, kw_only=True):
    """What came of it. ``problem`` empty: it was taken; ``gone``: that browser wants no more, ever."""

    problem: str = ""
    gone: bool = False
