"""The model gateway when its endpoint, its client or itself fails: plain words, bounded waits, no lies."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path

import pytest
from gateway_support import (
    Ask,
    Home,
    alive,
    ask,
    eventually,
    in_loop,
    kill,
    listener,
    plain,
    read_reply,
    request,
    sse,
    upstream,
)
from model_rig import BOX_HEADERS, rig

QUICK = {"connect_seconds": 1.0, "upstream_idle_seconds": 1.0, "body_idle_seconds": 1.0, "head_seconds": 1.0}


def message(body: bytes) -> tuple[str, str]:
    """Type and text of an error in the Messages API's shape."""
    answer = json.loads(body)
    assert answer["type"] == "error"
    return answer["error"]["type"], answer["error"]["message"]


@in_loop
async def test_an_endpoint_that_is_down_is_named_with_the_reason(place: Home) -> None:
    async with rig(place, plain(b"{}")) as r:
        with listener() as closed:
            port = closed.getsockname()[1]
        await r.attach(upstream=f"http://127.0.0.1:{port}/x")
        reply = await r.call()
        kind, text = message(reply.body)
        assert (reply.status, kind) == (502, "api_error")
        assert (
            text
            == f"thopter: the model endpoint http://127.0.0.1:{port}/x can't be reached: connection refused"
        )
        await r.attach(upstream="https://no-such-host.invalid")
        reply = await r.call()
        assert reply.status == 502 and "name can't be resolved" in message(reply.body)[1]
        usage = await r.client.usage("b1")
        assert usage["by_status"] == {"502": 2} and "can't be resolved" in usage["last_error"]["message"]


@in_loop
async def test_an_endpoint_that_takes_no_connection_is_given_up_in_time(place: Home) -> None:
    async with rig(place, plain(b"{}")) as r:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            port = full.getsockname()[1]
            fillers = [socket.socket() for _ in range(3)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            await r.attach(upstream=f"http://127.0.0.1:{port}", limits=QUICK)
            reply = await r.call()
            for filler in fillers:
                filler.close()
        kind, text = message(reply.body)
        assert (reply.status, kind) == (504, "timeout_error") and "no answer" in text


@in_loop
async def test_an_endpoint_that_takes_the_call_and_says_nothing_is_a_timeout(place: Home) -> None:
    async def silent(got: Ask, _writer: asyncio.StreamWriter) -> None:
        await got.until_gone()

    async with rig(place, silent, limits=QUICK) as r:
        reply = await r.call()
        assert reply.status == 504 and message(reply.body)[0] == "timeout_error"


HALF = sse(
    {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 3, "output_tokens": 1}}}
)[0]


