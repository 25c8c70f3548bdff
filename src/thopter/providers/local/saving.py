"""The facet Snapshots: boxes saved at one instant, and others started from them.

A box made from a snapshot gets files of its own, shared block by block where the pool is btrfs and
copied elsewhere (docs/decisions/0008): nothing stands on a snapshot but what is being made from it
right now, so chains have no depth and a dropped one is simply gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

from thopter.kit import failpoint
from thopter.kit.linux import calls
from thopter.kit.threads import finish
from thopter.model.errors import NotNow, ProviderError, TimedOut
from thopter.model.sockets import SnapshotHandle
from thopter.providers.local import building, carrying, wants
from thopter.providers.local.core import Core
from thopter.providers.local.frames import Pipe, Reader
from thopter.providers.local.maker import Maker, now_ms
from thopter.providers.local.modes import must_be_ours
from thopter.providers.local.record import STILL, Record, check_key
from thopter.providers.local.saved import SavedBox

Still = Callable[[Maker, Record], AbstractContextManager[None]]
_MUCH = 16 << 20  # bytes to be written out that take longer than the rest of it
SNAP_LOCK = "snapshot:"  # before the id, where a lock is named by a key


class Saving(Core):
    """See the module docstring."""

    async def snapshot(self, key: str, snap: str, tags: Mapping[str, str]) -> SnapshotHandle:
        """Save the files of box ``key`` as ``snap``; its processes stand still meanwhile."""
        check_key(snap)
        check_key(key)
        async with self._lock(SNAP_LOCK + snap):
            there = await finish(self._maker.saved.read, snap)
            if there is not None and there.complete:
                return there.handle()
            async with self._lock(key):
                record = await finish(self._require, key)
                must_be_ours(record.isolation, "saved")
                if not record.complete:
                    raise NotNow(f"box {key} is still being created")
                saved = await finish(save, self._maker, record, snap, dict(tags))
            return saved.handle()

    async def snapshots(self) -> Sequence[SnapshotHandle]:
        """Every complete snapshot."""
        return [s.handle() for s in await finish(self._maker.saved.all) if s.complete]

    async def drop_snapshot(self, snap: str) -> None:
        """Remove it; boxes made from it are not touched. Gone already = success."""
        check_key(snap)
        async with self._lock(SNAP_LOCK + snap):
            there = await finish(self._maker.saved.read, snap)
            await finish(self._maker.saved.remove, snap)
            if there is not None:
                await finish(building.let_go, self._maker, there.golden)

    async def export_snapshot(self, snap: str) -> AsyncIterator[bytes]:
        """All of it as one checksummed file, its golden included."""
        check_key(snap)
        pieces = await finish(carrying.export, self._maker, snap)
        while piece := await finish(next, pieces, b""):
            yield piece

    async def import_snapshot(
        self, snap: str, body: AsyncIterator[bytes], tags: Mapping[str, str]
    ) -> SnapshotHandle:
        """Make ``snap`` of such a file, which is hostile. Idempotent on ``snap``."""
        check_key(snap)
        async with self._lock(SNAP_LOCK + snap):
            there = await finish(self._maker.saved.read, snap)
            if there is not None and there.complete:
                return there.handle()
            await self._warm_up()
            pipe = Pipe()
            try:
                async with asyncio.TaskGroup() as both:
                    work = both.create_task(finish(_unpack, self._maker, snap, pipe, dict(tags)))
                    both.create_task(_pour(body, pipe))
            except ExceptionGroup as e:
                raise e.exceptions[0] from None
            return work.result().handle()

    async def build_snapshot(
        self, snap: str, source: str, packages: Sequence[str], tags: Mapping[str, str]
    ) -> AsyncIterator[str]:
        """Make ``snap`` with a whole root of its own (see ``building.py``). Idempotent on ``snap``."""
        check_key(snap)
        async with self._lock(SNAP_LOCK + snap):
            there = await finish(self._maker.saved.read, snap)
            if there is not None and there.complete:
                return
            await self._warm_up()
            lines = building.build(self._maker, snap, source, packages, dict(tags))
            async with contextlib.aclosing(lines):
                async for line in lines:
                    yield line


async def _pour(body: AsyncIterator[bytes], pipe: Pipe) -> None:
    try:
        async for piece in body:
            if not await finish(pipe.put, piece):
                return
    finally:
        pipe.end()


def _unpack(maker: Maker, snap: str, pipe: Pipe, tags: dict[str, str]) -> SavedBox:
    try:
        return carrying.unpack(maker, snap, Reader(pipe), tags)
    finally:
        pipe.shut()


def save(
    maker: Maker, record: Record, snap: str, tags: dict[str, str], still: Still | None = None
) -> SavedBox:
    """Save the box of ``record``. Blocking; all or nothing, also under kill -9: what is left is found
    by the next call and by sweeps. ``still``: how it is made to stand still meanwhile."""
    saved = SavedBox(
        id=snap, golden=record.golden, created_ms=now_ms(), stored=record.stored, parent=record.snapshot,
        tags=tags,
    )  # fmt: skip
    maker.saved.begin(saved)
    try:
        failpoint.hit("snapshot.recorded")
        maker.pool.remove_saved(snap)
        if maker.groups.dirty_bytes(record.group) > _MUCH:  # else the box would stand still for it
            calls.syncfs(str(maker.pool.folder / record.key))
        with (still or standing_still)(maker, record):
            failpoint.hit("snapshot.still")
            own_bytes = maker.pool.save(record.key, snap)
        failpoint.hit("snapshot.taken")
        return maker.saved.finish(snap, own_bytes, wants.of_saved(maker, saved))
    except BaseException as e:
        maker.saved.remove(snap)
        if isinstance(e, OSError):
            raise ProviderError(f"box {record.key} can't be saved: {e}") from None
        raise


@contextlib.contextmanager
def standing_still(maker: Maker, record: Record) -> Iterator[None]:
    """The box does nothing while the block runs. A mark says that it is us who froze it, so that the
    next hub thaws it if this one dies here."""
    if not maker.alive(record) or maker.frozen(record):
        yield
        return
    maker.records.mark(record.key, STILL, durable=False)
    try:
        maker.set_frozen(record, True)
        yield
    except TimeoutError as e:
        raise TimedOut(str(e)) from None
    finally:
        if maker.alive(record):
            maker.set_frozen(record, False)
        maker.records.unmark(record.key, STILL, durable=False)
