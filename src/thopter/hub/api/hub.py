"""Routes about the hub itself: what it is, stopping it, its API document."""

from __future__ import annotations

from typing import Any

from thopter.hub.auth import ADMIN, READ
from thopter.hub.openapi import document
from thopter.hub.routes import Call, NoQuery, Route
from thopter.model.api import HubInfo, Nothing


async def hub_info(call: Call[NoQuery, Nothing]) -> HubInfo:
    """What hub this is and how it does."""
    return await call.hub.info()


async def hub_stop(call: Call[NoQuery, Nothing]) -> Nothing:
    """Stop the hub; the answer comes first, boxes go on."""
    call.hub.end()
    return Nothing()


async def openapi(call: Call[NoQuery, Nothing]) -> dict[str, Any]:
    """The OpenAPI document of this API."""
    from thopter.hub.api import ROUTES  # the table is made of this module's routes too

    return document(ROUTES)


ROUTES = (
    Route(
        method="GET",
        path="/v1/hub",
        summary="What hub this is, and whether it is ready",
        scope=READ,
        handler=hub_info,
        response=HubInfo,
        alone=True,
    ),
    Route(
        method="POST",
        path="/v1/hub/stop",
        summary="Stop the hub; boxes and agents go on",
        scope=ADMIN,
        handler=hub_stop,
        status=202,
        mutating=True,
        repeatable=True,
        alone=True,
    ),
    Route(
        method="GET",
        path="/v1/openapi.json",
        summary="This document",
        scope=READ,
        handler=openapi,
        response=dict[str, Any],
        alone=True,
    ),
)
