"""Secrets that the egress gateway adds: they go to their own host only, and never come back."""

from __future__ import annotations

import asyncio
import base64
import gzip
import secrets
from typing import Any

import msgspec
import pytest
from egress_rig import Rig, policy, rig, rule
from gateway_support import Answer, Ask, Home, Reply, in_loop, read_reply, upstream
from hypothesis import given, settings
from hypothesis import strategies as st

from thopter.gateway.egress.mask import Mask, spellings
from thopter.gateway.policy.decide import decide
from thopter.gateway.policy.model import Allow, Credential, Policy, Request


def bound(r: Rig, form: str = "Bearer {}", header: str = "authorization", **more: Any) -> Policy:
    """A policy in which secret ``s`` is bound to localhost, and 127.0.0.1 may be reached without it."""
    with_it = rule("localhost", ports=(r.tls_port,), credential="c", inspect=True, **more)
    without = rule("127.0.0.1", ports=(r.tls_port,), inspect=True)
    credential = Credential(name="c", secret="s.name", hosts=("localhost",), header=header, format=form)
    return msgspec.structs.replace(policy(with_it, without), credentials=(credential,))


def canary() -> str:
    return "cnry_" + secrets.token_urlsafe(24)


async def ask(
    r: Rig, head: str, *lines: str, name: str = "localhost", body: bytes = b""
) -> tuple[Reply, asyncio.StreamReader, asyncio.StreamWriter]:
    """One request in an opened tunnel."""
    reader, writer = await r.secure(f"{name}:{r.tls_port}", name)
    more = [f"content-length: {len(body)}"] if body else []
    text = "\r\n".join([f"{head} HTTP/1.1", f"host: {name}:{r.tls_port}", *lines, *more])
    writer.write(text.encode("latin-1") + b"\r\n\r\n" + body)
    async with asyncio.timeout(60):
        return await read_reply(reader), reader, writer


def echo(*headers: str, chunk: int = 0, code: str = "identity") -> Answer:
    """An upstream that answers with everything it was sent."""

    async def answer(asked: Ask, writer: asyncio.StreamWriter) -> None:
        body = asked.raw + (gzip.compress(asked.raw) if code == "gzip" else b"")
        given = asked.header("authorization") or ""
        lines = ["HTTP/1.1 200 OK", f"x-echo: got {given}", *headers]
        if code != "identity":
            lines.append(f"content-encoding: {code}")
        if not chunk:
            writer.write(("\r\n".join([*lines, f"content-length: {len(body)}"]) + "\r\n\r\n").encode() + body)
            return
        writer.write(("\r\n".join([*lines, "transfer-encoding: chunked"]) + "\r\n\r\n").encode())
        for at in range(0, len(body), chunk):
            piece = body[at : at + chunk]
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    return answer


def whole(reply: Reply) -> str:
    return str(reply.headers) + reply.body.decode("latin-1")


@pytest.mark.battery("E11")
@in_loop
@pytest.mark.parametrize("chunk", [0, 1, 7])
async def test_what_repeats_the_secret_is_masked_byte_for_byte(place: Home, chunk: int) -> None:
    secret = canary()
    async with rig(place, echo(chunk=chunk)) as r:
        await r.attach(bound(r), secrets={"c": secret})
        reply, _, writer = await ask(r, "GET /x", "authorization: Bearer mine", "accept-encoding: gzip, br")
        assert reply.status == 200
        assert r.up.asks[0].header("authorization") == f"Bearer {secret}", "the control: it got there"
        assert r.up.asks[0].header("accept-encoding") == "identity"
        said = whole(reply)
        loose = secret[4:]  # a far side that sends single bytes gets the first ones through
        assert secret not in said and loose not in said and "*" * len(loose) in said
        if chunk != 1:
            assert secret[:5] not in said
        assert b"mine" not in r.up.asks[0].raw
        writer.close()


