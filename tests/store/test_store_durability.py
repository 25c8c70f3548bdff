"""Acknowledged is durable: kill -9, power cut, full disk; and what happens to the rest."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from store_support import box, event

from thopter.model.errors import Conflict, StorageError, StorageFull, TimedOut
from thopter.store import sqlite
from thopter.store.db import Conn, Database
from thopter.store.migrations import migrate
from thopter.store.store import Store

ROOT = pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
WRITER = Path(__file__).with_name("writer_process.py")


def _stored(path: Path) -> list[int]:
    """Every event number in the file, by an independent connection, after an integrity check."""
    conn = sqlite.connect(path)
    try:
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [seq for (seq,) in conn.execute("SELECT seq FROM events ORDER BY seq")]
    finally:
        conn.close()


def _spawn(path: Path, tasks: int, each: int) -> subprocess.Popen[bytes]:
    argv = [sys.executable, str(WRITER), str(path), str(tasks), str(each)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE)


def _read_acks(process: subprocess.Popen[bytes], count: int) -> list[int]:
    assert process.stdout is not None
    acks: list[int] = []
    for line in process.stdout:
        if line.strip().isdigit() and line.endswith(b"\n"):
            acks.append(int(line))
        if len(acks) == count or line == b"all\n":
            break
    return acks


def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    path, acked = tmp_path / "hub.db", set[int]()
    dice = random.Random(7)
    for _ in range(6):
        process = _spawn(path, 20, 0)
        try:
            acks = _read_acks(process, dice.randint(1, 3000))
            process.send_signal(signal.SIGKILL)
            assert process.stdout is not None
            rest = process.stdout.read().split(b"\n")
            acks += [int(x) for x in rest[:-1]]  # an acknowledgement cut in the middle is none
            assert acks
        finally:
            process.kill()
            process.wait(30)
            assert process.stdout is not None
            process.stdout.close()
        acked |= set(acks)
        stored = _stored(path)
        assert acked <= set(stored), "acknowledged, but not there"
        assert stored == list(range(1, len(stored) + 1)), "numbers have gaps or repeats"


@contextlib.contextmanager
def _mounted(source: str, at: Path, *options: str) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", *options, source, str(at)], check=True, capture_output=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


@pytest.mark.root
@ROOT
def test_nothing_acknowledged_is_lost_by_a_power_cut(tmp_path: Path) -> None:
    """What a copy of a mounted file system's image holds is what a disk holds after a power cut."""
    image, copy = tmp_path / "disk.img", tmp_path / "copy.img"
    with image.open("wb") as f:
        f.truncate(48 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    with _mounted(str(image), tmp_path / "disk", "-o", "loop,commit=300") as disk:
        (disk / "a").mkdir()
        process = _spawn(disk / "a" / "hub.db", 10, 30)
        try:
            acked = _read_acks(process, 300)
            assert len(acked) == 300
            # The control: the same library, told not to wait for the disk.
            control = sqlite.connect(disk / "control.db")
            control.execute("CREATE TABLE t (x INTEGER)")
            control.execute("PRAGMA synchronous = NORMAL")
            for n in range(300):
                control.execute("INSERT INTO t VALUES (?)", (n,))
            shutil.copyfile(image, copy)  # the power is cut here
            control.close()
        finally:
            process.kill()
            process.wait(30)
            assert process.stdout is not None
            process.stdout.close()
    with _mounted(str(copy), tmp_path / "after", "-o", "loop") as after:
        assert set(acked) <= set(_stored(after / "a" / "hub.db"))
        lost = sqlite.connect(after / "control.db")
        assert lost.execute("SELECT count(*) FROM t").fetchone()[0] < 300, "the cut cuts nothing"
        lost.close()


async def _fill_until_refused(store: Store) -> int:
    """Append events until the disk is full; returns the last acknowledged number."""
    for _ in range(100_000):
        try:
            await store.events.append([event(1, data={"pad": "x" * 20_000})])
        except StorageFull as e:
            assert (e.code, e.http_status) == ("storage_full", 507)
            assert "free some space" in e.hint
            return store.events.last()
    raise AssertionError("the disk never became full")


@pytest.mark.root
@ROOT
def test_a_full_disk_refuses_the_write_and_the_store_goes_on_when_there_is_room(tmp_path: Path) -> None:
    async def go(disk: Path) -> None:
        filler = disk / "filler"
        filler.write_bytes(b"x" * (2 << 20))
        store = await Store.open(disk / "hub.db")
        last = await _fill_until_refused(store)
        assert last > 10
        for _ in range(20):  # again and again, and reading works all the while
            with pytest.raises(StorageFull):
                await store.events.append([event(1, data={"pad": "x" * 20_000})])
            assert (await store.events.newest(1)).events[0].seq == last
        filler.unlink()
        assert await store.events.append([event(2)]) == [last + 1]
        await store.boxes.insert(box())
        await store.close()
        assert _stored(disk / "hub.db") == list(range(1, last + 2))

    with _mounted("none", tmp_path / "disk", "-t", "tmpfs", "-o", "size=8m") as disk:
        asyncio.run(go(disk))


@pytest.mark.root
@ROOT
def test_a_disk_with_no_room_at_all_is_said_so_at_the_start(tmp_path: Path) -> None:
    with _mounted("none", tmp_path / "disk", "-t", "tmpfs", "-o", "size=64k") as disk:
        with contextlib.suppress(OSError):
            (disk / "filler").write_bytes(b"x" * (1 << 20))
        with pytest.raises(StorageFull):
            asyncio.run(Store.open(disk / "hub.db"))


def _limited(path: Path, pages: int) -> Database:
    """A database that SQLite itself lets grow to ``pages`` pages only."""
    database = Database(path)

    def prepare(conn: Conn) -> None:
        migrate(conn)
        conn.rows(f"PRAGMA max_page_count = {pages}")

    database.prepare = prepare  # type: ignore[attr-defined]
    return database


def test_one_write_too_large_for_the_disk_does_not_take_its_neighbours_with_it(tmp_path: Path) -> None:
    async def go() -> None:
        database = _limited(tmp_path / "hub.db", 200)
        await database.open(database.prepare)  # type: ignore[attr-defined]
        store = Store(database)
        big = event(1, data={"pad": ["x" * 90_000] * 10})

        async def small(n: int) -> list[Any]:
            return await store.events.append([event(n)])

        async def large() -> str:
            try:
                await store.events.append([big])
            except StorageFull:
                return "full"
            return "stored"

        # One hop of the loop queues them all: they are one group.
        got = await asyncio.gather(*(large() if n % 10 == 5 else small(n) for n in range(100)))
        assert got.count("full") == 10
        numbers = sorted(g[0] for g in got if isinstance(g, list))
        assert numbers == list(range(1, 91))
        await store.close()
        assert _stored(tmp_path / "hub.db") == numbers

    asyncio.run(go())


def test_a_refused_write_undoes_only_itself(tmp_path: Path) -> None:
    async def go() -> None:
        store = await Store.open(tmp_path / "hub.db")

        def broken(t: Any) -> None:
            t.events.append([event(1)])
            raise ZeroDivisionError

        async def attempt(n: int) -> str:
            try:
                if n % 3 == 0:
                    await store.write(broken)
                elif n % 3 == 1:
                    await store.boxes.insert(box(n, "one-name"), event(2))
                else:
                    await store.events.append([event(3)])
            except ZeroDivisionError:
                return "broken"
            except Conflict:
                return "conflict"
            return "ok"

        got = await asyncio.gather(*(attempt(n) for n in range(90)))
        assert [got.count(x) for x in ("broken", "conflict", "ok")] == [30, 29, 31]
        events = (await store.events.read()).events
        assert sorted(e.data["n"] for e in events) == [2] + [3] * 30
        assert [e.seq for e in events] == list(range(1, 32))
        await store.close()

    asyncio.run(go())


def test_another_program_that_holds_the_database_is_waited_for_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_MS", 1500)

    async def go() -> None:
        store = await Store.open(tmp_path / "hub.db")
        other = sqlite.dbapi.connect(str(tmp_path / "hub.db"), isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, lambda: other.execute("COMMIT"))
        timer.start()
        assert await store.events.append([event()]) == [1]
        timer.join()
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TimedOut, match="locked by another program"):
            await store.events.append([event()])
        assert (await store.events.read()).upto == 1
        other.execute("COMMIT")
        other.close()
        assert await store.events.append([event()]) == [2]
        await store.close()

    asyncio.run(go())


