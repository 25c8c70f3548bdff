"""Routes about what boxes pushed, and how it gets upstream."""

from __future__ import annotations

from thopter.hub.auth import OPERATE, READ
from thopter.hub.routes import Call, NoQuery, Route
from thopter.model.api import Nothing
from thopter.model.api.pushes import PushList, PushRequest


async def pushes(call: Call[NoQuery, Nothing]) -> PushList:
    """How a thopter's branches stand."""
    return await call.fleet.pushes.view(call.key)


async def push(call: Call[NoQuery, PushRequest]) -> PushList:
    """Bring a branch upstream."""
    return await call.fleet.pushes.order(call.key, call.body)


async def refresh(call: Call[NoQuery, Nothing]) -> PushList:
    """Bring what is new into the mirrors."""
    return await call.fleet.pushes.refresh(call.key)


ROUTES = (
    Route(
        method="POST",
        path="/v1/thopters/{name}/refresh",
        summary="Bring what is new upstream into a thopter's mirrors",
        scope=OPERATE,
        handler=refresh,
        response=PushList,
        mutating=True,
        repeatable=True,
    ),
    Route(
        method="GET",
        path="/v1/thopters/{name}/pushes",
        summary="How a thopter's branches stand in the mirror and upstream",
        scope=READ,
        handler=pushes,
        response=PushList,
    ),
    Route(
        method="POST",
        path="/v1/thopters/{name}/pushes",
        summary="Bring a thopter's branch upstream, on a person's word",
        scope=OPERATE,
        handler=push,
        request=PushRequest,
        response=PushList,
        mutating=True,
        repeatable=True,
    ),
)
