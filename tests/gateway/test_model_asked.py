"""What a call may spend is read off its body, whatever that is: too much is held rather than too little."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc

import pytest

from thopter.gateway.model.budget import Asked, at_worst, reach, read_asked
from thopter.gateway.model.meter import Meter
from thopter.gateway.model.spending import Spending
from thopter.kit.prices import rates_of, table
from thopter.model.budget import PICO, Limit, Terms, What, day_of

MODEL = "claude-sonnet-4-5"
LONGEST = 64_000
WHERE = "api.anthropic.com"
NOW = time.time_ns() // 1_000_000

UNREADABLE = {
    "nothing": b"",
    "no object": b"[]",
    "no JSON": b"no json",
    "no model": b'{"max_tokens":5}',
    "a byte order mark": b'\xef\xbb\xbf{"model":"m","max_tokens":5}',
    "UTF-16": '{"model":"m","max_tokens":5}'.encode("utf-16"),
    "not a number": b'{"model":"m","max_tokens":5,"x":NaN}',
    "a number without end": b'{"model":"m","max_tokens":' + b"9" * 5000 + b"}",
    "beyond all numbers": b'{"model":"m","max_tokens":1e999}',
    "words for a number": b'{"model":"m","max_tokens":"5"}',
    "deep nesting": b'{"model":"m","max_tokens":5,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep nesting without an end": b'{"model":"m","max_tokens":5,"x":' + b'{"y":' * 100_000,
    "half a character": b'{"model":"\\ud800","max_tokens":5}',
}
READABLE = {
    "plain": (b'{"model":"m","max_tokens":5,"stream":true}', Asked("m", 5, True)),
    "stream null": (b'{"model":"m","max_tokens":5,"stream":null}', Asked("m", 5, False)),
    "a float": (b'{"model":"m","max_tokens":5.0}', Asked("m", 5, False)),
    "nothing said": (b'{"model":"m"}', Asked("m", LONGEST, False)),
    "said null": (b'{"model":"m","max_tokens":null}', Asked("m", LONGEST, False)),
    "less than nothing": (b'{"model":"m","max_tokens":-1}', Asked("m", LONGEST, False)),
    "more than anything": (b'{"model":"m","max_tokens":1e300}', Asked("m", LONGEST, False)),
    "some depth": (
        b'{"model":"m","max_tokens":5,"x":' + b"[" * 400 + b"]" * 400 + b"}",
        Asked("m", 5, False),
    ),
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_of_a_body_that_makes_no_sense_the_longest_answer_is_held(body: bytes) -> None:
    assert read_asked(body) == Asked("", LONGEST, False)


@pytest.mark.parametrize(("body", "asked"), READABLE.values(), ids=READABLE.keys())
def test_what_an_endpoint_would_take_is_read_as_it_is_meant(body: bytes, asked: Asked) -> None:
    assert read_asked(body) == asked


def test_a_body_of_many_small_parts_is_not_taken_apart() -> None:
    """What is kept of it is what it cost to read: a million keys would hold up every other box."""
    many = b",".join(b'"%d":{"a":[0,"x"]}' % n for n in range(100_000))
    body = b'{"model":"m","max_tokens":5,' + many + b"}"
    read_asked(body)
    tracemalloc.start()
    try:
        assert read_asked(body) == Asked("m", 5, False)
        _now, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 100_000, "bytes, for a body of two million"


POINTS = {
    "an address": {"type": "image", "source": {"type": "url", "url": "https://x.test/a"}},
    "a file": {"type": "document", "source": {"type": "file", "file_id": "f"}},
    "a document": {"type": "document", "source": {"type": "base64", "data": "JVBERi0="}},
    "a search": {"type": "web_search_20250305", "name": "web_search"},
    "a page": {"type": "web_fetch_20250910", "name": "web_fetch"},
}


@pytest.mark.parametrize("part", POINTS.values(), ids=POINTS.keys())
@pytest.mark.parametrize("how", ["plain", "spaced", "hidden"])
def test_what_a_body_only_points_at_may_fill_the_whole_context(part: dict[str, str], how: str) -> None:
    said = json.dumps(part, separators=(",", ":"))
    if how == "spaced":
        said = said.replace(":", " :\n\t")
    if how == "hidden":
        said = said.replace("type", "t\\u0079pe")
    assert reach(b'{"model":"m","messages":[' + said.encode() + b"]}") == 3_000_000
    assert reach(b'{"model":"m","messages":[{"type":"text","text":"my type: url"}]}') < 100
    assert reach(b"x" * 4_000_000) == 4_000_000


def _worst(body: dict[str, object], raw: tuple[str, str] = ("", "")) -> int:
    text = json.dumps(body).replace(*raw) if raw[0] else json.dumps(body)
    found = at_worst(read_asked(text.encode()), 30_000, WHERE, NOW, table())
    assert found is not None
    return found.pico


def _asking(ttl: str) -> dict[str, object]:
    cache = {"type": "ephemeral", "ttl": ttl} if ttl else {"type": "ephemeral"}
    text = {"type": "text", "text": "x" * 3000, "cache_control": cache}
    return {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": [text]}]}


@pytest.mark.parametrize(
    ("ttl", "raw", "kind"),
    [
        ("", ("", ""), "cache_write"),
        ("5m", ("", ""), "cache_write"),
        ("1h", ("", ""), "cache_write_1h"),
        ("1h", ('"ttl": "1h"', '"ttl"\n:\t"1h"'), "cache_write_1h"),
        ("1h", ("1h", "\\u0031h"), "cache_write_1h"),
        ("1h", ("ttl", "\\u0074tl"), "cache_write_1h"),
    ],
)
def test_a_prompt_that_is_to_be_kept_for_an_hour_is_held_at_the_price_of_that(
    ttl: str, raw: tuple[str, str], kind: str
) -> None:
    rates = rates_of(MODEL, day_of(NOW), 0, table())
    assert rates is not None and rates.cache_write_1h > rates.cache_write
    dollars = (10_001 * getattr(rates, kind) + 100 * rates.output) / 1_000_000
    assert _worst(_asking(ttl), raw) == pytest.approx(dollars * PICO)


def _meters(*limits: Limit) -> list[Meter]:
    spending = Spending(None)
    spending.bind("b1", Terms(accounts=("box:b1",), limits=limits))
    return [Meter(spending, table(), "b1", "r1", WHERE, NOW) for _ in range(2)]


async def _side_by_side(bodies: bytes, what: What, most: int) -> bool:
    """Whether two such calls go out at once on such a budget."""
    one, two = _meters(Limit(account="box:b1", what=what, most=most))
    assert await one.admit(bodies) is None
    async with asyncio.TaskGroup() as group:
        second = group.create_task(two.admit(bodies))
        for _ in range(5):
            await asyncio.sleep(0)
        at_once = second.done()
        one.settle(_Nothing())
    assert second.result() is None, "it goes when the other has ended"
    return at_once


class _Nothing:
    """The answer of a call that never went out."""

    asked = answered = False
    reader = None


@pytest.mark.parametrize(
    ("part", "at_once"), [({"type": "text", "text": "x"}, True), (POINTS["a file"], False)]
)
def test_calls_that_point_at_files_go_one_at_a_time_where_two_could_be_too_much(
    part: dict[str, str], at_once: bool
) -> None:
    body = json.dumps({"model": MODEL, "max_tokens": 100, "messages": [part]}).encode()
    assert asyncio.run(_side_by_side(body, "tokens", 1_900_000)) is at_once


@pytest.mark.parametrize(("ttl", "at_once"), [("5m", True), ("1h", False)])
def test_calls_that_cache_for_an_hour_go_one_at_a_time_where_two_could_be_too_much(
    ttl: str, at_once: bool
) -> None:
    body = json.dumps(_asking(ttl)).encode()
    worst = at_worst(Asked(MODEL, 100), reach(body), WHERE, NOW, table())
    assert worst is not None
    assert asyncio.run(_side_by_side(body, "usd", int(2.2 * worst.pico))) is at_once
