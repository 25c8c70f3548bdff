"""The durable account of model calls: each line once, through kill -9, bounded, honest about losses."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from gateway_support import Home, in_loop, kill, plain
from model_rig import rig

from thopter.gateway.model import book
from thopter.gateway.model.book import Books

_ANSWER = (
    b'{"type":"message","model":"m-1","usage":{"input_tokens":5,"output_tokens":7,'
    b'"cache_creation_input_tokens":4,"cache_creation":{"ephemeral_1h_input_tokens":3}}}'
)


@in_loop
async def test_a_call_is_in_the_book_also_when_the_gateway_was_killed(place: Home) -> None:
    async with rig(place, plain(_ANSWER)) as r:
        await r.call()
        await r.last()
        (first,) = await r.client.books()
        page = await r.client.book(first, 0)
        (line,) = page["lines"]
        assert (line["run"], line["box"], line["model"]) == ("r1", "b1", "m-1")
        assert line["tokens"]["input_tokens"] == 5 and line["tokens"]["cache_1h_input_tokens"] == 3
        assert page["current"] is True
        await r.client.forget_book(first)  # it is being written
        assert list(await r.client.books()) == [first]
        await asyncio.to_thread(kill, r.pid)
        await r.client.ensure()
        page = await r.client.book(first, 0)
        assert len(page["lines"]) == 1 and page["current"] is False
        await r.attach()
        await r.call()
        await r.last()
        second = (await r.client.books())[-1]
        assert second > first and len((await r.client.book(second, 0))["lines"]) == 1
        await r.client.forget_book(first)
        assert list(await r.client.books()) == [second]


def test_a_reader_gets_each_line_once_by_its_number(tmp_path: Path) -> None:
    books = Books(tmp_path / "b")
    for n in range(25):
        books.add({"at_ms": 1, "n": n})
    (name,) = books.names()
    read, after = [], 0
    while lines := books.read(name, after, 10).lines:
        read += [line["n"] for line in lines]
        after += len(lines)
    assert read == list(range(25))
    assert books.read("../../etc/passwd", 0, 10).lines == []


def test_a_torn_last_line_is_no_line_and_a_broken_one_counts_as_one(tmp_path: Path) -> None:
    books = Books(tmp_path / "b")
    books.add({"at_ms": 1, "n": 1})
    (name,) = books.names()
    with (tmp_path / "b" / f"{name}.ndjson").open("ab") as file:
        file.write(b'{"half\n{"n":2}\n{"torn')
    assert [line.get("n") for line in Books(tmp_path / "b").read(name, 0, 10).lines] == [1, None, 2]


def test_a_full_book_is_followed_by_another_and_the_oldest_unread_is_counted_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book, "LINES", 3)
    monkeypatch.setattr(book, "BOOKS", 4)
    books = Books(tmp_path / "b")
    for n in range(18):
        books.add({"at_ms": 5, "n": n})
    names = books.names()
    assert len(names) == 4
    kept = [line["n"] for name in names for line in books.read(name, 0, 10).lines]
    lost = sum(books.read(name, 0, 0).lost for name in names)
    assert kept == list(range(18 - len(kept), 18)) and lost == 18 - len(kept) == 6


def test_a_disk_that_takes_nothing_loses_the_line_and_not_the_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    books = Books(tmp_path / "b")
    (tmp_path / "b").rmdir()
    for n in range(3):
        books.add({"at_ms": 1, "n": n})
    assert len([r for r in caplog.records if "can't be written" in r.getMessage()]) == 1
    (tmp_path / "b").mkdir()
    books.add({"at_ms": 1, "n": 3})
    assert [line["n"] for line in books.read(books.names()[0], 0, 9).lines] == [3]
