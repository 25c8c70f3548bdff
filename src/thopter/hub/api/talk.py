"""Routes about talking: messages that the hub keeps, notes, status lines, done."""

from __future__ import annotations

from thopter.hub.auth import OPERATE, READ
from thopter.hub.routes import MIB, Call, NoQuery, Route
from thopter.model.api import Nothing
from thopter.model.api.talk import (
    DoneRequest,
    EditRequest,
    Message,
    Messages,
    NoteRequest,
    SendRequest,
    StatuslineRequest,
)

_TEXT_MAX = 8 * MIB  # a text of 1 MB can be six times as long in JSON


async def send_message(call: Call[NoQuery, SendRequest]) -> Message:
    """Keep a message for the agent."""
    return await call.fleet.talk.send(call.key, call.body)


async def list_messages(call: Call[NoQuery, Nothing]) -> Messages:
    """Messages kept for the agent."""
    return Messages(messages=await call.fleet.talk.messages(call.key))


async def show_message(call: Call[NoQuery, Nothing]) -> Message:
    """One message and what came of it."""
    return await call.fleet.talk.message(call.key)


async def drop_message(call: Call[NoQuery, Nothing]) -> Message:
    """Take a message back."""
    return await call.fleet.talk.drop(call.key)


async def edit_message(call: Call[NoQuery, EditRequest]) -> Message:
    """Change the words of a queued message."""
    return await call.fleet.talk.edit(call.key, call.body)


async def set_note(call: Call[NoQuery, NoteRequest]) -> Nothing:
    """Set or remove the note."""
    await call.fleet.talk.note(call.key, call.body)
    return Nothing()


async def set_statusline(call: Call[NoQuery, StatuslineRequest]) -> Nothing:
    """Set or give back the status line."""
    await call.fleet.talk.statusline(call.key, call.body)
    return Nothing()


async def declare_done(call: Call[NoQuery, DoneRequest]) -> Nothing:
    """Declare the work done, or take that back."""
    await call.fleet.talk.done(call.key, call.body)
    return Nothing()


ROUTES = (
    Route(
        method="POST",
        path="/v1/thopters/{name}/messages",
        summary="Keep a message: said when the agent is at its prompt, or asked now and its answer awaited",
        scope=OPERATE,
        handler=send_message,
        request=SendRequest,
        response=Message,
        status=202,
        mutating=True,
        body_max=_TEXT_MAX,
    ),
    Route(
        method="GET",
        path="/v1/thopters/{name}/messages",
        summary="Messages kept for the agent, oldest first",
        scope=READ,
        handler=list_messages,
        response=Messages,
    ),
    Route(
        method="GET",
        path="/v1/messages/{id}",
        summary="One message and what came of it",
        scope=READ,
        handler=show_message,
        response=Message,
    ),
    Route(
        method="DELETE",
        path="/v1/messages/{id}",
        summary="Take a message back that was not delivered yet",
        scope=OPERATE,
        handler=drop_message,
        response=Message,
        mutating=True,
    ),
    Route(
        method="POST",
        path="/v1/messages/{id}/edit",
        summary="Change the words of a message that is still queued",
        scope=OPERATE,
        handler=edit_message,
        request=EditRequest,
        response=Message,
        mutating=True,
        body_max=_TEXT_MAX,
    ),
    Route(
        method="POST",
        path="/v1/thopters/{name}/note",
        summary="Set the operator's note on a thopter; empty removes it",
        scope=OPERATE,
        handler=set_note,
        request=NoteRequest,
        mutating=True,
    ),
    Route(
        method="POST",
        path="/v1/thopters/{name}/statusline",
        summary="Set the line shown as its task; empty gives it back to the agent",
        scope=OPERATE,
        handler=set_statusline,
        request=StatuslineRequest,
        mutating=True,
    ),
    Route(
        method="POST",
        path="/v1/thopters/{name}/done",
        summary="Declare the work done, or (undo) not done",
        scope=OPERATE,
        handler=declare_done,
        request=DoneRequest,
        mutating=True,
    ),
)
