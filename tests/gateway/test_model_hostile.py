"""Hostile clients of the model gateway: refused, or taken to the one upstream and nowhere else."""

from __future__ import annotations

import asyncio
import json

import pytest
from gateway_support import Home, ask, in_loop, plain, request
from model_rig import BOX_HEADERS, PLACEHOLDER, SECRET, rig


def raw(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


SMUGGLED = b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
CLOSE = "connection: close"
CHUNKED = "transfer-encoding: chunked"
POST = "POST /v1/messages HTTP/1.1"

REFUSED = {
    "CL.TE": raw(POST, "host: x", "content-length: 5", CHUNKED,
                 body=b"0\r\n\r\n" + SMUGGLED),
    "TE.CL": raw(POST, "host: x", CHUNKED, "content-length: 4",
                 body=b"5c\r\n" + SMUGGLED),
    "TE.TE": raw(POST, "host: x", CHUNKED,
                 "transfer-encoding: identity", body=b"0\r\n\r\n" + SMUGGLED),
    "hidden TE": raw(POST, "host: x", "transfer-encoding: \x0bchunked", body=SMUGGLED),
    "two lengths": raw(POST, "host: x", "content-length: 0", "content-length: 60",
                       body=SMUGGLED),
    "folded": raw(POST, "host: x", "content-length:", " 0", body=SMUGGLED),
    "bare LF": b"POST /v1/messages HTTP/1.1\nHost: x\nContent-Length: 0\n\n" + SMUGGLED,
    "chunk extension": raw(POST, "host: x", CHUNKED,
                           body=b"1;\n" + SMUGGLED),
    "NUL": raw(POST, "host: x", "a: b\x00c", body=SMUGGLED),
    "megabyte header": raw("GET / HTTP/1.1", "host: x", "a: " + "b" * 1_000_000),
    "absolute form": raw("GET http://127.0.0.1:CANARY/ HTTP/1.1", "host: 127.0.0.1:CANARY"),
    "absolute https": raw("POST https://127.0.0.1:CANARY/v1/messages HTTP/1.1", "host: x"),
    "CONNECT": raw("CONNECT 127.0.0.1:CANARY HTTP/1.1", "host: 127.0.0.1:CANARY"),
    "two hosts": raw("GET / HTTP/1.1", "host: a", "host: 127.0.0.1:CANARY"),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300),
    "SOCKS5": b"\x05\x01\x00",
    "files": raw("POST /v1/files HTTP/1.1", "host: x", "content-length: 0", CLOSE),
    "encoded slash": raw("POST /v1%2ffiles HTTP/1.1", "host: x", "content-length: 0", CLOSE),
    "dots": raw("POST /v1/messages/../files HTTP/1.1", "host: x", "content-length: 0", CLOSE),
    "websocket": raw(
        "GET /v1/messages HTTP/1.1", "host: x", CLOSE, "connection: upgrade", "upgrade: websocket"
    ),
    "trace": raw("TRACE /v1/messages HTTP/1.1", "host: x", CLOSE),
    "too big": raw(POST, "host: x", "content-length: 999999999999"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
@in_loop
async def test_a_request_that_is_not_plainly_allowed_gets_a_4xx_and_reaches_nobody(
    place: Home, name: str
) -> None:
    async with rig(place, plain(b"{}")) as r:
        hostile = REFUSED[name].replace(b"CANARY", str(r.canary_port).encode())
        reader, writer = await asyncio.open_connection("127.0.0.1", r.port)
        writer.write(hostile)
        async with asyncio.timeout(60):
            said = await reader.read()  # the gateway closes: nothing after it is read as a request
        writer.close()
        if said:
            status = int(said.split(b" ", 2)[1])
            assert 400 <= status < 600 and said.count(b"HTTP/1.1 ") == 1, said
            assert json.loads(said.partition(b"\r\n\r\n")[2])["type"] == "error"
        assert r.up.asks == [], "it reached the endpoint"
        assert (await r.call()).status == 200  # the control


HOSTS = [
    "evil.test",
    "127.0.0.1:CANARY",
    "localhost:CANARY",
    "[::1]",
    "169.254.169.254",
    "api.anthropic.com.",
    "",
]


@pytest.mark.parametrize("host", HOSTS)
@in_loop
async def test_whatever_the_host_header_says_the_one_endpoint_is_asked(place: Home, host: str) -> None:
    async with rig(place, plain(b"{}")) as r:
        named = host.replace("CANARY", str(r.canary_port))
        extra = (*BOX_HEADERS, f"x-forwarded-host: {named}", "connection: upgrade", "upgrade: h2c")
        reply = await ask(r.port, request("POST", "/v1/messages", b"{}", extra, host=named))
        assert reply.status == 200
        assert r.up.asks[0].header("host") == f"127.0.0.1:{r.up_port}"
        assert r.up.asks[0].header("upgrade") is None and r.up.asks[0].header("x-forwarded-host") is None


@in_loop
async def test_a_body_that_looks_like_a_request_stays_a_body(place: Home) -> None:
    async with rig(place, plain(b"{}")) as r:
        await r.call(SMUGGLED * 3)
        chunked = request("POST", "/v1/messages", None, (*BOX_HEADERS, CHUNKED))
        await ask(r.port, chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED))
        assert [(a.target, a.body) for a in r.up.asks] == [
            ("/v1/messages", SMUGGLED * 3),
            ("/v1/messages", SMUGGLED),
        ]


@in_loop
async def test_sixty_dripping_connections_leave_others_served(place: Home) -> None:
    async with rig(place, plain(b"{}"), limits={"connections": 16}) as r:
        drips = []
        for _ in range(60):
            _reader, writer = await asyncio.open_connection("127.0.0.1", r.port)
            writer.write(b"POST /v1/messages HTTP/1.1\r\n")
            drips.append(writer)
        other = await _second_box(r)
        for _ in range(20):
            for writer in drips:
                writer.write(b"a")
            assert (await ask(other, request("GET", "/v1/models"))).status == 200
        for writer in drips:
            writer.transport.abort()


async def _second_box(r: object) -> int:
    from gateway_support import listener, port_of

    door = listener()
    await r.client.attach("b2", door, upstream=f"http://127.0.0.1:{r.up_port}")  # type: ignore[attr-defined]
    port = port_of(door)
    door.close()  # the gateway has its own
    return port


@in_loop
async def test_nothing_of_a_box_shows_up_beside_the_secret(place: Home) -> None:
    async with rig(place, plain(b"{}")) as r:
        names = ["Authorization", "X-Api-Key", "X-API-KEY", "Proxy-Authorization", "Cookie", "X-Auth-Token"]
        await ask(r.port, request("POST", "/v1/messages", b"{}", tuple(f"{n}: {PLACEHOLDER}" for n in names)))
        assert PLACEHOLDER not in r.up.asks[0].raw.decode() and SECRET in r.up.asks[0].raw.decode()
