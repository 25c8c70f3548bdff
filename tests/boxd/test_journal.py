"""The journal: numbers that only grow, bounded, torn lines dropped, gaps said."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from boxd_support import BoxdProcess, run, small_disk, until, wait_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thopter.boxd.journal import Cursor, Journal
from thopter.model.errors import BadInput


def everything(journal: Journal, after: int = 0, kinds: set[str] | None = None) -> list[dict[str, Any]]:
    cursor, found = Cursor(after), []
    while True:
        got = list(journal.read(cursor, kinds))
        found += got
        if cursor.after == journal.last:
            return found


def numbers(records: list[dict[str, Any]]) -> list[int]:
    """All record numbers, those in gaps too."""
    return [
        n for r in records for n in (range(r["first"], r["last"] + 1) if r["kind"] == "gap" else [r["seq"]])
    ]


def test_records_come_back_in_order_from_any_cursor(folder: Path) -> None:
    journal = Journal(str(folder / "j"), 4096, 4)
    for i in range(20):
        assert journal.append("test", i=i) == i + 1
    assert [r["i"] for r in everything(journal)] == list(range(20))
    assert [r["i"] for r in everything(journal, 15)] == list(range(15, 20))
    assert everything(journal, 20) == []


def test_numbers_go_on_after_a_restart(folder: Path) -> None:
    for i in range(5):
        journal = Journal(str(folder / "j"), 4096, 4)
        assert journal.append("test") == i + 1
        journal.close()


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_cut_anywhere_loses_only_the_torn_line(folder: Path, data: st.DataObject) -> None:
    where = folder / f"j{os.urandom(4).hex()}"
    journal = Journal(str(where), 1 << 20, 4)
    for i in range(10):
        journal.append("test", text="ü\n" * i)
    journal.close()
    (file,) = where.iterdir()
    content = file.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    file.write_bytes(content[:cut])
    whole = content[:cut].count(b"\n")
    journal = Journal(str(where), 1 << 20, 4)
    assert journal.last == whole
    assert journal.append("after") == whole + 1
    assert numbers(everything(journal)) == list(range(1, whole + 2))
    journal.close()


@given(st.lists(st.binary(max_size=40).filter(lambda b: b"\n" not in b), max_size=5))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_lines_are_gaps_and_never_an_error(folder: Path, garbage: list[bytes]) -> None:
    where = folder / f"j{os.urandom(4).hex()}"
    journal = Journal(str(where), 1 << 20, 4)
    journal.append("a")
    journal.append("spoilt")
    journal.append("b")
    journal.close()
    (file,) = where.iterdir()
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([lines[0], *garbage, lines[2]]) + b"\n")
    journal = Journal(str(where), 1 << 20, 4)
    found = everything(journal)
    assert numbers(found) == [1, 2, 3]
    assert [r["kind"] for r in found] == ["a", "gap", "b"]
    journal.close()


def test_the_journal_is_bounded_and_says_what_it_dropped(folder: Path) -> None:
    journal = Journal(str(folder / "j"), 4096, 3)
    for i in range(500):
        journal.append("test", text="x" * 100, i=i)
    sizes = [f.stat().st_size for f in (folder / "j").iterdir()]
    assert len(sizes) <= 3 and sum(sizes) <= 3 * 4096
    found = everything(journal, 10)
    assert found[0]["kind"] == "gap" and found[0]["first"] == 11 and found[0]["count"] == journal.first - 11
    assert numbers(found) == list(range(11, 501))


def test_a_reader_overtaken_by_the_bound_hears_of_the_gap(folder: Path) -> None:
    journal = Journal(str(folder / "j"), 4096, 2)
    journal.append("first")
    cursor = Cursor(0)
    reading = journal.read(cursor, None)
    assert next(reading)["seq"] == 1
    reading.close()
    for _ in range(300):
        journal.append("test", text="x" * 100)
    found = []
    while cursor.after < journal.last:
        found += list(journal.read(cursor, None))
    assert numbers(found) == list(range(2, 302)) and found[0]["kind"] == "gap"


def test_a_reader_may_stop_at_every_record_and_misses_none(folder: Path) -> None:
    journal = Journal(str(folder / "j"), 4096, 3)
    for i in range(200):
        journal.append("test", text="x" * 90, i=i)
    cursor, found = Cursor(3), []
    while cursor.after < journal.last:
        reading = journal.read(cursor, None)
        found.append(next(reading, None))
        reading.close()
    assert numbers([r for r in found if r]) == list(range(4, 201))


def test_kinds_filter_records_but_never_gaps(folder: Path) -> None:
    journal = Journal(str(folder / "j"), 4096, 2)
    for i in range(200):
        journal.append("odd" if i % 2 else "even", text="x" * 90)
    found = everything(journal, 0, {"odd"})
    assert {r["kind"] for r in found} == {"odd", "gap"}


def test_a_lost_journal_is_said_and_read_from_its_beginning(folder: Path) -> None:
    journal = Journal(str(folder / "j"), 4096, 3)
    journal.append("test")
    found = everything(journal, 900)
    assert found[0]["reset"] is True and (found[0]["first"], found[0]["last"]) == (2, 900)
    assert [r["seq"] for r in found[1:]] == [1]


def test_scan_finds_kinds_in_all_segments(folder: Path) -> None:
    journal = Journal(str(folder / "j"), 4096, 9)
    for i in range(200):
        journal.append("run.x" if i % 50 == 0 else "hook", text='"kind":"run.' * 3)
    assert [r["seq"] for r in journal.scan("run.") if r["kind"] == "run.x"] == [1, 51, 101, 151]


def test_followers_get_old_and_new_records_and_pages(boxd: BoxdProcess) -> None:
    async def go() -> None:
        async with boxd.link() as link, boxd.link() as other:
            seen: list[int] = []

            async def follow() -> None:
                async for record in link.journal(after=0, follow=True):
                    seen.append(record["seq"])
                    if record["kind"] == "run.exited":
                        return

            async with asyncio.TaskGroup() as group:
                group.create_task(follow())
                await until(lambda: seen == [1])
                await other.run_start("r", ["sh", "-c", "sleep 0.1"], None, "/tmp", settle_ms=0)
            assert seen == [1, 2, 3]
            assert [r["kind"] async for r in link.journal(kinds=["run.exited"])] == ["run.exited"]
            with pytest.raises(BadInput):
                await link.call("journal", kinds="hook")

    run(go())


@pytest.mark.root
def test_a_full_disk_makes_gaps_and_stops_nothing(folder: Path, start: Callable[..., BoxdProcess]) -> None:
    boxd = start(prelude=small_disk(folder / "var", "64k"), journal_segment=16 << 10)

    filler = folder / "var/filler"

    async def sh(script: str) -> None:
        async with boxd.link() as link:
            await link.exec(["sh", "-c", script])

    run(sh(f"cat /dev/zero > {filler}"))
    wait_for(lambda: boxd.hook("Full")[0] == 204 and "is lost" in boxd.log.read_text())
    run(sh(f"rm {filler}"))
    assert boxd.hook("Last")[0] == 204

    async def check() -> None:
        async with boxd.link() as link:
            found = [r async for r in link.journal()]
        assert numbers(found) == list(range(1, found[-1]["seq"] + 1))
        assert "gap" in {r["kind"] for r in found}
        assert found[-1]["event"] == "Last"

    run(check())
    os.kill(boxd.boxd_pid(), signal.SIGKILL)
    run(check_boot(boxd))


async def check_boot(boxd: BoxdProcess) -> None:
    async with boxd.link() as link:
        found = [r async for r in link.journal()]
    assert found[-1]["kind"] == "boot" and len({r["seq"] for r in found}) == len(found)