@pytest.mark.parametrize("how", ["closes", "stalls", "ends neatly"])
@in_loop
async def test_half_a_stream_is_never_passed_off_as_a_whole_one(place: Home, how: str) -> None:
    async def broken(got: Ask, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        writer.write(b"%x\r\n%b\r\n" % (len(HALF), HALF))
        await writer.drain()
        if how == "stalls":
            await got.until_gone()
        if how == "ends neatly":
            writer.write(b"0\r\n\r\n")
        else:
            writer.transport.abort()

    async with rig(place, broken, limits=QUICK) as r:
        reply = await r.call()
        record = await r.last()
        assert reply.status == 200 and record["tokens"]["input_tokens"] == 3
        assert reply.whole == (how == "ends neatly")
        assert record["error"].startswith("the model endpoint")
        assert (await r.client.usage("b1"))["last_error"]["message"] == record["error"]


NONSENSE = [
    b"\x16\x03\x01\x02 hello",
    b"HTTP/9 200\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
    b"",
]


@pytest.mark.parametrize("said", NONSENSE)
@in_loop
async def test_an_endpoint_that_speaks_no_http_is_an_error_of_the_endpoint(place: Home, said: bytes) -> None:
    async def talk(_ask: Ask, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        writer.close()

    async with rig(place, talk, limits=QUICK) as r:
        reply = await r.call()
        assert reply.status == 502 and "the model endpoint" in message(reply.body)[1]


@in_loop
async def test_a_redirect_is_not_followed(place: Home) -> None:
    async with rig(place, plain(b"", "302 Found", "location: http://127.0.0.1:1/evil")) as r:
        reply = await r.call()
        assert (
            reply.status == 502 and "redirect" in message(reply.body)[1] and "location" not in reply.headers
        )
        assert len(r.up.asks) == 1


@in_loop
async def test_a_slow_client_loses_its_connection_and_nobody_elses(place: Home) -> None:
    async with rig(place, plain(b"{}"), limits=QUICK) as r:
        slow = [await asyncio.open_connection("127.0.0.1", r.port) for _ in range(3)]
        slow[0][1].write(b"POST /v1/messages HTTP/1.1\r\nHo")
        slow[1][1].write(request("POST", "/v1/messages", None, (*BOX_HEADERS, "content-length: 100")) + b"ab")
        began = time.monotonic()
        assert (await r.call()).status == 200
        assert time.monotonic() - began < 20
        async with asyncio.timeout(30):
            statuses = [(await read_reply(slow[0][0])).status, (await read_reply(slow[1][0])).status]
            assert await slow[2][0].read() == b""
        assert statuses == [408, 408]
        for _, writer in slow:
            writer.close()


@in_loop
async def test_a_client_that_does_not_read_is_given_up(place: Home) -> None:
    async def flood(_ask: Ask, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with rig(place, flood, limits={"write_stall_seconds": 1.0}) as r:
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", r.port))
            deaf.sendall(request("POST", "/v1/messages", b"{}", BOX_HEADERS))
            record = await r.last()
            assert record["error"] == "the agent closed the connection"
            status = Path(f"/proc/{r.pid}/status").read_text()
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        assert resident < 200_000, "the flood was kept in memory"


@in_loop
async def test_connections_over_a_boxs_share_wait_and_other_boxes_do_not(place: Home) -> None:
    async with rig(place, plain(b"{}"), limits={"connections": 4}) as r:
        idle = [await asyncio.open_connection("127.0.0.1", r.port) for _ in range(4)]
        await eventually(lambda: _connections(r, 4))
        with listener() as other:
            await r.client.attach("b2", other, upstream=f"http://127.0.0.1:{r.up_port}")
            assert (await ask(other.getsockname()[1], request("GET", "/v1/models"))).status == 200
        waiting = asyncio.gather(r.call())
        await asyncio.sleep(0.3)
        assert not waiting.done()
        idle[0][1].close()
        assert (await asyncio.wait_for(waiting, 30))[0].status == 200
        for _, writer in idle:
            writer.close()


async def _connections(r: object, wanted: int) -> bool:
    return (await r.client.list())["b1"]["connections"] == wanted  # type: ignore[attr-defined]


@in_loop
async def test_calls_made_while_the_gateway_is_dead_are_served_by_the_next_one(place: Home) -> None:
    async with rig(place, plain(b'{"again":1}')) as r:
        reader, writer = await asyncio.open_connection("127.0.0.1", r.port)
        writer.write(request("POST", "/v1/messages", b"1", BOX_HEADERS))
        assert (await read_reply(reader)).status == 200
        await asyncio.to_thread(kill, r.pid)
        async with asyncio.timeout(30):
            assert await reader.read() == b"", "an open connection did not end with the gateway"
        writer.close()
        asked = len(r.up.asks)
        queued = [asyncio.gather(r.call()) for _ in range(5)]  # the box's socket still listens, so these wait
        await asyncio.sleep(0.5)
        assert not any(q.done() for q in queued) and len(r.up.asks) == asked
        _client, pong = await place.start("model")
        assert pong.pid != r.pid and pong.attached == []
        await r.attach()
        for waiting in queued:
            assert (await asyncio.wait_for(waiting, 30))[0].json() == {"again": 1}
        assert (await r.client.usage("b1"))["requests"] == 5


@in_loop
async def test_with_the_listener_gone_too_a_box_is_refused_at_once(place: Home) -> None:
    async with rig(place, plain(b"{}")) as r:
        await asyncio.to_thread(kill, r.pid)
        r.door.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", r.port)
        assert not alive(r.pid)


@in_loop
async def test_a_detached_box_is_cut_off_in_the_middle_of_a_stream(place: Home) -> None:
    async def stall(got: Ask, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        await writer.drain()
        await got.until_gone()

    async with rig(place, stall) as r:
        reader, writer = await asyncio.open_connection("127.0.0.1", r.port)
        writer.write(request("POST", "/v1/messages", b"{}", BOX_HEADERS))
        await reader.readuntil(b"\r\n\r\n")
        await r.client.detach("b1")
        async with asyncio.timeout(30):
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        writer.close()
        assert (await r.last())["error"] == "the box was detached"
        await asyncio.wait_for(r.up.lost.wait(), 30)


@in_loop
async def test_an_endpoint_that_dropped_an_idle_connection_costs_no_call(place: Home) -> None:
    async def once(ask: Ask, writer: asyncio.StreamWriter) -> None:
        await plain(b"{}")(ask, writer)
        await writer.drain()
        writer.close()

    async with rig(place, once) as r:
        for _ in range(5):
            assert (await r.call()).status == 200
            await asyncio.sleep(0.05)
        assert r.up.connections == 5


async def _none(_ask: Ask, _writer: asyncio.StreamWriter) -> None:
    return None


@in_loop
async def test_stopping_ends_calls_under_way(place: Home) -> None:
    async with rig(place, _none) as r:
        waiting = asyncio.gather(r.call(), return_exceptions=True)
        await eventually(lambda: r.up.asks)
        await r.client.stop()
        found = (await asyncio.wait_for(waiting, 30))[0]
        assert isinstance(found, (ConnectionResetError, asyncio.IncompleteReadError))
        async with upstream(plain(b"{}")):
            await eventually(lambda: not alive(r.pid))
