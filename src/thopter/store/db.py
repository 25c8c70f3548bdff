"""One writer thread with group commit, a few reading threads, and word of what was committed.

A future of :meth:`Database.write` resolves only after its COMMIT returned at
``synchronous=FULL``: what was acknowledged survives kill -9 and a power cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

from thopter.kit.caller import HUB, caller
from thopter.model.errors import StorageError, ThopterError, TimedOut
from thopter.store import sqlite

log = logging.getLogger(__name__)
T = TypeVar("T")
Row = tuple[Any, ...]

_GROUP = 1000  # most writes in one transaction: bounds how long one commit can take
_WAIT_S = 60.0  # a disk that takes longer than this is answered with TimedOut


class Conn:
    """What a store function gets: SQL with ``?`` in, rows out, inside a transaction."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.by = HUB.name  # who asked for this write
        self.touched: dict[str, int] = {}

    def rows(self, sql: str, args: Sequence[object] = ()) -> list[Row]:
        """Run and return every row."""
        found: list[Row] = self.raw.execute(sql, args).fetchall()
        return found

    def row(self, sql: str, args: Sequence[object] = ()) -> Row | None:
        """Run and return the first row, if there is one."""
        found: Row | None = self.raw.execute(sql, args).fetchone()
        return found

    def run(self, sql: str, args: Sequence[object] = ()) -> int:
        """Run and return how many rows were changed."""
        return int(self.raw.execute(sql, args).rowcount)

    def many(self, sql: str, args: Iterable[Sequence[object]]) -> None:
        """Run once for each of ``args``."""
        self.raw.executemany(sql, args)

    def touch(self, topic: str, value: int) -> None:
        """Say that ``topic`` reaches ``value`` with this write; told to waiters once committed."""
        self.touched[topic] = value


class Topic:
    """A number that only grows; waiters wake when a commit made it grow."""

    def __init__(self) -> None:
        self.value = 0
        self._waiters: set[asyncio.Future[None]] = set()

    def reach(self, value: int) -> None:
        """Raise the number (never lowers it) and wake everybody who waits."""
        if value > self.value:
            self.value = value
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()

    async def beyond(self, value: int) -> int:
        """Wait until the number is over ``value``; return it. Bound the wait yourself."""
        while self.value <= value:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return self.value


class _Job(Generic[T]):
    __slots__ = ("by", "error", "fn", "future", "touched", "value")

    def __init__(self, fn: Callable[[Conn], T], future: asyncio.Future[T]) -> None:
        self.fn = fn
        self.future = future
        self.by = caller.get().name  # here, where the request is known; it is written by another thread
        self.value: T | None = None
        self.error: BaseException | None = None
        self.touched: dict[str, int] = {}


def _undo(raw: Any) -> None:
    """End the transaction, if SQLite has not already done so by itself."""
    if raw.in_transaction:
        raw.execute("ROLLBACK")


class _GroupLost(Exception):
    """The transaction of a whole group is gone, through no fault of most of its members."""


