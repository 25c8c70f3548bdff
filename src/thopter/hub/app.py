"""The application at one door: routes of the table behind the guard."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.routing import Route as HttpRoute

from thopter.hub.answers import (
    JSON_TYPE,
    SECURITY_HEADERS,
    bad_request,
    error_body,
    error_headers,
    no_such_path,
    send_error,
    unexpected,
)
from thopter.hub.api import ROUTES
from thopter.hub.asgi import App, Receive, Scope, Send
from thopter.hub.doors import Door
from thopter.hub.endpoint import Endpoint, NeedsWebSocket, PathEndpoint, check_scope, while_good
from thopter.hub.guard import Guard
from thopter.hub.life import Hub
from thopter.hub.routes import Route


class WebSocketEndpoint:
    """One WebSocket route."""

    def __init__(self, route: Route, hub: Hub) -> None:
        self._route = route
        self._hub = hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the scope, then converse."""
        check_scope(self._route, scope)
        key = str(scope["path_params"].get(self._route.parameter, ""))
        await while_good(scope, self._hub, self._route.handler(self._hub, key, scope, receive, send))


class NoWebSocket:
    """What a handshake gets at any other path."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with 404."""
        await send_error(send, no_such_path(scope["path"]), websocket=True)


def build_app(hub: Hub, door: Door, routes: Sequence[Route] = ROUTES) -> Starlette:
    """Make the application for ``door``; it keeps nothing that ``hub`` does not hold."""
    paths: dict[str, dict[str, App]] = {}
    found: list[BaseRoute] = []
    for route in routes:
        methods = paths.setdefault(route.path, {})
        if route.kind == "exec":
            methods[route.method] = NeedsWebSocket()
            found.append(WebSocketRoute(route.path, WebSocketEndpoint(route, hub)))
        else:
            methods[route.method] = Endpoint(route, hub)
    found += [HttpRoute(path, PathEndpoint(methods)) for path, methods in paths.items()]
    found.append(WebSocketRoute("/{path:path}", NoWebSocket()))
    app = Starlette(
        routes=found,
        middleware=[Middleware(Guard, door, hub.page)],
        exception_handlers={HTTPException: _http_exception, Exception: _guard_failed},
    )
    app.router.redirect_slashes = False
    return app


async def _http_exception(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses: unknown paths."""
    assert isinstance(error, HTTPException)
    found = no_such_path(request.url.path)
    if error.status_code != 404:
        found = bad_request("this request can't be served", status=error.status_code)
    response = Response(error_body(found), found.http_status)
    response.raw_headers[:] = [*error_headers(found), response.raw_headers[0]]
    return response


async def _guard_failed(request: Request, error: Exception) -> Response:
    """The guard itself failed: still JSON, still with the security headers."""
    response = Response(error_body(unexpected(request.scope, error)), 500)
    response.raw_headers[:] = [JSON_TYPE, *SECURITY_HEADERS, response.raw_headers[0]]
    return response
