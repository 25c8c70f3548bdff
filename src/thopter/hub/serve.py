"""Serving the doors: uvicorn's protocols on sockets we opened ourselves, and a bounded end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from thopter.hub.asgi import App
from thopter.hub.doors import Door
from thopter.hub.protocol import HEAD_SECONDS, HubHttp, HubWebSocket, Lobby

log = logging.getLogger("thopter.hub.serve")

WS_MESSAGE_BYTES = (1 << 20) + 1
_KEEP_ALIVE = 15
_LOOK = 0.01


class Server:
    """Serves every door with its own application until closed."""

    def __init__(self, doors: Sequence[tuple[Door, App]]) -> None:
        self._doors = doors
        self._state = ServerState()
        self._servers: list[asyncio.AbstractServer] = []
        self.lobbies: list[Lobby] = []

    async def open(self) -> None:
        """Accept from now on (the sockets listen already)."""
        for door, app in self._doors:
            self._servers.append(await self._open(door, app))

    async def add(self, door: Door, app: App) -> None:
        """Accept at one more door from now on."""
        self._servers.append(await self._open(door, app))

    async def _open(self, door: Door, app: App) -> asyncio.AbstractServer:
        config = _config(app)
        config.load()
        lobby = Lobby()
        self.lobbies.append(lobby)
        state = self._state
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            return HubHttp(config, state, lobby)

        if door.label.startswith("unix:"):
            return await loop.create_unix_server(protocol, sock=door.sock)
        if door.tls is None:
            return await loop.create_server(protocol, sock=door.sock)
        return await loop.create_server(
            protocol, sock=door.sock, ssl=door.tls, ssl_handshake_timeout=HEAD_SECONDS
        )

    async def quiet(self, seconds: float) -> None:
        """Accept no more; return when no request is under way, or after ``seconds``."""
        for server in self._servers:
            server.close()
        for _ in range(round(seconds / _LOOK)):
            if not self._state.tasks:
                return
            await asyncio.sleep(_LOOK)

    async def close(self, grace: float) -> None:
        """Let answers under way finish for ``grace`` seconds, then cut them off."""
        for connection in list(self._state.connections):
            connection.shutdown()
        for _ in range(round(grace / _LOOK)):
            if not self._state.connections and not self._state.tasks:
                break
            await asyncio.sleep(_LOOK)
        if self._state.tasks:
            log.warning("%d requests were cut off", len(self._state.tasks))
            for task in list(self._state.tasks):
                task.cancel()
            await asyncio.wait(list(self._state.tasks), timeout=1)
        for lobby in self.lobbies:
            for connection in list(lobby.all):
                connection.transport.abort()


def _config(app: Any) -> Config:
    """Uvicorn's configuration: no proxy headers (anybody could send them), no log of its own, no
    keep-alive pings (a terminal that takes no input for a while is not dead)."""
    return Config(
        app=app,
        http=HubHttp,
        ws=HubWebSocket,
        ws_max_size=WS_MESSAGE_BYTES,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        interface="asgi3",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
    )