class Database:
    """A SQLite file shared by one hub. Open and use it from one event loop.

    Functions given to :meth:`write` and :meth:`read` run in other threads, must touch nothing but
    their connection, and may be run again when the transaction they were in was lost.
    """

    def __init__(self, path: Path, *, readers: int = 3, backlog: int = 20_000) -> None:
        self.path = path
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._slots = asyncio.Semaphore(backlog)
        self._read_slots = asyncio.Semaphore(1000)
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="store-read")
        self._local = threading.local()
        self._read_conns: list[Any] = []
        self._topics: dict[str, Topic] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = True

    async def open(self, prepare: Callable[[Conn], None]) -> None:
        """Open the file (made with mode 0600) and run ``prepare`` (migrations) before anything
        else. Raises StorageError or Refused; then nothing stays open."""
        self._loop = asyncio.get_running_loop()
        conn = await asyncio.to_thread(self._open_writer, prepare)
        self._closed = False
        self._thread = threading.Thread(target=self._serve, args=(conn,), name="store-write", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Commit what is queued, then close. Writes asked for later are refused."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._pool.shutdown, wait=True)
        for conn in self._read_conns:
            conn.close()
        self._read_conns.clear()

    def topic(self, name: str) -> Topic:
        """Return the topic ``name``, the same object each time."""
        return self._topics.setdefault(name, Topic())

    async def write(self, fn: Callable[[Conn], T]) -> T:
        """Run ``fn`` in a transaction shared with other writes; return its value once committed.

        An exception of ``fn`` undoes only ``fn``. StorageFull: nothing of it was recorded. If this
        call is cancelled, or TimedOut after a minute, the write may still happen.
        """
        self._check_open()
        assert self._loop is not None
        async with self._slots:
            self._check_open()
            future: asyncio.Future[T] = self._loop.create_future()
            job = _Job(fn, future)
            self._jobs.put(job)
            try:
                async with asyncio.timeout(_WAIT_S):
                    return await future
            except TimeoutError:
                raise TimedOut(
                    f"the disk of {self.path.parent} did not answer for {_WAIT_S:.0f} s",
                    hint="the write may still happen",
                ) from None

    async def read(self, fn: Callable[[Conn], T]) -> T:
        """Run ``fn`` on one consistent snapshot that holds every acknowledged write."""
        self._check_open()
        assert self._loop is not None
        async with self._read_slots:
            self._check_open()
            return await self._loop.run_in_executor(self._pool, self._read_once, fn)

    # ------------------------------------------------------------------------- other threads

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(f"{self.path.name} is closed", hint="the hub is stopping; try again")

    def _open_writer(self, prepare: Callable[[Conn], None]) -> Any:
        sqlite.create_private(self.path)
        raw = sqlite.connect(self.path)
        try:
            prepare(Conn(raw))
        except sqlite.dbapi.Error as e:
            raw.close()
            raise sqlite.explain(e, self.path) from e
        except BaseException:
            raw.close()
            raise
        return raw

    def _read_once(self, fn: Callable[[Conn], T]) -> T:
        raw = getattr(self._local, "conn", None)
        if raw is None:
            raw = self._local.conn = sqlite.connect(self.path, read_only=True)
            self._read_conns.append(raw)
        try:
            raw.execute("BEGIN")
            try:
                return fn(Conn(raw))
            finally:
                _undo(raw)
        except sqlite.dbapi.Error as e:
            raise sqlite.explain(e, self.path) from e

    def _serve(self, raw: Any) -> None:
        jobs: list[_Job[Any]] = []
        try:
            while jobs := self._take():
                self._tell(self._run(raw, jobs))
            with contextlib.suppress(sqlite.dbapi.Error):  # a reader may hold it; only tidiness
                raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except BaseException:
            log.exception("the writer of %s died; every later write is refused", self.path)
            self._closed = True
            self._jobs.put(None)
            while jobs:
                for job in jobs:
                    job.error = StorageError(f"the writer of {self.path.name} died")
                self._tell(jobs)
                jobs = self._take()
            raise
        finally:
            raw.close()

    def _take(self) -> list[_Job[Any]]:
        """Wait for a write, then take whatever else is there; empty when closing and drained."""
        jobs: list[_Job[Any]] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == _GROUP:
                return jobs
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs
        if jobs:
            self._jobs.put(None)  # finish these first
        return jobs

    def _run(self, raw: Any, jobs: list[_Job[Any]]) -> list[_Job[Any]]:
        try:
            self._commit(raw, jobs)
        except _GroupLost as lost:
            if len(jobs) == 1:
                jobs[0].error = lost.__cause__
            else:
                # One write filled the disk, say: the others shall not pay for it.
                for job in jobs:
                    self._run(raw, [job])
        return jobs

    def _commit(self, raw: Any, jobs: list[_Job[Any]]) -> None:
        conn = Conn(raw)
        try:
            raw.execute("BEGIN IMMEDIATE")
            for job in jobs:
                self._attempt(conn, job)
            raw.execute("COMMIT")
        except sqlite.dbapi.Error as e:
            _undo(raw)
            raise _GroupLost from e

    def _attempt(self, conn: Conn, job: _Job[Any]) -> None:
        job.value, job.error, conn.touched, conn.by = None, None, {}, job.by
        conn.raw.execute("SAVEPOINT job")
        try:
            job.value = job.fn(conn)
        except Exception as e:
            if not conn.raw.in_transaction:  # SQLite itself undid everything, e.g. on a full disk
                raise _GroupLost from e
            conn.raw.execute("ROLLBACK TO job")
            job.error, conn.touched = e, {}
        conn.raw.execute("RELEASE job")
        job.touched = conn.touched

    def _tell(self, jobs: list[_Job[Any]]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._settle, jobs)
        except RuntimeError:
            log.error("%d writes were committed but their event loop is gone", len(jobs))

    def _settle(self, jobs: list[_Job[Any]]) -> None:
        for job in jobs:
            for name, value in job.touched.items():
                if job.error is None:
                    self.topic(name).reach(value)
            if job.future.done():  # cancelled, or timed out
                continue
            if job.error is None:
                job.future.set_result(job.value)
            else:
                job.future.set_exception(self._explained(job.error))

    def _explained(self, error: BaseException) -> BaseException:
        if isinstance(error, ThopterError) or not isinstance(error, sqlite.dbapi.Error):
            return error
        explained = sqlite.explain(error, self.path)
        explained.__cause__ = error
        return explained
