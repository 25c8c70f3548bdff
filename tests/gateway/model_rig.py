"""A model gateway in front of a raw upstream, beside a canary that must never be dialled."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

from gateway_support import Answer, Home, Reply, Upstream, ask, listener, plain, port_of, request, upstream

from thopter.gateway.client import GatewayClient

SECRET = "sk-real-canary-8d1f"
PLACEHOLDER = "sk-box-placeholder-77"
BOX_HEADERS = (
    f"authorization: Bearer {PLACEHOLDER}",
    f"x-api-key: {PLACEHOLDER}",
    "anthropic-version: 2023-06-01",
    "content-type: application/json",
)


class Rig:
    """What a test works with. ``door`` is the box's socket, as the provider keeps it."""

    def __init__(self, client: GatewayClient, pid: int, up: Upstream, port: int, canary: Upstream) -> None:
        self.client = client
        self.pid = pid
        self.up = up
        self.up_port = port
        self.canary = canary
        self.canary_port = 0
        self.door: socket.socket = listener()
        self.port = port_of(self.door)

    async def attach(self, sock: socket.socket | None = None, **fields: Any) -> None:
        """Attach box ``b1`` (anew) to the upstream."""
        auth = {"kind": "x-api-key", "secret": SECRET}
        wanted = {"upstream": f"http://127.0.0.1:{self.up_port}", "run": "r1", "auth": auth} | fields
        await self.client.attach("b1", sock or self.door, **wanted)

    async def call(self, body: bytes = b'{"model":"m"}', target: str = "/v1/messages", **kw: Any) -> Reply:
        """One ordinary call of an agent."""
        return await ask(self.port, request("POST", target, body, BOX_HEADERS), **kw)

    async def last(self) -> dict[str, Any]:
        """The newest record of the log (waits for the first)."""
        page = await self.client.log(0, wait_ms=20_000)
        return dict(page["records"][-1])


@contextlib.asynccontextmanager
async def rig(place: Home, answer: Answer, **fields: Any) -> AsyncIterator[Rig]:
    """Start everything and attach one box; the canary must not have been touched at the end."""
    client, pong = await place.start("model")
    async with upstream(answer) as (up, port), upstream(plain(b"canary")) as (canary, canary_port):
        found = Rig(client, pong.pid, up, port, canary)
        found.canary_port = canary_port
        try:
            await found.attach(**fields)
            yield found
        finally:
            found.door.close()
        assert canary.connections == 0, "the canary was dialled"