@in_loop
async def test_an_answer_that_is_encoded_unasked_is_refused_where_a_secret_went_out(place: Home) -> None:
    async with rig(place, echo(code="gzip")) as r:
        await r.attach(bound(r), secrets={"c": canary()})
        reply, _, writer = await ask(r, "GET /x")
        assert (reply.status, reply.headers["thopter-refused"]) == (502, "upstream")
        assert b"encodes its answer" in reply.body
        writer.close()
        free, _, writer = await ask(r, "GET /x", name="127.0.0.1")
        assert (free.status, free.headers["content-encoding"]) == (200, "gzip"), "elsewhere it may"
        writer.close()


@pytest.mark.battery("E11", "E13")
@in_loop
async def test_the_secret_goes_to_its_own_host_and_follows_no_redirect(place: Home) -> None:
    secret = canary()
    async with rig(place) as r:
        where = "https://127.0.0.1/taken"

        async def answer(asked: Ask, writer: asyncio.StreamWriter) -> None:
            if asked.target == "/start":
                writer.write(f"HTTP/1.1 302 Found\r\nlocation: {where}\r\ncontent-length: 0\r\n\r\n".encode())
            else:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

        async with upstream(answer, ssl=r.authority.server("localhost", "127.0.0.1")) as (up, port):
            r.tls_port = port
            await r.attach(bound(r), secrets={"c": secret})
            reply, _, writer = await ask(r, "GET /start")
            assert reply.status == 302
            writer.close()
            followed, _, writer = await ask(
                r, "GET /taken", "authorization: Bearer placeholder", name="127.0.0.1"
            )
            assert followed.status == 200
            writer.close()
            assert [a.target for a in up.asks] == ["/start", "/taken"]
            assert secret in up.asks[0].raw.decode() and secret not in up.asks[1].raw.decode()
            assert b"placeholder" not in up.asks[1].raw


@pytest.mark.battery("E10")
@in_loop
async def test_a_box_can_bring_no_credential_of_its_own_past_an_added_one(place: Home) -> None:
    secret = canary()
    async with rig(place) as r:
        await r.attach(bound(r, "token {}", "private-token"), secrets={"c": secret})
        own = [f"{n}: attackers" for n in (
            "authorization", "cookie", "x-api-key", "private-token", "x-goog-api-key", "job-token",
            "x-amz-security-token", "x-http-method-override", "range",
        )]  # fmt: skip
        reply, _, writer = await ask(r, "POST /x?page_token=3", *own, body=b"{}")
        assert reply.status == 200
        assert r.up.asks[0].header("private-token") == f"token {secret}"
        assert b"attackers" not in r.up.asks[0].raw
        writer.close()
        for query in ("access_token=x", "a=1&ACCESS_TOKEN=x", "a=1;private_token=x", "api%5Fkey=x"):
            refused, _, writer = await ask(r, f"GET /x?{query}")
            assert (refused.status, refused.headers["thopter-refused"]) == (403, "own_credential"), query
            writer.close()
        assert len(r.up.asks) == 1


@in_loop
async def test_basic_credentials_are_encoded_and_masked_in_both_forms(place: Home) -> None:
    secret = canary()
    pair = base64.b64encode(f"bot:{secret}".encode()).decode()

    async def answer(asked: Ask, writer: asyncio.StreamWriter) -> None:
        body = f"{asked.header('authorization')} {secret}".encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async with rig(place, answer) as r:
        await r.attach(bound(r, "Basic bot:{}"), secrets={"c": secret})
        reply, _, writer = await ask(r, "GET /x")
        assert r.up.asks[0].header("authorization") == f"Basic {pair}"
        assert secret not in whole(reply) and pair.rstrip("=") not in whole(reply)
        assert reply.body.startswith(b"Basic ***")
        writer.close()


