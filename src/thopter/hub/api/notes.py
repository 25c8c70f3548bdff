"""Routes about notes to people: what was sent, where notes go, a test, muting."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from thopter.hub.auth import OPERATE, READ
from thopter.hub.routes import Call, NoQuery, Route
from thopter.model.api import Nothing
from thopter.model.api.notes import MuteRequest, Notes, NoteView, NotifyState, TestRequest


class NotesQuery(Struct, kw_only=True):
    """``name``: only notes about this thopter."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 50
    name: str = ""


async def list_notes(call: Call[NotesQuery, Nothing]) -> Notes:
    """The newest notes and their fate."""
    return await call.fleet.notes.list(call.query.limit, call.query.name)


async def notes_state(call: Call[NoQuery, Nothing]) -> NotifyState:
    """Where notes go, about what, and who is muted."""
    return await call.fleet.notes.state()


async def test_notes(call: Call[NoQuery, TestRequest]) -> NoteView:
    """Send a test."""
    return await call.fleet.notes.test(call.body)


async def mute_notes(call: Call[NoQuery, MuteRequest]) -> NotifyState:
    """Mute or unmute."""
    return await call.fleet.notes.mute(call.body)


ROUTES = (
    Route(
        method="GET",
        path="/v1/notes",
        summary="Notes to people, the newest first, and the fate of each",
        scope=READ,
        handler=list_notes,
        query=NotesQuery,
        response=Notes,
    ),
    Route(
        method="GET",
        path="/v1/notes/state",
        summary="Where notes go, about what, and who is muted",
        scope=READ,
        handler=notes_state,
        response=NotifyState,
    ),
    Route(
        method="POST",
        path="/v1/notes/test",
        summary="Send a test note and wait for what comes of it",
        scope=OPERATE,
        handler=test_notes,
        request=TestRequest,
        response=NoteView,
        mutating=True,
    ),
    Route(
        method="POST",
        path="/v1/notes/mute",
        summary="Mute a thopter or everything, or let it be heard again",
        scope=OPERATE,
        handler=mute_notes,
        request=MuteRequest,
        response=NotifyState,
        mutating=True,
        repeatable=True,
    ),
)
