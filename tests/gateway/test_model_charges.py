"""What is charged when things go wrong or are out of the ordinary, and to which account."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from gateway_support import Ask, Home, ask, eventually, in_loop, listener, plain, port_of, request
from model_rig import BOX_HEADERS, Rig, rig
from test_model_budget import BODY, MODEL, answer, bind, limit, spent

from thopter.gateway.http1 import parse_head
from thopter.gateway.model.budget import Amount, Tally
from thopter.gateway.model.policy import request_headers
from thopter.gateway.model.spending import Hold, Spending
from thopter.gateway.model.upstream import Attach, parse_endpoint
from thopter.gateway.model.usage import EventReader, JsonReader, Reader, Tokens
from thopter.model.budget import Limit, Terms, What, of_day

QUICK = {"connect_seconds": 1.0, "upstream_idle_seconds": 1.0}
DAY_MS = 86_400_000


async def silent(got: Ask, _writer: asyncio.StreamWriter) -> None:
    await got.until_gone()


async def bind_quick(r: Rig, *limits: dict[str, object], port: int = 0) -> None:
    terms = {"accounts": ["run:r1"], "limits": list(limits), "endpoints": f"127.0.0.1:{r.up_port}"}
    where = {"upstream": f"http://127.0.0.1:{port}"} if port else {}
    await r.attach(terms=terms, limits=QUICK, **where)


@pytest.mark.parametrize(("stream", "least", "most"), [(False, 5000, 5100), (True, 10, 100)])
@in_loop
async def test_a_call_that_the_endpoint_lets_run_into_the_time_limit_is_charged_as_a_hang_up(
    place: Home, stream: bool, least: int, most: int
) -> None:
    async with rig(place, silent) as r:
        await bind_quick(r, limit("tokens", 100_000))
        body = json.dumps({"model": MODEL, "max_tokens": 5000, "stream": stream, "messages": []}).encode()
        assert (await r.call(body)).status == 504
        found = await spent(r)
        assert found["cut"] == 1 and least < found["tokens"] < most, found
        assert found["under_way"] == 0


@in_loop
async def test_an_endpoint_that_was_never_reached_costs_nothing(place: Home) -> None:
    async with rig(place, silent) as r:
        with listener() as shut:
            port = port_of(shut)
        await bind_quick(r, limit("tokens", 100_000), port=port)
        assert (await r.call(BODY)).status == 502
        assert (await spent(r))["tokens"] == 0


@in_loop
async def test_hanging_up_on_a_body_that_makes_no_sense_costs_the_longest_answer(place: Home) -> None:
    async with rig(place, silent) as r:
        await bind(r, limit("tokens", 10_000_000))
        for n, body in enumerate((b'\xef\xbb\xbf{"model":"m"}', b"[" * 5000), 1):
            _reader, writer = await asyncio.open_connection("127.0.0.1", r.port)
            writer.write(request("POST", "/v1/messages", body, BOX_HEADERS))
            await eventually(lambda n=n: len(r.up.asks) == n)
            writer.transport.abort()

            async def charged(n: int = n) -> bool:
                return (await spent(r))["tokens"] >= n * 64_000

            await eventually(charged)


@in_loop
async def test_one_that_was_to_look_and_may_spend_no_more_is_followed_by_another_at_once(
    place: Home,
) -> None:
    async def endpoint(got: Ask, writer: asyncio.StreamWriter) -> None:
        refused = plain(b'{"type":"error"}', "429 Too Many Requests", "retry-after: 1")
        await (refused if len(r.up.asks) == 1 else plain(answer()))(got, writer)

    async with rig(place, endpoint) as r:
        with listener() as door:
            url, auth = (
                f"http://127.0.0.1:{r.up_port}",
                {"kind": "x-api-key", "secret": "sk-real-canary-8d1f"},
            )
            await r.client.attach("b2", door, upstream=url, run="r2", auth=auth)
            assert (await r.call(BODY)).status == 429
            await bind(r, limit("usd", 10**12))
            other = BODY.replace(MODEL.encode(), b"somebody-elses-7")
            assert (await r.call(other)).status == 402, "it waited, was to look, and is not let out"
            raw = request("POST", "/v1/messages", BODY, BOX_HEADERS)
            began = time.monotonic()
            reply = await ask(port_of(door), raw)
            assert reply.status == 200 and len(r.up.asks) == 2
            assert time.monotonic() - began < 50, "not when the one that was to look is given up, in a minute"


@in_loop
async def test_bodies_that_are_kept_whole_have_a_bound_for_each_box(place: Home) -> None:
    async with rig(place, plain(answer())) as r:
        await bind(r, limit("tokens", 10**12))
        whole, part = 60 << 20, b"x" * (50 << 20)
        head = request("POST", "/v1/messages", b"", BOX_HEADERS).replace(
            b"content-length: 0", b"content-length: %d" % whole
        )
        assert b"%d" % whole in head
        opened = [await asyncio.open_connection("127.0.0.1", r.port) for _ in range(3)]

        async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
            writer.write(head)
            writer.write(part)
            return await reader.readline()

        async with asyncio.TaskGroup() as group:
            asks = {group.create_task(send(*pair)) for pair in opened}
            done, waiting = await asyncio.wait(asks, return_when=asyncio.FIRST_COMPLETED)
            assert [task.result()[:12] for task in done] == [b"HTTP/1.1 529"], "128 MiB, not 150"
            assert len(waiting) == 2
            for _reader, writer in opened:
                writer.transport.abort()

        async def room() -> bool:
            return (await r.call(BODY + b" " * (45 << 20))).status == 200

        await eventually(room)


def test_a_call_that_waited_over_midnight_is_charged_to_the_day_on_which_it_was_made() -> None:
    now = time.time_ns() // 1_000_000

    async def scene() -> Hold:
        book = Spending(None)
        daily = Limit(account="policy:p", what="turns", most=5, daily=True)
        book.bind("b", Terms(accounts=("box:b",), daily=("policy:p",), limits=(daily,)))
        hold = await book.admit("b", Amount(turns=1), now - DAY_MS, {})
        assert isinstance(hold, Hold)
        book.settle(hold, Amount(turns=1), cut=False, tool=False)
        days = {of_day("policy:p", at) for at in (now, time.time_ns() // 1_000_000)}
        assert sum(book.spent([day])[day]["turns"] for day in days) == 1
        return hold

    hold = asyncio.run(scene())
    assert of_day("policy:p", now - DAY_MS) not in hold.call.accounts


def test_a_long_pause_at_a_tool_counts_ten_minutes_at_most() -> None:
    tally, minute = Tally(), 60_000
    tally.work(0, minute, tool=True)
    tally.work(9 * minute, 10 * minute, tool=True)
    assert tally.ms == 10 * minute, "a tool of eight minutes is work"
    night = 8 * 60 * minute
    tally.work(night, night + minute, tool=True)
    assert tally.ms == 10 * minute + 11 * minute, "a question that was open over night is not"
    tally.work(night + 5 * minute, night + 5 * minute, tool=False)
    assert tally.ms == 25 * minute


USAGE = {
    "input_tokens": 100, "output_tokens": 20, "cache_read_input_tokens": 7,
    "iterations": [
        {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3_500,
         "cache_creation_input_tokens": 40, "cache_creation": {"ephemeral_1h_input_tokens": 30}},
        {"type": "advisor_message", "input_tokens": 1_000, "output_tokens": 500},
        {"type": "message", "input_tokens": 100, "output_tokens": 20},
        "no iteration",
    ],
}  # fmt: skip
BILLED = Tokens(
    input_tokens=181_100, output_tokens=4_020, cache_read_input_tokens=7, cache_creation_input_tokens=40,
    cache_1h_input_tokens=30,
)  # fmt: skip


def _plain() -> Reader:
    reader = JsonReader()
    reader.feed(json.dumps({"type": "message", "model": MODEL, "usage": USAGE}).encode())
    reader.end()
    return reader


def _streamed() -> Reader:
    reader = EventReader()
    begun = {"type": "message_start", "message": {"model": MODEL, "usage": {"input_tokens": 100}}}
    sofar = {**USAGE, "output_tokens": 3, "iterations": USAGE["iterations"][:1]}  # type: ignore[index]
    for event in (
        begun,
        {"type": "message_delta", "delta": {}, "usage": sofar},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": USAGE},
        {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 20}},
        {"type": "message_stop"},
    ):
        reader.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    return reader


@pytest.mark.parametrize("read", [_plain, _streamed])
def test_compactions_and_advisors_on_the_way_are_counted_once(read: object) -> None:
    reader: Reader = read()  # type: ignore[operator]
    assert reader.tokens == BILLED and reader.complete


def test_a_tool_call_of_endless_depth_does_not_break_the_reading() -> None:
    deep = b'{"usage":{"input_tokens":5},"content":[' + b"[" * 50_000 + b"]" * 50_000 + b"]}"
    reader, events = JsonReader(), EventReader()
    reader.feed(deep)
    reader.end()
    events.feed(b"data: " + deep + b"\n\n")
    assert not reader.tokens and not events.tokens


@pytest.mark.parametrize(
    ("what", "betas"),
    [("usd", "a-1"), ("tokens", "a-1,Fast-Mode-2026-02-01"), (None, "a-1,Fast-Mode-2026-02-01")],
)
def test_fast_mode_is_turned_off_where_a_limit_in_dollars_binds(what: What | None, betas: str) -> None:
    limits = (Limit(account="box:b", what=what, most=5),) if what else ()
    attach = Attach(box="b", upstream="https://api.test", terms=Terms(limits=limits))
    head = parse_head(
        b"POST /v1/messages HTTP/1.1\r\nhost: box\r\ncontent-length: 2\r\n"
        b"anthropic-beta: a-1, Fast-Mode-2026-02-01\r\n\r\n"
    )
    assert dict(request_headers(head, attach, parse_endpoint("https://api.test")))["anthropic-beta"] == betas
