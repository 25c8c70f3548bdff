"""Requests and answers of the API about notes to people."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from thopter.model.notes import Note, Send


class NoteView(Struct, kw_only=True):
    """A note and its fate. ``fate``: held, queued, sent, given_up, partly_sent (some targets gave up)."""

    note: Note
    fate: str
    sends: list[Send] = field(default_factory=list)


class Notes(Struct, kw_only=True):
    """``GET /v1/notes``: the newest first."""

    notes: list[NoteView]


class Target(Struct, kw_only=True):
    """Where notes go. ``address`` shows no secret; ``problem``: why it can't be used."""

    name: str
    address: str = ""
    problem: str = ""


class NotifyState(Struct, kw_only=True):
    """``GET /v1/notes/state``: where notes go, about what, and who is muted."""

    targets: list[Target]
    on: list[str]
    muted: bool = False
    muted_thopters: list[str] = field(default_factory=list)
    queued: int = 0
    given_up: int = 0


class TestRequest(Struct, kw_only=True):
    """``POST /v1/notes/test``. ``target``: only this one, empty for all; the answer is the fate after
    at most ``patience_ms``."""

    __test__ = False  # no test of pytest's

    target: str = ""
    patience_ms: Annotated[int, Meta(ge=0, le=120_000)] = 30_000


class MuteRequest(Struct, kw_only=True):
    """``POST /v1/notes/mute``. ``name`` empty: everything."""

    name: str = ""
    muted: bool
