"""A box that lies: spellings, names, smuggling, forbidden addresses; beside each lie the truth works."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Any

import pytest
from egress_rig import Rig, policy, rig, rule
from gateway_support import Home, eventually, in_loop, read_reply

from battery_plugin import Count
from thopter.gateway.policy.model import EgressLimits, Policy

# Battery E1: spellings; the last column of each is what stands in the refusal.
SPELLINGS = (
    "api.example.com..", "evil.com%00.github.com", "evil.com@x.github.com", "github.com.evil.com", "127.1",
    "2130706433", "0x7f.1", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "2852039166",
    "0xA9FEA9FE", "[fd00:ec2::254]", "xn--80ak6aa92e.github.com", "-x.github.com", "a" * 64 + ".github.com",
    "169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "[fd20:ce::254]", "169.254.170.2",
)  # fmt: skip


def hello(name: bytes | None = b"localhost", *, ech: bool = False, twice: bool = False) -> bytes:
    """A ClientHello as a client would send it, but for what the test wants to be wrong."""
    extensions = b""
    if name is not None:
        entry = b"\x00" + struct.pack("!H", len(name)) + name
        listed = struct.pack("!H", len(entry) * (2 if twice else 1)) + entry * (2 if twice else 1)
        extensions += struct.pack("!HH", 0, len(listed)) + listed
    if ech:
        extensions += struct.pack("!HH", 0xFE0D, 4) + b"\x00\x00\x00\x00"
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    body += struct.pack("!H", len(extensions)) + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + struct.pack("!H", len(message)) + message


async def refused_tunnel(r: Rig, authority: str, first: bytes) -> str:
    """Send ``first`` in an allowed tunnel that must break; returns the code recorded for it."""
    reply, reader, writer = await r.connect(authority)
    assert reply.status == 200
    writer.write(first)
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(60):
            assert await reader.read() == b""
    writer.close()
    page = await r.client.log(0)
    return str([x["code"] for x in page["records"] if x["verdict"] == "deny"][-1])


@pytest.mark.battery("E1", "E6")
@in_loop
async def test_every_spelling_of_a_host_has_one_verdict_in_every_way_of_asking(
    place: Home, battery: Count
) -> None:
    async with rig(place) as r:
        good = rule("localhost", ports=(r.tls_port, r.up_port), plain=True)
        await r.attach(policy(rule("api.example.com", "*.github.com", addresses=()), good))
        for host in SPELLINGS:
            tunnel, _, writer = await r.connect(f"{host}:{r.canary_port}")
            writer.close()
            plain = await r.get(f"http://{host}:{r.canary_port}/")
            assert tunnel.status == plain.status in (400, 403), host
            assert tunnel.headers["thopter-refused"] == plain.headers["thopter-refused"], host
            assert b"thopter: " in plain.body
            assert "thopter: " in tunnel.headers[":phrase"]
            battery.tried(2, 2)
        for host in ("LOCALHOST", "localhost."):
            assert (await r.get(f"http://{host}:{r.up_port}/")).body == b"hello"
            battery.tried(0, 0, controls=1)


@pytest.mark.battery("E2")
@in_loop
async def test_an_empty_policy_reaches_nothing(place: Home) -> None:
    async with rig(place) as r:
        await r.attach(policy())
        for port in (r.canary_port, r.up_port, 80, 443):
            reply, _, writer = await r.connect(f"127.0.0.1:{port}")
            writer.close()
            assert reply.headers["thopter-refused"] == "host_unknown"
        assert r.up.connections == 0
        await r.attach(policy(rule("127.0.0.1", ports=(r.up_port,), plain=True)))
        assert (await r.get(f"http://127.0.0.1:{r.up_port}/")).status == 200


@pytest.mark.battery("E7")
@in_loop
async def test_the_tls_hello_must_name_the_tunnels_host(place: Home, battery: Count) -> None:
    async with rig(place) as r:
        at = f"localhost:{r.tls_port}"
        await r.attach(policy(rule("localhost", ports=(r.tls_port,))))
        for first, code in (
            (hello(b"evil.test"), "sni_mismatch"), (hello(b"localhost.evil.test"), "sni_mismatch"),
            (hello(b"local\0host"), "sni_mismatch"), (hello(None), "no_sni"), (hello(ech=True), "ech"),
            (hello(twice=True), "not_tls"), (b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", "not_tls"),
            (b"SSH-2.0-x\r\n", "not_tls"), (b"\x16\x03\x01\xff\xff" + bytes(100), "not_tls"),
            (b"\x16\x02\x01\x00\x10" + bytes(100), "not_tls"),
        ):  # fmt: skip
            assert await refused_tunnel(r, at, first) == code
            battery.tried(1, 1)
        battery.tried(0, 0, controls=1, canary=len(r.up.asks))
        assert r.up.asks == []
        reader, writer = await r.secure(at, "localhost")
        writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert (await read_reply(reader)).body == b"hello"
        writer.close()
        await r.attach(policy(rule("localhost", ports=(r.tls_port,), ech=True)))
        reply, _reader, writer = await r.connect(at)
        assert reply.status == 200
        hidden = hello(b"localhost.", ech=True)  # allowed by this rule's own word
        writer.write(hidden)
        await writer.drain()
        writer.write_eof()  # what follows is up to the server; a tunnel is recorded when it ends
        writer.close()
        await r.records(1, verdict="allow", sent=len(hidden))


@pytest.mark.battery("E7")
@in_loop
async def test_an_address_has_no_name_in_its_hello(place: Home) -> None:
    async with rig(place) as r:
        await r.attach(policy(rule("127.0.0.1", ports=(r.tls_port,))))
        reader, writer = await r.secure(f"127.0.0.1:{r.tls_port}", "127.0.0.1")
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await read_reply(reader)).status == 200
        writer.close()
        assert await refused_tunnel(r, f"127.0.0.1:{r.tls_port}", hello(b"localhost")) == "sni_mismatch"


@pytest.mark.battery("E7")
@in_loop
async def test_host_header_and_target_must_be_one_place(place: Home) -> None:
    async with rig(place) as r:
        await r.attach(
            policy(
                rule("127.0.0.1", ports=(r.up_port,), plain=True),
                rule("localhost", ports=(r.tls_port,), inspect=True),
            )
        )
        url, own = f"http://127.0.0.1:{r.up_port}/", f"127.0.0.1:{r.up_port}"
        for host in (
            "evil.test",
            f"127.0.0.1:{r.up_port + 1}",
            "127.0.0.1",
            f"{own}@x",
            "",
            f"{own}, evil.test",
        ):
            reply = await r.raw(f"GET {url} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
            assert (reply.status, reply.headers["thopter-refused"]) == (400, "host_mismatch"), host
        reply, _, writer = await r.connect(own, host="evil.test:443")
        assert reply.headers["thopter-refused"] == "host_mismatch"
        writer.close()
        for inner in ("evil.test", "localhost", f"localhost:{r.tls_port}.evil.test"):
            reader, writer = await r.secure(f"localhost:{r.tls_port}", "localhost")
            writer.write(f"GET / HTTP/1.1\r\nhost: {inner}\r\n\r\n".encode())
            assert (await read_reply(reader)).headers["thopter-refused"] == "host_mismatch"
            writer.close()
        assert r.up.asks == []
        assert (await r.get(url, "GET", "0x7f.1:%d" % r.up_port)).body == b"hello"  # noqa: UP031 - one place, spelt oddly


@pytest.mark.battery("E8")
@pytest.mark.parametrize(
    "wire",
    [
        b"GET http://@/ HTTP/1.1\r\nhost: @\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST http://@/ HTTP/1.1\r\nhost: @\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",  # noqa: E501
        b"POST http://@/ HTTP/1.1\r\nhost: @\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST http://@/ HTTP/1.1\r\nhost: @\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST http://@/ HTTP/1.1\r\nhost: @\r\ntransfer-encoding: chunked\r\n\r\n1;x=y\r\na\r\n0\r\n\r\n",
        b"POST http://@/ HTTP/1.1\r\nhost: @\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: y\r\n\r\n",
        b"POST http://@/ HTTP/1.1\r\nhost: @\r\ncontent-length: +5\r\n\r\nhello",
        b"GET http://@/ HTTP/1.1\r\nhost: @\r\nx: a\r\n b\r\n\r\n",
        b"GET http://@/ HTTP/1.1\nhost: @\n\n",
        b"GET http://@/ HTTP/1.1\r\nhost: @\r\nx: a\x00b\r\n\r\n",
        b"GET http://@/ HTTP/1.1\r\nhost : @\r\n\r\n",
        b"GET http://@/ HTTP/1.1\r\nhost: @\r\nhost: evil.test\r\n\r\n",
        b"GET http://@/ HTTP/1.1\r\n\r\n",
        b"GET http://@/ HTTP/2.0\r\nhost: @\r\n\r\n",
        b"GET  http://@/ HTTP/1.1\r\nhost: @\r\n\r\n",
        b"GET http://u:p@@/ HTTP/1.1\r\nhost: @\r\n\r\n",
        b"GET https://@/ HTTP/1.1\r\nhost: @\r\n\r\n",
        b"GET gopher://@/ HTTP/1.1\r\nhost: @\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: @\r\n\r\n",
        b"GET http://@/\x80 HTTP/1.1\r\nhost: @\r\n\r\n",
        b"CONNECT / HTTP/1.1\r\nhost: @\r\n\r\n",
        b"CONNECT @ HTTP/1.1\r\nhost: @\r\ncontent-length: 3\r\n\r\nabc",
        b"GET http://@/ HTTP/1.1\r\nhost: @\r\nx: " + b"a" * 40000 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x05\x01\x00",  # SOCKS
        b"\x16\x03\x01\x00\x05hello",
    ],
    ids=str,
)
@in_loop
async def test_what_could_be_read_in_two_ways_goes_nowhere(place: Home, wire: bytes) -> None:
    async with rig(place) as r:
        await r.attach(policy(rule("127.0.0.1", ports=(r.up_port,), plain=True)))
        own = f"127.0.0.1:{r.up_port}".encode()
        reader, writer = await r.open()
        again = b"GET http://" + own + b"/smuggled HTTP/1.1\r\nhost: " + own + b"\r\n\r\n"
        writer.write(wire.replace(b"@", own) + again)
        writer.write_eof()
        answer = b""
        with contextlib.suppress(ConnectionError):  # what it did not read makes the end a reset
            async with asyncio.timeout(60):
                answer = await reader.read()
        writer.close()
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")) or answer == b""
        assert answer.count(b"HTTP/1.1 ") <= 1
        assert all(a.target != "/smuggled" for a in r.up.asks)
        assert (await r.get(f"http://127.0.0.1:{r.up_port}/truth")).status == 200
        assert [a.target for a in r.up.asks][-1] == "/truth"


@pytest.mark.battery("E5", "E6")
@in_loop
async def test_addresses_that_are_not_public_are_never_dialled(place: Home) -> None:
    async with rig(place) as r:
        here = socket.gethostbyname(socket.gethostname())
        hosts = ["127.0.0.1", "localhost", "10.255.255.1", "169.254.169.254", "100.64.0.1", here]
        hosts += ["::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1", "fd00::1", "fe80::1", "::"]
        patterns = {h: "127.0.0.1" if h == "::ffff:127.0.0.1" else h for h in hosts}
        await r.attach(policy(*(rule(p, ports=(r.canary_port,), addresses=()) for p in patterns.values())))
        for host in hosts:
            spelt = f"[{host}]" if ":" in host else host
            reply, _, writer = await r.connect(f"{spelt}:{r.canary_port}")
            writer.close()
            assert (reply.status, reply.headers["thopter-refused"]) == (403, "address"), host
        await r.attach(policy(rule("localhost", ports=(r.up_port,), plain=True)))
        assert (await r.get(f"http://localhost:{r.up_port}/")).body == b"hello"


@pytest.mark.battery("E6", "E13")
@in_loop
async def test_a_redirect_is_the_boxs_own_affair_and_following_it_is_judged(place: Home) -> None:
    async def answer(ask: Any, writer: asyncio.StreamWriter) -> None:
        to = b"location: http://169.254.169.254/latest/meta-data\r\n"
        writer.write(b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n" + to + b"\r\n")

    async with rig(place, answer) as r:
        await r.attach(policy(rule("127.0.0.1", ports=(r.up_port,), plain=True)))
        reply = await r.get(f"http://127.0.0.1:{r.up_port}/")
        assert reply.status == 302
        assert (await r.get(reply.headers["location"])).headers["thopter-refused"] == "host_unknown"


@in_loop
async def test_a_wrong_upstream_is_told_apart_from_policy(place: Home) -> None:
    async with rig(place) as r:
        other = r.authority.server("other.test")
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=other)
        port = server.sockets[0].getsockname()[1]
        free = socket.socket()
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
        await r.attach(policy(rule("localhost", ports=(port, closed), inspect=True, plain=True)))
        reader, writer = await r.secure(f"localhost:{port}", "localhost")
        writer.write(f"GET / HTTP/1.1\r\nhost: localhost:{port}\r\n\r\n".encode())
        reply = await read_reply(reader)
        assert (reply.status, reply.headers["thopter-refused"]) == (502, "upstream_tls")
        assert b"certificate is not trusted" in reply.body
        reply = await r.get(f"http://localhost:{closed}/")
        assert (reply.status, reply.headers["thopter-refused"]) == (502, "connect")
        writer.close()
        server.close()
        free.close()


@pytest.mark.battery("E8")
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nx: a\r\n b: c\r\n\r\n", b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: \x01\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70000,
    ],
    ids=lambda a: repr(a[:60]),
)  # fmt: skip
@in_loop
async def test_an_answer_that_could_be_read_in_two_ways_does_not_reach_the_box(
    place: Home, answer: bytes
) -> None:
    async def say(ask: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with rig(place, say) as r:
        await r.attach(policy(rule("127.0.0.1", ports=(r.up_port,), plain=True)))
        reply = await r.get(f"http://127.0.0.1:{r.up_port}/")
        assert (reply.status, reply.headers["thopter-refused"]) == (502, "upstream")


@pytest.mark.battery("E17")
@in_loop
async def test_many_idle_and_slow_clients_cost_only_their_own_box(place: Home) -> None:
    async with rig(place) as r:
        slow = policy(rule("127.0.0.1", ports=(r.up_port,), plain=True, tls=False))
        tight = Policy(
            **{f: getattr(slow, f) for f in slow.__struct_fields__} | {"limits": EgressLimits(connections=8)}
        )
        await r.attach(tight)
        clients = [await r.open() for _ in range(60)]
        for _, writer in clients[:30]:
            writer.write(b"GET http://127")
        listed = await eventually(lambda: _connections(r, 8))
        assert listed == 8
        from gateway_support import listener, port_of

        other = listener()
        import msgspec

        await r.client.attach("b2", other, policy=msgspec.to_builtins(tight), run="r2", name="dory", ca=None)
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(other))
        own = f"127.0.0.1:{r.up_port}"
        writer.write(f"GET http://{own}/ HTTP/1.1\r\nhost: {own}\r\n\r\n".encode())
        async with asyncio.timeout(30):
            assert (await read_reply(reader)).body == b"hello"
        writer.close()
        other.close()
        for _, w in clients:
            w.close()


async def _connections(r: Rig, wanted: int) -> int:
    found = (await r.client.list())["b1"]["connections"]
    return found if found >= wanted else 0


@pytest.mark.battery("E9")
@in_loop
async def test_a_relay_in_the_box_gets_the_same_verdict(place: Home) -> None:
    async with rig(place) as r:
        await r.attach(policy(rule("127.0.0.1", ports=(r.up_port,), plain=True)))

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            up_reader, up_writer = await r.open()
            up_writer.write(await reader.readuntil(b"\r\n\r\n"))
            writer.write(await up_reader.readuntil(b"\r\n\r\n"))
            up_writer.close()
            writer.close()

        server = await asyncio.start_server(relay, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        for target, status in ((f"evil.test:{r.canary_port}", 403), (f"127.0.0.1:{r.up_port}", 200)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(f"HTTP/1.1 {status} ".encode())
            writer.close()
        server.close()
