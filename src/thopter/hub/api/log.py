"""Routes about what happened in a thopter, also in one that is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Literal

from msgspec import Meta, Struct

from thopter.hub.auth import READ
from thopter.hub.routes import Call, NoQuery, Route
from thopter.model.api import Nothing
from thopter.model.api.log import LogLines


class LogQuery(Struct, kw_only=True):
    """``format``: ``entries`` (one JSON object a line), ``raw`` (the agent's own lines), ``html``;
    ``refresh``: the page asks to be read again after so many seconds."""

    format: Literal["entries", "raw", "html"] = "entries"
    refresh: Annotated[int, Meta(ge=0, le=3600)] = 0


def session_log(call: Call[LogQuery, Nothing]) -> AsyncIterator[bytes]:
    """The whole conversation."""
    logs = call.fleet.logs
    if call.query.format == "html":
        return logs.page(call.key, call.query.refresh)
    return logs.raw(call.key) if call.query.format == "raw" else logs.entries(call.key)


async def steps_log(call: Call[NoQuery, Nothing]) -> LogLines:
    """What the hub did with it."""
    return await call.fleet.logs.steps(call.key)


ROUTES = (
    Route(
        method="GET",
        path="/v1/thopters/{name}/log",
        summary="The whole conversation: as entries, as the agent wrote it, or as a page",
        scope=READ,
        handler=session_log,
        query=LogQuery,
        kind="bytes",
    ),
    Route(
        method="GET",
        path="/v1/thopters/{name}/log/steps",
        summary="What the hub did with it: its making, states, notes, end",
        scope=READ,
        handler=steps_log,
        response=LogLines,
    ),
)
