"""The model gateway as an agent meets it: a real process, a real upstream."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from pathlib import Path

import pytest
from gateway_support import (
    Ask,
    Home,
    ask,
    eventually,
    in_loop,
    listener,
    plain,
    port_of,
    read_reply,
    request,
    sse,
    streaming,
    upstream,
)
from model_rig import BOX_HEADERS, PLACEHOLDER, SECRET, rig

START = {
    "type": "message_start",
    "message": {
        "model": "m-1",
        "usage": {"input_tokens": 11, "cache_read_input_tokens": 5, "output_tokens": 1},
    },
}
END = [{"type": "message_delta", "delta": {}, "usage": {"output_tokens": 40}}, {"type": "message_stop"}]


@in_loop
async def test_the_endpoint_gets_the_real_credential_and_never_the_boxs(place: Home) -> None:
    async with rig(place, plain(b'{"ok":1}')) as r:
        reply = await r.call(target="/v1/messages?beta=true")
        assert (reply.status, reply.json()) == (200, {"ok": 1})
        got = r.up.asks[0]
        assert (got.method, got.target, got.body) == ("POST", "/v1/messages?beta=true", b'{"model":"m"}')
        assert got.header("x-api-key") == SECRET and got.header("authorization") is None
        assert got.header("host") == f"127.0.0.1:{r.up_port}"
        assert got.header("anthropic-version") == "2023-06-01"
        assert PLACEHOLDER.encode() not in got.raw


@in_loop
async def test_a_prefix_in_the_base_url_is_kept(place: Home) -> None:
    async with rig(place, plain(b"{}")) as r:
        await r.attach(
            upstream=f"http://127.0.0.1:{r.up_port}/team/x/", auth={"kind": "bearer", "secret": SECRET}
        )
        await r.call()
        await ask(r.port, request("HEAD", "/"), head_only=True)
        assert [a.target for a in r.up.asks] == ["/team/x/v1/messages", "/team/x/"]
        assert r.up.asks[0].header("authorization") == f"Bearer {SECRET}"


@in_loop
async def test_every_event_of_a_stream_arrives_before_the_next_one_is_sent(place: Home) -> None:
    events, go = sse(START, *END), asyncio.Semaphore(0)

    async def stepwise(_ask: Ask, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for event in events:
            await go.acquire()
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async with rig(place, stepwise) as r:
        reader, writer = await asyncio.open_connection("127.0.0.1", r.port)
        writer.write(request("POST", "/v1/messages", b"{}", BOX_HEADERS))
        head = await reader.readuntil(b"\r\n\r\n")  # before any event: the agent knows that it was heard
        assert b"200 OK" in head
        for event in events:
            go.release()
            size = int(await reader.readline(), 16)
            assert (await reader.readexactly(size + 2))[:-2] == event
        assert await reader.readexactly(5) == b"0\r\n\r\n"
        writer.close()
        record = await r.last()
        assert record["tokens"] == {
            "input_tokens": 11,
            "output_tokens": 40,
            "cache_read_input_tokens": 5,
            "cache_creation_input_tokens": 0,
            "cache_1h_input_tokens": 0,
        }
        assert (record["model"], record["status"], record["run"], record["box"]) == ("m-1", 200, "r1", "b1")
        assert "error" not in record


@in_loop
async def test_a_big_body_goes_up_while_it_is_still_coming_and_arrives_whole(place: Home) -> None:
    async with rig(place, plain(b"{}")) as r:
        body = bytes(range(256)) * 20_000
        chunks = b"".join(
            b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:7], body[7:3_000_000], body[3_000_000:])
        )
        head = request("POST", "/v1/messages", None, (*BOX_HEADERS, "transfer-encoding: chunked"))
        reply = await ask(r.port, head + chunks + b"0\r\n\r\n")
        assert reply.status == 200 and r.up.asks[0].body == body
        assert (await r.call(body)).status == 200 and r.up.asks[1].body == body


@in_loop
async def test_one_connection_carries_many_calls_also_pipelined(place: Home) -> None:
    async with rig(place, plain(b"{}")) as r:
        reader, writer = await asyncio.open_connection("127.0.0.1", r.port)
        writer.write(request("POST", "/v1/messages", b"1", BOX_HEADERS) * 3)
        for _ in range(3):
            assert (await read_reply(reader)).status == 200
        writer.write(request("POST", "/v1/messages", b"2", (*BOX_HEADERS, "expect: 100-continue")))
        assert (await read_reply(reader)).status == 200
        writer.close()
        assert [a.body for a in r.up.asks] == [b"1", b"1", b"1", b"2"]
        assert r.up.connections == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("401 Unauthorized", "authentication_error"),
        ("403 Forbidden", "permission_error"),
        ("529 x", "overloaded_error"),
    ],
)
@in_loop
async def test_refusals_of_the_endpoint_pass_through_and_are_counted(
    place: Home, status: str, kind: str
) -> None:
    body = json.dumps({"type": "error", "error": {"type": kind, "message": "no"}}).encode()
    async with rig(place, plain(body, status, "set-cookie: a=b", "x-should-retry: false")) as r:
        reply = await r.call()
        assert (reply.status, reply.body) == (int(status[:3]), body)
        assert reply.headers["x-should-retry"] == "false" and "set-cookie" not in reply.headers
        usage = await r.client.usage("b1")
        assert usage["by_status"] == {status[:3]: 1} and usage["last_error"]["message"] == f"{kind}: no"
        assert (usage["last_limit"] is not None) == (status[:3] == "529")


@in_loop
async def test_a_rate_limit_is_remembered_with_the_time_to_come_back(place: Home) -> None:
    async with rig(place, plain(b'{"type":"error"}', "429 Too Many", "retry-after: 42")) as r:
        before = time.time_ns() // 1_000_000
        reply = await r.call()
        assert (reply.status, reply.headers["retry-after"]) == (429, "42")
        limit = (await r.client.usage("b1"))["last_limit"]
        assert limit["status"] == 429 and limit["retry_after_s"] == 42
        assert before + 42_000 <= limit["reset_ms"] <= before + 42_000 + 60_000
        assert (await r.last())["reset_ms"] == limit["reset_ms"]


@in_loop
async def test_a_new_credential_is_used_from_the_next_call_on_of_an_open_connection(place: Home) -> None:
    async with rig(place, plain(b"{}")) as r:
        reader, writer = await asyncio.open_connection("127.0.0.1", r.port)
        writer.write(request("POST", "/v1/messages", b"1", BOX_HEADERS))
        await read_reply(reader)
        await r.client.attach(
            "b1",
            None,
            upstream=f"http://127.0.0.1:{r.up_port}",
            auth={"kind": "bearer", "secret": "sk-second"},
        )
        writer.write(request("POST", "/v1/messages", b"2", BOX_HEADERS))
        await read_reply(reader)
        writer.close()
        assert [a.header("x-api-key") for a in r.up.asks] == [SECRET, None]
        assert r.up.asks[1].header("authorization") == "Bearer sk-second"


@in_loop
async def test_boxes_have_their_own_endpoint_credential_connections_and_account(place: Home) -> None:
    async with rig(place, plain(b'{"who":1}')) as r, upstream(plain(b'{"who":2}')) as (other, port):
        with listener() as door:
            auth = {"kind": "bearer", "secret": "sk-other"}
            await r.client.attach("b2", door, upstream=f"http://127.0.0.1:{port}", auth=auth)
            one, two = await asyncio.gather(
                r.call(), ask(port_of(door), request("POST", "/v1/messages", b"{}", BOX_HEADERS))
            )
            assert (one.json(), two.json()) == ({"who": 1}, {"who": 2})
            assert SECRET.encode() not in other.asks[0].raw and b"sk-other" not in r.up.asks[0].raw
            assert (await r.client.usage("b2"))["requests"] == 1
            assert len((await r.client.log(0, box="b2"))["records"]) == 1
            listed = await r.client.list()
            assert (
                set(listed) == {"b1", "b2"} and "sk-other" not in repr(listed) and SECRET not in repr(listed)
            )


@in_loop
async def test_tls_is_verified_and_only_then_spoken(place: Home, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    async with rig(place, plain(b"{}")) as r, upstream(plain(b'{"tls":1}'), ssl=context) as (up, port):
        await r.attach(upstream=f"https://localhost:{port}")
        refused = await r.call()
        assert refused.status == 502 and "not trusted" in refused.json()["error"]["message"]
        assert up.asks == []
        await r.attach(upstream=f"https://localhost:{port}", ca_pem=cert.read_text())
        assert (await r.call()).json() == {"tls": 1}
        await r.attach(upstream=f"https://127.0.0.1:{port}", ca_pem=cert.read_text())
        wrong_name = await r.call()
        assert wrong_name.status == 502 and len(up.asks) == 1
        await r.attach(upstream=f"https://127.0.0.1:{r.up_port}", limits={"connect_seconds": 1.0})
        no_tls = await r.call()
        assert no_tls.status in (502, 504) and r.up.asks == []


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for ``localhost``."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


@in_loop
async def test_the_secret_is_in_no_argument_environment_log_or_listing(place: Home) -> None:
    async with rig(place, plain(b"{}", "401 Unauthorized")) as r:
        await r.call()
        await r.call(target="/v1/files")
        async with upstream(plain(b"")) as (_gone, port):
            pass
        await r.attach(upstream=f"http://127.0.0.1:{port}")
        await r.call()
        seen = b"".join(p.read_bytes() for p in place.root.rglob("*") if p.is_file())
        seen += b"".join(
            Path(f"/proc/{r.pid}/{n}").read_bytes() for n in ("cmdline", "environ", "comm", "status")
        )
        seen += repr((await r.client.list(), await r.client.log(0), await r.client.usage("b1"))).encode()
        assert b"attached b1" in seen  # the control: what is searched is what was written
        assert SECRET.encode() not in seen and PLACEHOLDER.encode() not in seen


@in_loop
async def test_the_log_waits_for_the_next_record_when_asked_to(place: Home) -> None:
    async with rig(place, plain(b"{}")) as r:
        waiting = asyncio.gather(r.client.log(0, wait_ms=30_000))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await r.call()
        page = (await asyncio.wait_for(waiting, 20))[0]
        assert [x["path"] for x in page["records"]] == ["/v1/messages"]
        assert (await r.client.log(page["next"], wait_ms=50))["records"] == []


@in_loop
async def test_an_agent_that_goes_away_ends_the_call_to_the_endpoint(place: Home) -> None:
    async def stall(got: Ask, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        await writer.drain()
        await got.until_gone()

    async with rig(place, stall) as r:
        _reader, writer = await asyncio.open_connection("127.0.0.1", r.port)
        writer.write(request("POST", "/v1/messages", b"{}", BOX_HEADERS))
        await eventually(lambda: r.up.asks)
        writer.transport.abort()
        record = await r.last()
        assert record["error"] == "the agent closed the connection"
        await eventually(lambda: _in_flight(r), 30)
        await asyncio.wait_for(r.up.lost.wait(), 30)


async def _in_flight(r: object) -> bool:
    return (await r.client.list())["b1"]["in_flight"] == 0  # type: ignore[attr-defined]


@in_loop
async def test_streams_run_side_by_side(place: Home) -> None:
    async with rig(place, streaming(sse(START, *END), pause=0.2)) as r:
        began = time.monotonic()
        replies = await asyncio.gather(*(r.call() for _ in range(30)))
        assert all(x.status == 200 and x.whole for x in replies)
        assert time.monotonic() - began < 30 * 0.6 / 2, "calls were served one after the other"
        assert (await r.client.usage("b1"))["tokens"]["output_tokens"] == 30 * 40