@pytest.mark.battery("E11")
@in_loop
async def test_a_rotated_secret_is_used_by_the_next_request_and_a_removed_one_ends_what_uses_it(
    place: Home,
) -> None:
    first, second = canary(), canary()
    stuck = asyncio.Event()

    async def answer(asked: Ask, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
        if asked.target == "/stream":
            await writer.drain()
            stuck.set()
            await asked.until_gone()
        writer.write(b"0\r\n\r\n")

    async with rig(place, answer) as r:
        await r.attach(bound(r), secrets={"c": first})
        reply, reader, writer = await ask(r, "GET /1")
        assert reply.status == 200
        await r.attach(bound(r), secrets={"c": second})
        writer.write(f"GET /2 HTTP/1.1\r\nhost: localhost:{r.tls_port}\r\n\r\n".encode())
        assert (await read_reply(reader)).status == 200
        assert [a.header("authorization") for a in r.up.asks] == [f"Bearer {first}", f"Bearer {second}"]
        writer.write(f"GET /stream HTTP/1.1\r\nhost: localhost:{r.tls_port}\r\n\r\n".encode())
        async with asyncio.timeout(60):
            await stuck.wait()
            await r.attach(bound(r), secrets={})
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                while True:
                    await reader.readexactly(1)
        gone, _, writer = await ask(r, "GET /3")
        assert (gone.status, gone.headers["thopter-refused"]) == (502, "no_secret")
        writer.close()


@in_loop
async def test_every_use_is_recorded_by_name_and_counted_and_never_with_the_value(place: Home) -> None:
    secret = canary()
    async with rig(place) as r:
        await r.attach(bound(r), secrets={"c": secret})
        for _ in range(3):
            reply, _, writer = await ask(r, "GET /x")
            assert reply.status == 200
            writer.close()
        reply, _, writer = await ask(r, "GET /x", name="127.0.0.1")
        writer.close()
        used: list[dict[str, Any]] = []
        async with asyncio.timeout(60):
            while sum(u["count"] for u in used) < 3:
                used = await r.records(len(used) + 1, verdict="use")
        assert {(u["secret"], u["code"], u["host"], u["run"]) for u in used} == {
            ("s.name", "c", "localhost", "r1")
        }
        assert sum(u["count"] for u in used) == 3
        log = (place.state / "gateway" / "egress.log").read_text()
        assert "uses secret 's.name' on localhost" in log
        for where in (
            log,
            str(await r.client.log(0)),
            str(await r.client.list()),
            str(await r.client.usage("b1")),
        ):
            assert secret not in where


@pytest.mark.battery("E11")
@in_loop
async def test_a_credential_never_leaves_by_http_or_to_a_host_that_is_not_its_own(place: Home) -> None:
    """What the file's reader refuses is refused by the gateway as well."""
    secret = canary()
    async with rig(place) as r:
        wanted = bound(r)
        credential = msgspec.structs.replace(wanted.credentials[0], hosts=("other.test",))
        await r.attach(msgspec.structs.replace(wanted, credentials=(credential,)), secrets={"c": secret})
        reply, _, writer = await ask(r, "GET /x")
        assert (reply.status, reply.headers["thopter-refused"]) == (502, "no_secret")
        writer.close()
        plainly = rule("localhost", ports=(r.up_port,), credential="c", plain=True)
        await r.attach(msgspec.structs.replace(wanted, rules=(plainly,)), secrets={"c": secret})
        refused = await r.get(f"http://localhost:{r.up_port}/x")
        assert (refused.status, refused.headers["thopter-refused"]) == (502, "no_secret")
        await r.attach(wanted, secrets={"c": "short"})
        reply, _, writer = await ask(r, "GET /x")
        assert (reply.status, b"too short" in reply.body) == (502, True)
        writer.close()
        assert r.up.asks == []


@in_loop
async def test_a_websocket_that_repeats_the_secret_is_masked_too(place: Home) -> None:
    secret = canary()

    async def answer(asked: Ask, writer: asyncio.StreamWriter) -> None:
        assert asked.header("sec-websocket-extensions") is None
        head = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        given = (asked.header("authorization") or "").encode()
        writer.write(head + b"x-echo: " + given + b"\r\n\r\n" + b"\x81\x30" + given + b" end")
        await writer.drain()
        await asked.until_gone()

    async with rig(place, answer) as r:
        await r.attach(bound(r), secrets={"c": secret})
        reader, writer = await r.secure(f"localhost:{r.tls_port}", "localhost")
        lines = [
            "GET /ws HTTP/1.1",
            f"host: localhost:{r.tls_port}",
            "upgrade: websocket",
            "connection: Upgrade",
        ]
        lines += ["sec-websocket-key: abc", "sec-websocket-extensions: permessage-deflate"]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        async with asyncio.timeout(60):
            said = await reader.readuntil(b" end")
        assert said.startswith(b"HTTP/1.1 101") and said.count(b"*" * len(secret)) == 2
        assert secret.encode() not in said and secret.encode() in r.up.asks[0].raw
        writer.close()


def test_a_rule_with_a_credential_is_asked_before_others_of_its_rank() -> None:
    open_rule = rule("api.test", methods=("GET",), inspect=True)
    with_it = rule("api.test", credential="c", paths=("/mine/*",), inspect=True)
    wanted = policy(open_rule, with_it)
    for path, credential in (("/mine/x", "c"), ("/other", "")):
        verdict = decide(
            Request(scheme="https", host="api.test", port=443, method="GET", target=path), wanted
        )
        assert isinstance(verdict, Allow)
        assert verdict.rule.credential == credential


SECRET = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=6, max_size=40)


