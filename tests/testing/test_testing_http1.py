"""The small HTTP server: ordinary answers, and misbehaviour on purpose."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from thopter.model.errors import Conflict
from thopter.testing.http1 import BODY_MAX, Gone, Handler, Reply, Request, Server


def serving(handler: Handler, client: Callable[[Server], Awaitable[None]]) -> None:
    """Serve while ``client`` runs; all is bounded."""

    async def go() -> None:
        async with asyncio.timeout(60), Server(handler) as server:
            await client(server)

    asyncio.run(go())


async def echo(request: Request, reply: Reply) -> None:
    said = f"{request.method} {request.path} {dict(request.query)} {len(request.body)}"
    await reply.send(200, said.encode(), {"content-type": "text/plain"})


async def talk(server: Server, sent: bytes) -> bytes:
    """Send raw bytes and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(sent)
        return await reader.read()
    finally:
        writer.transport.abort()


def test_requests_on_one_connection_are_answered_in_order() -> None:
    async def client(server: Server) -> None:
        first = b"POST /a%20b?x=1&x=2 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
        second = b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        got = await talk(server, first + second)
        assert got.count(b"HTTP/1.1 200 OK") == 2
        assert b"POST /a b {'x': '2'} 3" in got
        assert got.endswith(b"GET /last {} 0")

    serving(echo, client)


def test_a_chunked_body_and_a_head_request() -> None:
    async def client(server: Server) -> None:
        chunked = (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"
        )
        assert (await talk(server, chunked)).endswith(b"POST / {} 5")
        head = await talk(server, b"HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert b"content-length: 11" in head
        assert head.endswith(b"\r\n\r\n")

    serving(echo, client)


def test_what_is_not_http_closes_only_that_connection() -> None:
    async def client(server: Server) -> None:
        assert await talk(server, b"\x00\x01\x02 nonsense\r\n\r\n") == b""
        got = await talk(server, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 200 OK")

    serving(echo, client)


def test_a_body_that_is_too_large_is_refused() -> None:
    async def client(server: Server) -> None:
        _reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (BODY_MAX + 10))
        with pytest.raises(ConnectionError):
            for _ in range(200):
                writer.write(b"x" * (1 << 20))
                await writer.drain()
        writer.transport.abort()

    serving(echo, client)


def test_chunks_arrive_while_they_are_written_and_a_drop_cuts_the_rest() -> None:
    async def handler(_request: Request, reply: Reply) -> None:
        await reply.start(200, {})
        await reply.write(b"first")
        await reply.pause(0.2)
        await reply.write(b"second")
        reply.drop()

    async def client(server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        head = await reader.readuntil(b"first\r\n")
        assert b"second" not in head
        rest = await reader.read()
        assert b"second" in rest
        assert not rest.endswith(b"0\r\n\r\n")
        writer.close()

    serving(handler, client)


def test_a_stalled_answer_ends_when_the_client_leaves() -> None:
    left = asyncio.Event()

    async def handler(_request: Request, reply: Reply) -> None:
        try:
            await reply.pause(None)
        except Gone:
            left.set()
            raise

    async def client(server: Server) -> None:
        _reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.1)
        assert not left.is_set()
        writer.close()
        await left.wait()

    serving(handler, client)


def test_leaving_the_block_ends_stalled_answers_at_once() -> None:
    async def handler(_request: Request, reply: Reply) -> None:
        await reply.pause(None)

    async def client(server: Server) -> None:
        _reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.1)

    began = time.monotonic()
    serving(handler, client)
    assert time.monotonic() - began < 30


def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    async def client(_server: Server) -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        serving(echo, client)


def test_an_error_in_a_handler_is_not_swallowed() -> None:
    async def handler(_request: Request, _reply: Reply) -> None:
        raise RuntimeError("a bug in the test")

    async def client(server: Server) -> None:
        await talk(server, b"GET / HTTP/1.1\r\n\r\n")

    with pytest.raises(BaseExceptionGroup) as caught:
        serving(handler, client)
    assert caught.group_contains(RuntimeError, match="a bug in the test")


def test_a_port_in_use_is_a_conflict() -> None:
    async def client(server: Server) -> None:
        with pytest.raises(Conflict, match="cannot listen"):
            async with Server(echo, port=server.port):
                raise AssertionError("it listens twice")

    serving(echo, client)
