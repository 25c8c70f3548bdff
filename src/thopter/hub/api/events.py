"""The event stream (SSE): replay from a number, then live, without a gap and without a double."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated

from msgspec import Meta, Struct

from thopter.hub.answers import bad_request
from thopter.hub.asgi import Receive, Scope, Send, first_of, gone, headers_named
from thopter.hub.auth import READ
from thopter.hub.feed import Feed
from thopter.hub.life import Hub
from thopter.hub.routes import Count, Route
from thopter.model.errors import Conflict
from thopter.model.events import Event
from thopter.store.events import EventFilter

KEEP_ALIVE_SECONDS = 15.0

Word = Annotated[str, Meta(max_length=200)]


class EventsQuery(Struct, kw_only=True):
    """``after``: the number of the last event you have (0: from the beginning); without it and
    without ``Last-Event-ID`` the stream begins now. Empty filters let all through; ``kinds`` is a
    list with commas."""

    after: Count | None = None
    box: Word = ""
    run: Word = ""
    flow: Word = ""
    kinds: Annotated[str, Meta(max_length=1000)] = ""


async def stream_events(hub: Hub, query: EventsQuery, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one listener until it goes away or the hub stops."""
    feed = await hub.feed()
    kinds = tuple(kind for kind in query.kinds.split(",") if kind)
    want = EventFilter(box=query.box, run=query.run, flow=query.flow, kinds=kinds)
    with feed.listening():
        cursor = _start(feed, query, scope)
        headers = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await _piece(send, b": events follow\nretry: 1000\n\n")
        await first_of(_pump(feed, cursor, want, send), gone(receive))


def _start(feed: Feed, query: EventsQuery, scope: Scope) -> int:
    head = feed.last()
    cursor = _last_event_id(scope)  # a browser that comes back repeats its old ``after`` beside it
    if cursor is None:
        cursor = query.after
    if cursor is None:
        return head
    if cursor > head:
        raise Conflict(
            f"the newest event is {head}: number {cursor} is of another history",
            hint="begin again with after=0",
            head=head,
        )
    return cursor


def _last_event_id(scope: Scope) -> int | None:
    given = headers_named(scope, b"last-event-id")
    if not given or given == [b""]:
        return None
    if len(given) > 1 or not given[0].isdigit() or len(given[0]) > 15:
        raise bad_request("Last-Event-ID must be the number of an event", status=422)
    return int(given[0])


async def _pump(feed: Feed, cursor: int, want: EventFilter, send: Send) -> None:
    clock = asyncio.get_running_loop().time
    due = clock() + KEEP_ALIVE_SECONDS
    while not feed.closed:
        seen = cursor
        text, cursor = await feed.after(cursor, want)
        if text or clock() >= due:
            await _piece(send, text or b": still here\n\n")
            due = clock() + KEEP_ALIVE_SECONDS
        elif cursor == seen:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await feed.wait(cursor)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _piece(send: Send, text: bytes) -> None:
    await send({"type": "http.response.body", "body": text, "more_body": True})


ROUTES = (
    Route(
        method="GET",
        path="/v1/events",
        summary="Events as they happen (server-sent events), after a replay",
        scope=READ,
        handler=stream_events,
        query=EventsQuery,
        response=Event,
        kind="events",
    ),
)
