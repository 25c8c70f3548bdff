"""The egress gateway: what it adds to a request, and how much goes through, beside no gateway."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench.rows import Row, p50, p99
from thopter.gateway.client import GatewayClient
from thopter.gateway.egress.authority import Mint, make_authority
from thopter.gateway.policy.decide import decide
from thopter.gateway.policy.model import Policy, Request, Rule
from thopter.gateway.policy.shipped import SHIPPED

_ASKS = 200
_BULK = 64 << 20
_LOOP = ("127.0.0.0/8",)
_DECISIONS = 20_000


def measure() -> list[Row]:
    """All rows of this case."""
    with tempfile.TemporaryDirectory(prefix="thopter-bench-", ignore_cleanup_errors=True) as folder:
        return [_decisions(), *asyncio.run(_measure(Path(folder)))]


def _decisions() -> Row:
    request = Request(scheme="https", host="Some.Host.example.com.", port=443, method="GET", target="/a/b")
    began = time.perf_counter()
    for _ in range(_DECISIONS):
        decide(request, SHIPPED["default"])
    rate = _DECISIONS / (time.perf_counter() - began)
    return Row(name="decisions by the shipped policy", value=rate, unit="/s", n=_DECISIONS)


@contextlib.contextmanager
def _endpoint(folder: Path, cert: str, key: str) -> Iterator[int]:
    """An https server in a process of its own; gives its port."""
    for name, text in (("ca.pem", cert), ("ca.key", key)):
        (folder / name).write_text(text)
    code = f"import asyncio; from bench.cases.egress import serve; asyncio.run(serve({str(folder)!r}))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


async def serve(folder: str) -> None:
    """Answer ``/bulk`` with many bytes and all else with few; prints the port."""
    cert, key = ((Path(folder) / n).read_text() for n in ("ca.pem", "ca.key"))
    context = Mint(cert, key).context("localhost", time.time())
    block = bytes(1 << 20)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                if b" /bulk " not in head:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
                    continue
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % _BULK)
                for _ in range(_BULK // len(block)):
                    writer.write(block)
                    await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


class _Way:
    """A way to the server: straight, or by the gateway's listener."""

    def __init__(self, port: int, proxy: int, trust: str) -> None:
        self.port, self.proxy = port, proxy
        self.context = ssl.create_default_context(cadata=trust)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy or self.port, limit=1 << 20)
        if self.proxy:
            place = f"localhost:{self.port}".encode()
            writer.write(b"CONNECT " + place + b" HTTP/1.1\r\nhost: " + place + b"\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
        await writer.start_tls(self.context, server_hostname="localhost")
        return reader, writer

    def ask(self, target: str) -> bytes:
        return f"GET {target} HTTP/1.1\r\nhost: localhost:{self.port}\r\n\r\n".encode()

    async def first_byte(self) -> float:
        began = time.perf_counter()
        reader, writer = await self.open()
        writer.write(self.ask("/"))
        await reader.readuntil(b"hello")
        took = (time.perf_counter() - began) * 1000
        writer.close()
        return took

    async def again(self, n: int) -> list[float]:
        reader, writer = await self.open()
        found = []
        for _ in range(n):
            began = time.perf_counter()
            writer.write(self.ask("/"))
            await reader.readuntil(b"hello")
            found.append((time.perf_counter() - began) * 1000)
        writer.close()
        return found

    async def rate(self) -> float:
        reader, writer = await self.open()
        began = time.perf_counter()
        writer.write(self.ask("/bulk"))
        await reader.readuntil(b"\r\n\r\n")
        left = _BULK
        while left:
            left -= len(await reader.read(1 << 20))
        took = time.perf_counter() - began
        writer.close()
        return _BULK / 1e6 / took


async def _measure(folder: Path) -> list[Row]:
    cert, key = make_authority("bench servers", time.time())
    hub = make_authority("bench hub", time.time())
    with _endpoint(folder, cert, key) as port:
        env = {"SSL_CERT_FILE": str(folder / "ca.pem")}
        client = GatewayClient(
            "thopter.gateway.egress", folder / "run/egress.sock", folder / "state", env=env
        )
        await client.ensure()
        try:
            return await _rows(client, port, cert, hub)
        finally:
            await client.stop()


async def _attach(client: GatewayClient, box: str, rule: Rule, hub: tuple[str, str]) -> int:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(64)
    ca: dict[str, Any] | None = {"cert": hub[0], "key": hub[1]} if rule.inspect else None
    await client.attach(box, sock, policy=msgspec.to_builtins(Policy(name="bench", rules=(rule,))), ca=ca)
    found = int(sock.getsockname()[1])
    sock.close()
    return found


async def _rows(client: GatewayClient, port: int, cert: str, hub: tuple[str, str]) -> list[Row]:
    plain = Rule(name="r", hosts=("localhost",), ports=(port,), addresses=_LOOP)
    look = msgspec.structs.replace(plain, inspect=True, methods=("GET",))
    straight = _Way(port, 0, cert)
    ways = {
        "tunnel": _Way(port, await _attach(client, "b1", plain, hub), cert),
        "opened TLS": _Way(port, await _attach(client, "b2", look, hub), hub[0]),
    }
    rows = []
    for name, way in ways.items():
        mine: list[float] = []
        theirs: list[float] = []
        for _ in range(_ASKS):  # by turns: the machine's load is shared
            theirs.append(await straight.first_byte())
            mine.append(await way.first_byte())
        rows.append(_row(f"{name}: connect to first byte", mine, theirs))
        rows.append(
            _row(f"{name}: request on an open connection", await way.again(500), await straight.again(500))
        )
        rates = [(await straight.rate(), await way.rate()) for _ in range(3)]
        direct, through = (p50([r[i] for r in rates]) for i in (0, 1))
        rows.append(
            Row(
                name=f"{name}: download, one connection", value=through, unit="MB/s", n=3,
                anchor="direct TLS", anchor_value=direct,
            )
        )  # fmt: skip
    return rows


def _row(name: str, mine: list[float], theirs: list[float]) -> Row:
    return Row(
        name=name, value=p50(mine), unit="ms", n=len(mine), p99=p99(mine), anchor="direct TLS",
        anchor_value=p50(theirs), note=f"{os.cpu_count()} cores",
    )  # fmt: skip