@pytest.mark.battery("E11")
@settings(max_examples=300, deadline=None)
@given(SECRET, st.binary(max_size=30), st.binary(max_size=30), st.lists(st.integers(0, 90), max_size=8))
def test_however_a_stream_is_cut_the_secret_does_not_get_through(
    secret: str, before: bytes, after: bytes, cuts: list[int]
) -> None:
    needles = spellings(secret, f"Bearer {secret}")
    text = before + secret.encode() + after
    mask, out, at = Mask(needles), [], 0
    for cut in [*sorted(cuts), len(text)]:
        out.append(mask.feed(text[at:cut]))
        at = max(at, cut)
    said = b"".join(out) + mask.end()
    assert len(said) == len(text)
    assert secret.encode() not in said
    assert secret.encode()[4:] not in said[len(before) : len(before) + len(secret)]
    assert said[:1] == text[:1] or said[:1] == b"*"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=30), st.binary(max_size=30), st.lists(st.integers(0, 90), max_size=8))
def test_of_a_secret_that_is_cut_only_its_first_four_bytes_can_be_seen(
    before: bytes, after: bytes, cuts: list[int]
) -> None:
    secret = b"cnry-0123456789abcdefXYZ"
    mask, out, at = Mask([secret]), [], 0
    text = before + secret + after
    for cut in [*sorted(cuts), len(text)]:
        out.append(mask.feed(text[at:cut]))
        at = max(at, cut)
    said = b"".join(out) + mask.end()
    assert said[len(before) + 4 : len(before) + len(secret)] == b"*" * (len(secret) - 4)
    assert (said[: len(before)], said[len(before) + len(secret) :]) == (before, after)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=10))
def test_a_stream_without_the_secret_passes_unchanged_and_almost_at_once(pieces: list[bytes]) -> None:
    mask = Mask(spellings("cnry-0123456789", "Bearer cnry-0123456789"))
    said = b"".join([mask.feed(p) for p in pieces])
    assert said + mask.end() == b"".join(pieces)
    assert Mask(spellings("cnry-0123456789", "x")).feed(b"it ends in cnry") == b"it ends in cnry"
    assert Mask(spellings("cnry-0123456789", "x")).feed(b"it ends in cnry-01") == b"it ends in "


@pytest.mark.battery("E11")
def test_the_usual_spellings_are_masked() -> None:
    secret = 'a/b+"c" & d'
    mask = Mask(spellings(secret, f"Bearer {secret}"))
    for spelt in ("a/b+\"c\" & d", "a%2Fb%2B%22c%22%20%26%20d", 'a/b+\\"c\\" & d', "a\\/b+\\\"c\\\" & d",
                  "a/b+&quot;c&quot; &amp; d", base64.b64encode(secret.encode()).decode()):  # fmt: skip
        assert set(mask.text(spelt).rstrip("=")) == {"*"}, spelt
