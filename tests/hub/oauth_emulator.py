"""An OAuth token endpoint as the real ones are: refresh tokens rotate, using an old one ends the family."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator


class Emulator:
    """``current``: the one refresh token that is good now; ``spent``: those that were. ``got`` counts
    requests that arrived, ``asks`` those that were answered; ``say_next``: status and body of the next
    answers, whatever is asked."""

    def __init__(self) -> None:
        self.current = "rt-" + secrets.token_hex(8)
        self.access = "sk-ant-oat01-" + secrets.token_hex(8)
        self.spent: set[str] = set()
        self.revoked = False
        self.renewals = 0
        self.asks = 0
        self.got = 0
        self.say_next: list[tuple[int, bytes]] = []
        self.expires_in = 28_800
        self.delay = 0.02
        self.fail_next = 0
        self.next_access = ""
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = next(int(x.split(":")[1]) for x in head.split("\r\n") if x.startswith("content-length"))
            body = json.loads(await reader.readexactly(size))
            self.got += 1
            await asyncio.sleep(self.delay)
            if self.say_next:
                self.asks += 1
                status, raw = self.say_next.pop(0)
            else:
                status, said = self.answer(body)
                raw = json.dumps(said).encode()
            line = (
                f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
            )
            writer.write(line.encode() + raw)
            await writer.drain()
        writer.close()

    def answer(self, body: dict[str, str]) -> tuple[int, dict[str, object]]:
        self.asks += 1
        if self.fail_next:
            self.fail_next -= 1
            return 503, {"error": "temporarily_unavailable"}
        assert body["grant_type"] == "refresh_token" and body["client_id"] == "client-1"
        token = body["refresh_token"]
        if token in self.spent:
            self.revoked = True  # somebody has a copy: the whole family ends
        if self.revoked or token != self.current:
            return 400, {"error": "invalid_grant"}
        self.spent.add(self.current)
        self.current = "rt-" + secrets.token_hex(8)
        self.access = self.next_access or "sk-ant-oat01-" + secrets.token_hex(8)
        self.renewals += 1
        return 200, {
            "access_token": self.access,
            "refresh_token": self.current,
            "expires_in": self.expires_in,
        }


@contextlib.asynccontextmanager
async def emulator() -> AsyncIterator[Emulator]:
    """Run one on loopback."""
    found = Emulator()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/oauth/token"
    try:
        yield found
    finally:
        server.close()