def test_a_long_reader_holds_up_nobody_and_sees_one_moment(tmp_path: Path) -> None:
    async def go() -> None:
        store = await Store.open(tmp_path / "hub.db")
        await store.events.append([event()])
        reading, done = threading.Event(), threading.Event()

        def slow(t: Any) -> tuple[int, int]:
            before = t.events.last_seq()
            reading.set()
            done.wait(30)
            return before, t.events.last_seq()

        async with asyncio.TaskGroup() as group:
            reader = group.create_task(store.read(slow))
            await asyncio.to_thread(reading.wait, 30)
            for _ in range(50):
                await store.events.append([event()])
            done.set()
        assert reader.result() == (1, 1)
        assert await store.read(lambda t: t.events.last_seq()) == 51
        await store.close()

    asyncio.run(go())


def test_closing_commits_what_is_queued_and_then_refuses(tmp_path: Path) -> None:
    async def go() -> None:
        store = await Store.open(tmp_path / "hub.db")
        async with asyncio.TaskGroup() as group:
            writes = [group.create_task(store.events.append([event()])) for _ in range(500)]
            await asyncio.sleep(0)
            await store.close()
        assert sorted(w.result()[0] for w in writes) == list(range(1, 501))
        with pytest.raises(StorageError, match="closed"):
            await store.events.append([event()])
        with pytest.raises(StorageError, match="closed"):
            await store.events.read()
        await store.close()
        assert not (tmp_path / "hub.db-wal").exists()

    asyncio.run(go())


def test_a_caller_that_gives_up_does_not_disturb_the_writer(tmp_path: Path) -> None:
    async def go() -> None:
        store = await Store.open(tmp_path / "hub.db")
        for _ in range(20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await store.events.append([event()])
        assert len(await store.events.append([event()])) == 1
        await store.close()
        assert _stored(tmp_path / "hub.db") == list(range(1, 22))

    asyncio.run(go())


def test_more_writes_than_the_backlog_wait_their_turn(tmp_path: Path) -> None:
    async def go() -> None:
        database = Database(tmp_path / "hub.db", backlog=5)
        await database.open(lambda c: migrate(c) and None)
        store = Store(database)
        got = await asyncio.gather(*(store.events.append([event()]) for _ in range(300)))
        assert sorted(g[0] for g in got) == list(range(1, 301))
        await store.close()

    asyncio.run(go())


def test_writes_that_meet_share_one_wait_for_the_disk(tmp_path: Path) -> None:
    async def go() -> None:
        database = Database(tmp_path / "hub.db")
        await database.open(lambda c: migrate(c) and None)
        statements: list[str] = []
        await database.write(lambda c: c.raw.set_trace_callback(statements.append))
        store = Store(database)
        await asyncio.gather(*(store.events.append([event()]) for _ in range(1000)))
        await database.write(lambda c: c.raw.set_trace_callback(None))
        assert 1 <= statements.count("COMMIT") <= 50
        assert store.events.last() == 1000
        await store.close()

    asyncio.run(go())
