"""Budgets at the model gateway: exact, held against parallel calls, kill -9, evasion and a full disk."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from gateway_support import Ask, Home, ask, eventually, in_loop, kill, plain, request, sse, streaming
from model_rig import BOX_HEADERS, Rig, rig

from thopter.gateway.model.spending import Spending
from thopter.gateway.model.usage import Tokens
from thopter.model.budget import Limit, Terms

MODEL = "claude-sonnet-4-5"  # 3 USD in, 15 USD out for a million tokens
PICO = 10**12
BODY = json.dumps(
    {"model": MODEL, "max_tokens": 200, "stream": True, "messages": [{"role": "user", "content": "x" * 3000}]}
).encode()


def answer(tokens_in: int = 1000, tokens_out: int = 200) -> bytes:
    usage = {"input_tokens": tokens_in, "output_tokens": tokens_out}
    return json.dumps({"type": "message", "model": MODEL, "stop_reason": "tool_use", "usage": usage}).encode()


def limit(what: str, most: int, account: str = "run:r1", **more: Any) -> dict[str, Any]:
    return {"account": account, "what": what, "most": most, **more}


async def bind(r: Rig, *limits: dict[str, Any], daily: tuple[str, ...] = ()) -> None:
    terms = {
        "accounts": ["run:r1", "box:b1"], "daily": list(daily), "limits": list(limits), "name": "heron",
        "endpoints": f"127.0.0.1:{r.up_port}",
    }  # fmt: skip
    await r.attach(terms=terms)


async def spent(r: Rig, account: str = "run:r1") -> dict[str, int]:
    found = await r.client.call({"op": "spent", "accounts": [account]})
    return dict(found["spent"][account])


COST = 1000 * 3_000_000 + 200 * 15_000_000  # pico-dollars of one answer()


@in_loop
async def test_calls_stop_exactly_at_the_budget_and_the_answer_says_who_can_raise_it(place: Home) -> None:
    async with rig(place, plain(answer())) as r:
        await bind(r, limit("usd", 3 * COST))
        statuses = [(await r.call(BODY)).status for _ in range(3)]
        reply = await r.call(BODY)
        assert statuses == [200, 200, 200] and reply.status == 402
        error = reply.json()["error"]
        assert error["type"] == "billing_error" and reply.headers["x-should-retry"] == "false"
        assert "$0.0180 of $0.0180" in error["message"]
        assert "thopter budget heron --add" in error["message"]
        assert len(r.up.asks) == 3, "what is refused does not go out"
        found = await spent(r)
        assert (found["usd"], found["tokens"], found["turns"]) == (3 * COST, 3600, 3)
        record = await r.last()
        assert record["budget"] == "usd" and record["refused"]
        await bind(r, limit("usd", 4 * COST))
        assert [(await r.call(BODY)).status for _ in range(2)] == [200, 402]


@pytest.mark.parametrize(("what", "most", "fit"), [("tokens", 2401, 3), ("turns", 2, 2), ("tokens", 2400, 2)])
@in_loop
async def test_tokens_and_turns_are_budgets_too(place: Home, what: str, most: int, fit: int) -> None:
    async with rig(place, plain(answer())) as r:
        await bind(r, limit(what, most))
        statuses = [(await r.call(BODY)).status for _ in range(5)]
        assert statuses == [200] * fit + [402] * (5 - fit)


@in_loop
async def test_forty_calls_at_once_spend_no_more_than_one_call_over_the_budget(place: Home) -> None:
    under_way = most = 0

    async def slow(got: Ask, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.05)
        under_way -= 1
        await plain(answer())(got, writer)

    async with rig(place, slow) as r:
        await bind(r, limit("usd", int(5.5 * COST)))
        replies = await asyncio.gather(*(r.call(BODY) for _ in range(40)))
        assert sum(a.status == 200 for a in replies) == 6
        assert sum(a.status == 402 for a in replies) == 34
        assert (await spent(r))["usd"] == 6 * COST
        assert most > 1, "as long as there is room they go side by side"


@in_loop
async def test_a_budget_of_the_day_binds_all_boxes_of_a_policy_together(place: Home) -> None:
    async with rig(place, plain(answer())) as r:
        await bind(r, limit("turns", 2, "policy:p", daily=True, whose="policy p"), daily=("policy:p",))
        terms = {"accounts": ["run:r2"], "daily": ["policy:p"], "limits": [
            limit("turns", 2, "policy:p", daily=True, whose="policy p")]}  # fmt: skip
        from gateway_support import listener, port_of

        with listener() as door:
            fields = {"upstream": f"http://127.0.0.1:{r.up_port}", "run": "r2", "terms": terms}
            await r.client.attach("b2", door, **fields)
            raw = request("POST", "/v1/messages", BODY, BOX_HEADERS)
            first, second = await r.call(BODY), await ask(port_of(door), raw)
            third, fourth = await r.call(BODY), await ask(port_of(door), raw)
        assert [first.status, second.status, third.status, fourth.status] == [200, 200, 402, 402]
        assert "policy p" in third.json()["error"]["message"] and "today" in third.json()["error"]["message"]


@in_loop
async def test_money_is_not_spent_where_its_price_is_not_known(place: Home) -> None:
    async with rig(place, plain(answer())) as r:
        await bind(r, limit("usd", PICO))
        other = BODY.replace(MODEL.encode(), b"somebody-elses-7")
        reply = await r.call(other)
        assert reply.status == 402 and "price of somebody-elses-7" in reply.json()["error"]["message"]
        assert (await r.call(b"no json")).status == 402
        assert r.up.asks == []
        await bind(r, limit("tokens", 10_000))
        assert (await r.call(other)).status == 200


@in_loop
async def test_a_killed_gateway_forgets_nothing_and_charges_what_was_under_way_once(place: Home) -> None:
    start = {
        "type": "message_start",
        "message": {"model": MODEL, "usage": {"input_tokens": 700, "output_tokens": 1}},
    }
    event = sse(start)[0]

    async def stall(got: Ask, writer: asyncio.StreamWriter) -> None:
        if len(r.up.asks) < 3:
            await plain(answer())(got, writer)
            return
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + b"%x\r\n%b\r\n" % (len(event), event))
        await writer.drain()
        await got.until_gone()

    async with rig(place, stall) as r:
        await bind(r, limit("tokens", 3000))
        assert [(await r.call(BODY)).status for _ in range(2)] == [200, 200]
        reader, writer = await asyncio.open_connection("127.0.0.1", r.port)
        writer.write(request("POST", "/v1/messages", BODY, BOX_HEADERS))
        await reader.readuntil(b"message_start")
        journal = place.state / "gateway" / "model-spent.ndjson"
        await eventually(lambda: b'"p":3' in journal.read_bytes())
        await asyncio.to_thread(kill, r.pid)
        writer.close()
        place.pids.append((await r.client.ensure()).pid)
        await bind(r, limit("tokens", 3000))
        found = await spent(r)
        assert (found["tokens"], found["cut"], found["under_way"]) == (2400 + 701, 1, 0)
        assert (await r.call(BODY)).status == 402
        books = [await r.client.book(name, 0) for name in await r.client.books()]
        lines = [line for page in books for line in page["lines"]]
        assert sorted(line["tokens"]["input_tokens"] for line in lines) == [700, 1000, 1000]
        await asyncio.to_thread(kill, place.pids[-1])
        place.pids.append((await r.client.ensure()).pid)
        assert (await spent(r))["tokens"] == 3101
        again = [await r.client.book(name, 0) for name in await r.client.books()]
        assert sum(len(page["lines"]) for page in again) == 3, "counted once, however often it is read again"


@in_loop
async def test_hanging_up_before_the_end_is_not_free(place: Home) -> None:
    text = "x" * 3000
    events = sse(
        {"type": "message_start", "message": {"model": MODEL, "usage": {"input_tokens": 10}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 900}},
        {"type": "message_stop"},
    )  # fmt: skip
    async with rig(place, streaming(events, 0.2)) as r:
        await bind(r, limit("tokens", 100_000))
        reader, writer = await asyncio.open_connection("127.0.0.1", r.port)
        writer.write(request("POST", "/v1/messages", BODY, BOX_HEADERS))
        await reader.readuntil(b"text_delta")
        writer.transport.abort()
        await r.last()
        found = await spent(r)
        assert found["cut"] == 1 and 900 < found["tokens"] < 1200


@in_loop
async def test_hanging_up_on_an_answer_that_does_not_stream_costs_all_it_may_have_been(place: Home) -> None:
    async def silent(got: Ask, writer: asyncio.StreamWriter) -> None:
        await got.until_gone()

    async with rig(place, silent) as r:
        await bind(r, limit("tokens", 100_000))
        _reader, writer = await asyncio.open_connection("127.0.0.1", r.port)
        body = json.dumps({"model": MODEL, "max_tokens": 5000, "messages": []}).encode()
        writer.write(request("POST", "/v1/messages", body, BOX_HEADERS))
        await eventually(lambda: r.up.asks)
        writer.transport.abort()
        await r.last()
        found = await spent(r)
        assert found["cut"] == 1 and 5000 < found["tokens"] < 5100


@in_loop
async def test_what_the_endpoint_refuses_costs_nothing(place: Home) -> None:
    async with rig(place, plain(b'{"type":"error"}', "500 Oops")) as r:
        await bind(r, limit("turns", 1))
        assert [(await r.call(BODY)).status for _ in range(3)] == [500, 500, 500]
        assert (await spent(r))["turns"] == 0


@pytest.mark.root
@in_loop
async def test_a_full_disk_stops_calls_on_a_budget_until_it_has_room_again(place: Home) -> None:
    folder = place.state / "gateway"
    folder.mkdir(parents=True, mode=0o700)
    place.state.chmod(0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", folder], check=True)
    try:
        async with rig(place, plain(answer())) as r:
            await bind(r, limit("turns", 3))
            assert (await r.call(BODY)).status == 200
            filler = folder / "filler"
            _fill(filler)
            for _ in range(400):  # what is left of the last page is used up
                reply = await r.call(BODY)
                if reply.status != 200:
                    break
                await bind(r, limit("turns", (await spent(r))["turns"] + 3))
            assert reply.status == 503 and "can't be written" in reply.json()["error"]["message"]
            was = (await spent(r))["turns"]
            assert (await r.client.call({"op": "spent", "accounts": []}))["problem"]
            filler.unlink()
            assert (await r.call(BODY)).status == 200
            await asyncio.to_thread(kill, r.pid)
            place.pids.append((await r.client.ensure()).pid)
            assert (await spent(r))["turns"] == was + 1
            await r.client.stop()
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _fill(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            try:
                os.write(fd, b"x" * 4096)
            except OSError:
                return
    finally:
        os.close(fd)


def test_time_of_work_counts_tools_but_neither_waiting_nor_side_by_side_twice(tmp_path: Path) -> None:
    from thopter.gateway.model.budget import Tally

    tally = Tally()
    tally.work(1000, 2000, tool=True)
    tally.work(5000, 6000, tool=False)  # a tool ran for three seconds
    tally.work(9000, 9500, tool=True)  # a person was asked in between
    tally.work(9100, 9400, tool=True)  # beside it
    assert tally.ms == 5500


def test_the_journal_is_bounded_and_says_the_same_when_it_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thopter.gateway.model import spending
    from thopter.gateway.model.budget import Amount

    monkeypatch.setattr(spending, "FULL", 2000)
    path = tmp_path / "j.ndjson"

    async def work() -> None:
        book = Spending(path)
        book.bind(
            "b",
            Terms(accounts=("run:a", "box:b"), limits=(Limit(account="run:a", what="usd", most=1 << 60),)),
        )
        for n in range(100):
            hold = await book.admit("b", Amount(5, 5, 1), n, {"box": "b"})
            assert isinstance(hold, spending.Hold)
            book.note(hold, Tokens(input_tokens=1), lambda: Amount(1, 1, 1), "m", whole=True)
            book.settle(hold, Amount(3, 2, 1), cut=False, tool=False)
            book.settle(hold, Amount(3, 2, 1), cut=False, tool=False)
        assert path.stat().st_size < 4000

    asyncio.run(work())
    with path.open("ab") as file:
        file.write(b'{"c":5,"d":[9,9,9]')  # the machine died here
    found = Spending(path).spent(["run:a", "box:b"])
    assert found["run:a"]["usd"] == 300 and found["box:b"]["turns"] == 100


def test_calls_that_a_killed_gateway_left_are_put_into_a_book_once_however_often_that_is_begun(
    tmp_path: Path,
) -> None:
    from thopter.gateway.model.book import Books, bury
    from thopter.gateway.model.budget import Amount
    from thopter.gateway.model.spending import Hold

    journal = tmp_path / "j.ndjson"

    async def leave() -> None:
        book = Spending(journal)
        book.bind("b", Terms(accounts=("run:a",)))
        for whole in (True, False):
            hold = await book.admit("b", Amount(turns=1), 5_000, {"box": "b", "run": "a", "endpoint": "e"})
            assert isinstance(hold, Hold)
            book.note(hold, Tokens(input_tokens=6), lambda: Amount(6, 6, 1), "m", whole=False)
            if whole:  # said at once, though the last word was just said
                book.note(hold, Tokens(input_tokens=7), lambda: Amount(7, 7, 1), "m", whole=True)

    asyncio.run(leave())
    left = journal.read_bytes()
    for _ in range(3):  # each time it dies just before the journal says that they are in the book
        journal.write_bytes(left)
        books, spending = Books(tmp_path / "books"), Spending(journal)
        bury(spending, books)
        assert spending.spent(["run:a"])["run:a"]["tokens"] == 13 and spending.orphans
    (name,) = books.names()
    lines = books.read(name, 0, 10).lines
    assert sorted((x["status"], x["tokens"]["input_tokens"]) for x in lines) == [(0, 6), (200, 7)]
    assert Spending(journal).orphans == [] and Spending(journal).spent(["run:a"])["run:a"]["cut"] == 1
