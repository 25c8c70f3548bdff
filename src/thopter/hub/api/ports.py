"""Routes about ports inside boxes: a connection to one, for previews."""

from __future__ import annotations

from thopter.hub.asgi import Receive, Scope, Send
from thopter.hub.auth import OPERATE
from thopter.hub.life import Hub
from thopter.hub.routes import Route
from thopter.hub.terminals import converse
from thopter.model.api.ports import DialRequest


async def dial_port(hub: Hub, name: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one WebSocket that is a connection to a port inside a box."""
    what = (DialRequest, lambda _r: None, lambda fleet, request: fleet.dials.open(name, request.port))
    await converse(hub, what, scope, receive, send)


ROUTES = (
    Route(
        method="GET",
        path="/v1/thopters/{name}/dial",
        summary="Connect to a port on the box's loopback (WebSocket)",
        scope=OPERATE,
        handler=dial_port,
        request=DialRequest,
        mutating=True,
        repeatable=True,
        kind="exec",
        status=101,
    ),
)
