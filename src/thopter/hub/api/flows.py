"""Routes about flows: the progress of what was accepted."""

from __future__ import annotations

from thopter.hub.auth import READ
from thopter.hub.routes import Call, NoQuery, Route
from thopter.model.api import FlowView, Nothing


async def show_flow(call: Call[NoQuery, Nothing]) -> FlowView:
    """Progress of a flow, step by step."""
    return await call.fleet.flow(call.key)


ROUTES = (
    Route(
        method="GET",
        path="/v1/flows/{id}",
        summary="Progress of a flow, step by step",
        scope=READ,
        handler=show_flow,
        response=FlowView,
    ),
)
