"""The facet Stops: a box without processes that keeps its files, and its way back."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time

from thopter.kit import failpoint
from thopter.kit.linux import calls, procs
from thopter.kit.threads import finish
from thopter.model.errors import Conflict, NotFound, NotNow, ProviderError
from thopter.model.nouns import BoxState, Isolation
from thopter.model.sockets import BoxHandle, BoxSpec
from thopter.providers.local.core import Core
from thopter.providers.local.maker import Maker
from thopter.providers.local.modes import must_be_ours
from thopter.providers.local.record import STILL, STOPPED, Record, check_key

GRACE_S = 3.0  # what programs get between the request to end and the end
log = logging.getLogger(__name__)


class Resting(Core):
    """See the module docstring."""

    async def reclaim(self, key: str) -> int:
        """Have the kernel move a frozen box's memory to swap; how much went there, or was given up."""
        async with self._lock(check_key(key)):
            record = await finish(self._require, key)
            must_be_ours(record.isolation, "given back its memory")
            if self._maker.state(record) is not BoxState.FROZEN:
                raise Conflict(f"box {key} is not frozen", hint="freeze it first")
            return await finish(self._maker.groups.reclaim, record.group)

    async def stop(self, key: str) -> None:
        """End every process of the box; its files are on the disk when this returns. Idempotent."""
        async with self._lock(check_key(key)):
            record = await finish(self._require, key)
            must_be_ours(record.isolation, "stopped")
            if not record.complete:
                raise NotNow(f"box {key} is still being created")
            await finish(_stop, self._maker, record)
            await self._forget(key)

    async def revive(self, spec: BoxSpec) -> BoxHandle:
        """Start it again on the files it has; returned as it is when it runs."""
        key = check_key(spec.key)
        await self.mend()
        async with self._lock(key):
            record = await finish(self._require, key)
            if not record.complete:
                raise NotNow(f"box {key} is still being created")
            if self._maker.alive(record):
                return self._handle(record)
            await self._warm_up()
            if not await finish(self._maker.pool.has, key):
                raise NotFound(
                    f"nothing is left of what box {key} had written: its disk was cut off before it was kept"
                )
            await finish(self._maker.end, record)
            await self._forget(key)
            try:
                await self._revived(record, spec)
            except BaseException as e:
                half = await finish(self._maker.records.read, key)
                if half is not None:
                    await finish(self._maker.end, half)
                await self._forget(key)
                if isinstance(e, ExceptionGroup):
                    raise e.exceptions[0] from None
                raise
            await finish(self._maker.records.unmark, key, STOPPED)
            return self._handle(await finish(self._require, key))


def _stop(maker: Maker, record: Record) -> None:
    maker.records.mark(record.key, STOPPED)
    failpoint.hit("stop.marked")
    if maker.alive(record):
        if maker.frozen(record):
            maker.set_frozen(record, False)
        (_ask_the_keeper if record.isolation is Isolation.GVISOR else _ask_to_end)(maker, record)
    maker.end(record)
    failpoint.hit("stop.ended")
    calls.syncfs(str(maker.pool.folder / record.key))


def _ask_the_keeper(maker: Maker, record: Record) -> None:
    """The same in a sandbox, whose processes are none of the machine's: its keeper has it end itself, which
    it does with what it wrote on its files."""
    deadline = time.monotonic() + 3 * GRACE_S
    with contextlib.suppress(ProcessLookupError):
        os.kill(record.pid, signal.SIGTERM)
    while maker.alive(record) and time.monotonic() < deadline:
        time.sleep(0.01)


def _ask_to_end(maker: Maker, record: Record) -> None:
    """SIGTERM to all but the first process and boxd, and some time for it."""
    deadline = time.monotonic() + GRACE_S
    asked: set[int] = set()
    ours = procs.command_line(record.pid)
    while True:
        every = maker.groups.pids(record.group) or set(procs.tree(record.pid))
        left = {pid for pid in every if procs.command_line(pid) != ours and not procs.stopped(pid)}
        for pid in left - asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        asked |= left
        if not left or time.monotonic() > deadline:
            return
        time.sleep(0.01)


def reconcile(maker: Maker) -> None:
    """Put right what a hub that was killed left: a box that stood still for a snapshot goes on, a stop
    that had not begun is forgotten, the processes of a half-done revival end. Blocking."""
    for record in maker.records.all():
        if not record.complete:
            continue
        try:
            if maker.alive(record):
                if maker.records.marked(record.key, STILL):
                    maker.set_frozen(record, False)
                if record.stopped:
                    maker.records.unmark(record.key, STOPPED)
            elif maker.groups.pids(record.group) or not maker.groups.hierarchies:
                maker.end(record)
            maker.records.unmark(record.key, STILL)
        except (OSError, ProviderError) as e:
            log.warning("box %s can't be put right: %s", record.key, e)
