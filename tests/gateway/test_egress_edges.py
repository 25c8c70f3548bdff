"""Ways a secret or a refusal once got away at the egress gateway: another rule, a spelling, traffic."""

from __future__ import annotations

import asyncio
import base64
import json
from urllib.parse import quote

import msgspec
import pytest
from egress_rig import rig, rule
from gateway_support import Ask, Home, in_loop
from test_egress_secrets import bound, canary

from thopter.gateway.egress.ledger import Ledger, Record
from thopter.gateway.egress.mask import Mask, spellings


@in_loop
async def test_unbinding_ends_what_goes_with_the_secret_also_where_another_rule_lets_the_host_pass(
    place: Home,
) -> None:
    secret = canary()

    async def answer(asked: Ask, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
        await writer.drain()
        await asked.until_gone()

    async with rig(place, answer) as r:
        with_it = bound(r, paths=("/mine/*",))
        other = rule("localhost", ports=(r.tls_port,), methods=("GET",), inspect=True)
        both = msgspec.structs.replace(with_it, rules=(*with_it.rules, other))
        await r.attach(both, secrets={"c": secret})
        host = f"localhost:{r.tls_port}"
        reader, writer = await r.secure(host, "localhost")
        plain, plain_writer = await r.secure(host, "localhost")
        writer.write(f"GET /mine/x HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        plain_writer.write(f"GET /theirs/x HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        async with asyncio.timeout(60):
            await reader.readuntil(b"ok\r\n")
            await plain.readuntil(b"ok\r\n")
            sent = {a.target: a.header("authorization") for a in r.up.asks}
            assert sent == {"/mine/x": f"Bearer {secret}", "/theirs/x": None}
            unbound = msgspec.structs.replace(both, rules=both.rules[1:], credentials=())
            await r.attach(unbound, secrets={})
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await reader.readexactly(1)
        assert not plain.at_eof(), "what went without the secret goes on"
        writer.close()
        plain_writer.close()


# ---------------------------------------------------------------------------------- the record


def _record(verdict: str, n: int = 0, box: str = "heron") -> Record:
    more = {"deny": {"code": "host_unknown"}, "use": {"code": "c", "secret": "s"}}.get(verdict, {})
    return Record(at_ms=n, box=box, run="r", verdict=verdict, host=f"h{n}.test", port=443, **more)


@in_loop
async def test_no_amount_of_allowed_traffic_pushes_out_what_was_refused_or_went_out_with_a_secret() -> None:
    ledger = Ledger()
    ledger.add(_record("use"))
    ledger.add(_record("deny"))
    for n in range(6000):
        ledger.add(_record("allow", n))
    page = await ledger.page(0, "", 10_000, 0)
    assert [(r.seq, r.verdict) for r in page.records[:2]] == [(1, "use"), (2, "deny")]
    assert len(page.records) == 5002 and page.next == 6002
    assert page.dropped == 1000, "only the oldest of what was allowed is gone"
    assert [r.seq for r in page.records] == sorted(r.seq for r in page.records)


@in_loop
async def test_each_record_that_was_dropped_is_counted_once_however_a_reader_pages() -> None:
    ledger = Ledger()
    for n in range(3):
        ledger.add(_record("allow", n, "heron" if n % 2 else "wren"))
    whole = await ledger.page(0, "heron", 100, 0)
    assert (len(whole.records), whole.dropped, whole.next) == (1, 0, 3), "another box's is not dropped"
    ledger.add(_record("deny"))
    for n in range(6000):
        ledger.add(_record("allow", n))
    after, dropped, seen = 0, 0, 0
    while True:
        page = await ledger.page(after, "", 700, 0)
        if not page.records:
            break
        after, dropped, seen = page.next, dropped + page.dropped, seen + len(page.records)
    assert (seen, dropped, seen + dropped) == (5001, 1003, 6004)
    again = await ledger.page(after, "", 700, 0)
    assert (again.dropped, again.next) == (0, 6004)


@in_loop
async def test_no_flood_of_refusals_takes_more_than_its_ring_or_drops_one_uncounted() -> None:
    ledger = Ledger()
    ledger.add(_record("allow"))
    for n in range(15_000):
        ledger.add(_record("deny", n, f"box-{n}"))  # each of another box: none of them is folded
    page = await ledger.page(0, "", 100_000, 0)
    told = [r for r in page.records if r.verdict == "deny"]
    assert [r.box for r in told] == [f"box-{n}" for n in range(10_000, 15_000)], "the newest are there"
    assert page.records[0].verdict == "allow", "refusals push out nothing of what went out either"
    assert (page.dropped, page.next) == (10_000, 15_001)
    for n in range(10_000):
        ledger.add(_record("deny", n, "wren"))  # of one box they are, and counted
    await asyncio.sleep(0)
    page = await ledger.page(page.next, "wren", 100_000, 0)
    assert len(page.records) < 2000 and len(ledger._same) <= 2000


# ---------------------------------------------------------------------------------- spellings


@pytest.mark.parametrize("secret", ["abc/def+ghi=jkl", "a&b<c>secretvalue", "pw%with/äö&more"])
def test_a_secret_that_comes_back_in_small_percent_or_as_careful_json_is_masked(secret: str) -> None:
    mask = Mask(spellings(secret, f"Bearer {secret}"))
    small = quote(secret, safe="")
    for big in ("%2F", "%2B", "%3D", "%3C", "%3E", "%C3", "%A4", "%B6"):
        small = small.replace(big, big.lower())
    careful = json.dumps(secret)
    for letter in "&<>":
        careful = careful.replace(letter, f"\\u{ord(letter):04x}")
    for said in (small, careful[1:-1], quote(secret, safe=""), json.dumps(secret)[1:-1]):
        assert mask.text(f"x={said};") == f"x={'*' * len(said)};"


@pytest.mark.battery("E11")
@pytest.mark.parametrize(
    ("who", "said"),
    [
        ("itself", """a/b+"c" & d'<é>`x"""),
        ("a form", "a%2Fb%2B%22c%22+%26+d%27%3C%C3%A9%3E%60x"),
        ("a form in small letters", "a%2fb%2b%22c%22+%26+d%27%3c%c3%a9%3e%60x"),
        ("an address", "a%2Fb%2B%22c%22%20%26%20d%27%3C%C3%A9%3E%60x"),
        ("JSON as Python has it", r"""a/b+\"c\" & d'<\u00e9>`x"""),
        ("JSON as JavaScript has it", r"""a/b+\"c\" & d'<é>`x"""),
        ("JSON as Go has it", r"""a/b+\"c\" \u0026 d'\u003cé\u003e`x"""),
        ("JSON as PHP has it", r"""a\/b+\"c\" & d'<\u00e9>`x"""),
        ("JSON as PHP has it for HTML", r"""a\/b+\"c\" \u0026 d\u0027\u003C\u00E9\u003E`x"""),
        ("JSON as .NET has it", r"""a/b\u002B\u0022c\u0022 \u0026 d\u0027\u003C\u00E9\u003E\u0060x"""),
        ("HTML as Python has it", "a/b+&quot;c&quot; &amp; d&#x27;&lt;é&gt;`x"),
        ("HTML as Go has it", "a/b+&#34;c&#34; &amp; d&#39;&lt;é&gt;`x"),
        ("HTML as PHP has it", "a/b+&quot;c&quot; &amp; d&#039;&lt;é&gt;`x"),
        ("base64", base64.b64encode("""a/b+"c" & d'<é>`x""".encode()).decode().rstrip("=")),
        (
            "base64 in addresses",
            base64.urlsafe_b64encode("""a/b+"c" & d'<é>`x""".encode()).decode().rstrip("="),
        ),
    ],
)
def test_whoever_spells_the_secret_the_usual_way_it_is_masked_in_headers_and_streams(
    who: str, said: str
) -> None:
    secret = """a/b+"c" & d'<é>`x"""
    needles = spellings(secret, f"Bearer {secret}")
    assert Mask(needles).text(f"x={said};") == f"x={'*' * len(said.encode())};"
    stream, out = Mask(needles), b""
    for byte in f"x={said};".encode():
        out += stream.feed(bytes([byte]))
    assert stream.end() == b"" and said.encode()[4:] not in out and out.endswith(b"*;"), out
