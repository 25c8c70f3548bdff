"""The egress gateway at work: what policy allows goes out and comes back whole, and is accounted for."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import msgspec
import pytest
from egress_rig import policy, rig, rule
from gateway_support import Ask, Home, eventually, in_loop, plain, read_reply


@in_loop
async def test_plain_http_goes_out_built_anew_and_comes_back(place: Home) -> None:
    async with rig(place) as r:
        await r.attach(policy(rule("127.0.0.1", ports=(r.up_port,), plain=True)))
        reply = await r.get(
            f"http://127.0.0.1:{r.up_port}/a?b=1", "GET", "", "proxy-connection: keep-alive", "x-mine: 1",
            "connection: x-hop", "x-hop: 2", "proxy-authorization: Basic eHg=", "authorization: Bearer mine",
        )  # fmt: skip
        assert (reply.status, reply.body) == (200, b"hello")
        ask = r.up.asks[0]
        assert (ask.method, ask.target, ask.header("x-mine")) == ("GET", "/a?b=1", "1")
        assert ask.header("host") == f"127.0.0.1:{r.up_port}"
        for gone in ("x-hop", "proxy-connection", "proxy-authorization", "authorization"):
            assert ask.header(gone) is None
        record = (await r.records(1))[0]
        assert record["verdict"] == "allow"
        assert (record["host"], record["path"], record["status"]) == ("127.0.0.1", "/a", 200)
        assert record["received"] == 5
        assert (await r.client.usage("b1"))["received"] == 5


@in_loop
async def test_a_tunnel_carries_tls_that_the_gateway_does_not_open(place: Home) -> None:
    async with rig(place) as r:
        await r.attach(policy(rule("localhost", ports=(r.tls_port,))), ca=None)
        reader, writer = await r.secure(f"localhost:{r.tls_port}", "localhost", trust=r.authority.cert)
        for _ in range(3):  # keep-alive
            writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer own\r\n\r\n")
            assert (await read_reply(reader)).body == b"hello"
        assert r.up.asks[0].header("authorization") == "Bearer own"
        writer.close()
        record = (await r.records(1))[0]
        assert (record["scheme"], record["method"], record["host"]) == ("connect", "CONNECT", "localhost")
        assert record["sent"] > 500
        assert record["address"] in ("127.0.0.1", "::1")


@in_loop
async def test_where_a_rule_looks_inside_the_gateway_is_the_server_and_judges_each_request(
    place: Home,
) -> None:
    async with rig(place) as r:
        look = rule("localhost", ports=(r.tls_port,), methods=("GET",), paths=("/ok/*",), inspect=True)
        await r.attach(policy(look))
        reader, writer = await r.secure(
            f"localhost:{r.tls_port}", "localhost", trust=r.ca[0], alpn=["h2", "http/1.1"]
        )
        host = f"localhost:{r.tls_port}"
        tls: Any = writer.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "http/1.1"
        for target, method, status, code in (
            ("/ok/1", "GET", 200, None), ("/no", "GET", 403, "path"), ("/ok/2", "POST", 403, "method"),
            ("/ok/%2e%2e/no", "GET", 400, "bad_path"), ("/ok/3", "GET", 200, None),
        ):  # fmt: skip
            writer.write(f"{method} {target} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
            reply = await read_reply(reader)
            assert (reply.status, reply.headers.get("thopter-refused")) == (status, code)
        assert [a.target for a in r.up.asks] == ["/ok/1", "/ok/3"]
        assert {x["code"] for x in await r.records(3, verdict="deny")} == {"path", "method", "bad_path"}


@pytest.mark.battery("E10", "E11")
@in_loop
async def test_a_credential_is_added_where_it_belongs_and_the_boxs_own_stay_behind(place: Home) -> None:
    secret = "ghp_canary_5521"
    async with rig(place) as r:
        credential = {
            "name": "c",
            "secret": "s",
            "hosts": ["localhost"],
            "header": "authorization",
            "format": "token {}",
        }
        rules = policy(rule("localhost", ports=(r.tls_port,), credential="c", inspect=True))
        wanted = msgspec.convert(msgspec.to_builtins(rules) | {"credentials": [credential]}, type(rules))
        await r.attach(wanted, secrets={"c": secret})
        reader, writer = await r.secure(f"localhost:{r.tls_port}", "localhost")
        host = f"localhost:{r.tls_port}"
        writer.write(
            f"GET /x HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer attacker\r\ncookie: a=b\r\n"
            "x-api-key: attacker\r\nprivate-token: attacker\r\nx-other: kept\r\n\r\n".encode()
        )
        assert (await read_reply(reader)).status == 200
        ask = r.up.asks[0]
        assert ask.header("authorization") == f"token {secret}"
        assert ask.header("x-other") == "kept"
        assert b"attacker" not in ask.raw
        assert ask.header("cookie") is None
        said = str(await r.client.list()) + str(await r.client.log(0))
        said += (place.state / "gateway" / "egress.log").read_text()
        assert secret not in said
        assert r.ca[1].splitlines()[1] not in said
        await r.attach(wanted, secrets={})  # the secret is gone from the store
        writer.write(f"GET /y HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        reply = await read_reply(reader)
        assert (reply.status, reply.headers["thopter-refused"]) == (502, "no_secret")


@in_loop
async def test_bodies_of_every_kind_pass_both_ways(place: Home) -> None:
    big = os.urandom(3 << 20)

    async def echo(ask: Ask, writer: asyncio.StreamWriter) -> None:
        if ask.target == "/chunked":
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-encoding: gzip\r\n\r\n")
            for at in range(0, len(ask.body), 70000):
                piece = ask.body[at : at + 70000]
                writer.write(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece))
            writer.write(b"0\r\nx-trailer: 1\r\n\r\n")
        elif ask.target == "/close":
            writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + ask.body)
            await writer.drain()
            writer.close()
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(ask.body))
            writer.write(b"" if ask.method == "HEAD" else ask.body)

    async with rig(place, echo) as r:
        await r.attach(policy(rule("127.0.0.1", ports=(r.up_port,), plain=True)))
        base = f"http://127.0.0.1:{r.up_port}"
        for target in ("/length", "/chunked", "/close"):
            reply = await r.get(base + target, "POST", body=big)
            assert reply.whole
            assert reply.body == big, target
        reader, writer = await r.open()
        head = f"PUT {base}/chunked HTTP/1.1\r\nhost: 127.0.0.1:{r.up_port}\r\ntransfer-encoding: chunked\r\n"
        writer.write(head.encode() + b"expect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        for piece in (b"one", b"two" * 1000):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        writer.write(b"0\r\n\r\n")
        reply = await read_reply(reader)
        assert reply.body == b"one" + b"two" * 1000
        assert reply.headers["content-encoding"] == "gzip"
        writer.close()
        reply = await r.get(base + "/length", "HEAD")
        assert (reply.status, reply.headers["content-length"]) == (200, "0")


@in_loop
async def test_one_client_connection_uses_one_upstream_connection_and_survives_its_end(place: Home) -> None:
    async def answer(ask: Ask, writer: asyncio.StreamWriter) -> None:
        await plain(b"x")(ask, writer)
        if ask.target == "/last":
            await writer.drain()
            writer.close()  # without having said so

    async with rig(place, answer) as r:
        await r.attach(policy(rule("127.0.0.1", ports=(r.up_port,), plain=True)))
        reader, writer = await r.open()
        for target, connections in (("/1", 1), ("/2", 1), ("/last", 1), ("/4", 2)):
            place_ = f"127.0.0.1:{r.up_port}"
            writer.write(f"GET http://{place_}{target} HTTP/1.1\r\nhost: {place_}\r\n\r\n".encode())
            assert (await read_reply(reader)).body == b"x"
            assert r.up.connections == connections
        writer.close()


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@in_loop
async def test_websockets_pass_with_both_directions_open(place: Home, secure: bool) -> None:
    async def answer(ask: Ask, writer: asyncio.StreamWriter) -> None:
        assert ask.header("upgrade") == "websocket"
        assert ask.header("sec-websocket-key") == "abc"
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n")
        while data := await ask._reader.read(65536):
            writer.write(data.upper())

    async with rig(place, answer) as r:
        port = r.tls_port if secure else r.up_port
        await r.attach(policy(rule("localhost", ports=(port,), plain=not secure, inspect=secure)))
        ask = f"host: localhost:{port}\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-key: abc\r\n\r\n"  # noqa: E501
        if secure:
            reader, writer = await r.secure(f"localhost:{port}", "localhost")
            writer.write(f"GET /ws HTTP/1.1\r\n{ask}".encode())
        else:
            reader, writer = await r.open()
            writer.write(f"GET http://localhost:{port}/ws HTTP/1.1\r\n{ask}".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        for word in (b"one", b"two"):
            writer.write(word)
            assert await reader.readexactly(3) == word.upper()
        writer.close()


@in_loop
async def test_half_a_tunnel_may_close_before_the_other(place: Home) -> None:
    got = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()  # to the end
        writer.write(b"you said " + data)
        await writer.drain()
        writer.close()
        got.set()

    async with rig(place) as r:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        await r.attach(policy(rule("127.0.0.1", ports=(port,), tls=False)))
        reply, reader, writer = await r.connect(f"127.0.0.1:{port}")
        assert reply.status == 200
        writer.write(b"something")
        writer.write_eof()
        assert await reader.read() == b"you said something"
        assert got.is_set()
        writer.close()
        server.close()


@pytest.mark.battery("E16")
@in_loop
async def test_a_change_of_policy_ends_what_it_no_longer_allows_within_a_second(place: Home) -> None:
    async with rig(place) as r:
        both = policy(rule("localhost", ports=(r.tls_port,)), rule("127.0.0.1", ports=(r.tls_port,)))
        await r.attach(both)
        kept = await r.secure(f"127.0.0.1:{r.tls_port}", "127.0.0.1")
        cut = await r.secure(f"localhost:{r.tls_port}", "localhost")
        await r.attach(policy(both.rules[1]))
        async with asyncio.timeout(30):
            assert await cut[0].read() == b""
        kept[1].write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await read_reply(kept[0])).body == b"hello"
        assert [x["host"] for x in await r.records(1, code="policy_changed")] == ["localhost"]
        assert (await r.connect(f"localhost:{r.tls_port}"))[0].status == 403
        cut[1].close()
        kept[1].close()


@in_loop
async def test_asking_holds_the_connection_until_a_person_answers(place: Home) -> None:
    async with rig(place) as r:
        asks = policy(rule("other.test"), unknown="ask", ask_seconds=50)
        await r.attach(asks)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(r.connect(f"127.0.0.1:{r.up_port}"))
            await r.records(1, verdict="ask")
            assert not waiting.done()
            allowed = policy(*asks.rules, rule("127.0.0.1", ports=(r.up_port,), tls=False), unknown="ask")
            await r.attach(allowed)
        reply, _reader, writer = waiting.result()
        assert reply.status == 200
        writer.close()
        hasty = msgspec.structs.replace(asks, ask_seconds=0)
        await r.attach(hasty)
        reply, _, writer = await r.connect(f"127.0.0.1:{r.up_port}")
        assert (reply.status, reply.headers["thopter-refused"]) == (403, "asked")
        assert b"thopter egress allow nemo 127.0.0.1" in reply.body
        writer.close()


@in_loop
async def test_a_grant_opens_one_host_and_once_is_used_up_by_one_connection(place: Home) -> None:
    async with rig(place) as r:
        await r.attach(policy())
        target = f"127.0.0.1:{r.up_port}"
        assert (await r.connect(target))[0].headers["thopter-refused"] == "host_unknown"
        await r.client.call({"op": "once", "box": "b1", "host": "127.1", "port": r.up_port})
        # allowed by the person, but a loopback address needs the policy's own word
        assert (await r.connect(target))[0].headers["thopter-refused"] == "address"
        assert (await r.connect(target))[0].headers["thopter-refused"] == "host_unknown"
        assert [x["once"] for x in await r.records(1, code="address")] == [True]
        await r.attach(policy(), grants=[{"host": "127.0.0.1", "port": r.up_port}])
        for _ in range(2):
            assert (await r.connect(target))[0].headers["thopter-refused"] == "address"


@pytest.mark.battery("E17")
@in_loop
async def test_limits_hold_bytes_rate_and_connections(place: Home) -> None:
    from thopter.gateway.policy.model import EgressLimits

    async with rig(place, plain(b"x" * 700_000)) as r:
        allowed = rule("127.0.0.1", ports=(r.up_port,), plain=True)
        url = f"http://127.0.0.1:{r.up_port}/"
        await r.attach(policy(allowed, limits=EgressLimits(received_mb=1)))
        assert (await r.get(url)).whole
        assert not (await r.get(url)).whole  # cut in the middle
        assert (await r.records(1, code="limit"))[0]["verdict"] == "deny"
        assert (await r.get(url)).status == 429
        await r.attach(policy(allowed, limits=EgressLimits(requests_per_minute=12)))
        codes = [(await r.get(url, "HEAD")).status for _ in range(14)]
        assert codes[0] == 200
        assert codes[-1] == 429
        await r.attach(policy(allowed, limits=EgressLimits(bytes_per_second=1_000_000)))
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60):
            while (await r.get(url, "HEAD")).status == 429:  # noqa: ASYNC110 - it owes some of the last minute
                await asyncio.sleep(0.1)
        began = loop.time()
        assert (await r.get(url)).whole
        assert (await r.get(url)).whole
        assert loop.time() - began > 0.3


@in_loop
async def test_a_flood_of_refusals_is_recorded_once_and_counted(place: Home) -> None:
    async with rig(place) as r:
        await r.attach(policy())
        for _ in range(30):
            await r.connect("evil.test:443")
        first = await r.records(1, host="evil.test")
        assert first[0]["count"] == 1
        more = await r.records(2, host="evil.test")
        assert sum(x["count"] for x in more) == 30
        for n in range(80):
            await r.connect(f"e{n}.test:443")
        page = await r.client.log(0)
        assert len([x for x in page["records"] if x["host"].endswith(".test")]) < 65
        lines = (place.state / "gateway" / "egress.log").read_text().splitlines()
        assert sum("evil.test" in line for line in lines) == 2
        assert (await r.client.usage("b1"))["refused"] == 110


@in_loop
async def test_detaching_ends_everything_and_a_new_process_serves_again(place: Home) -> None:
    async with rig(place) as r:
        await r.attach(policy(rule("localhost", ports=(r.tls_port,))))
        reader, writer = await r.secure(f"localhost:{r.tls_port}", "localhost")
        await r.client.detach("b1")
        async with asyncio.timeout(30):
            assert await reader.read() == b""
        writer.close()
        await r.client.stop()
        pong = await r.client.ensure()
        place.pids.append(pong.pid)
        assert pong.attached == []
        await r.attach(policy(rule("localhost", ports=(r.tls_port,))))
        reader, writer = await r.secure(f"localhost:{r.tls_port}", "localhost")
        writer.close()


@in_loop
async def test_the_process_gave_up_what_it_does_not_need(place: Home) -> None:
    async with rig(place) as r:
        pong = await r.client.ping()
        status = await eventually(lambda: _status(pong.pid))
        if os.geteuid() == 0:
            assert "own-uid" in pong.confined
            assert status["Uid"][0] == status["Uid"][1] != "0"
            assert status["Gid"][0] != "0"
            assert status["Groups"] == []
        assert set(status["CapEff"]) == {"0" * 16}
        assert status["NoNewPrivs"] == ["1"]
        assert {"no-new-privs", "no-capabilities"} <= set(pong.confined)


def _status(pid: int) -> dict[str, list[str]]:
    with open(f"/proc/{pid}/status") as file:
        return {n: v.split() for n, _, v in (line.partition(":") for line in file)}
