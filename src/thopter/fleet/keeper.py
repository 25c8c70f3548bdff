"""The watcher over how long boxes go on: leases, checkpoints of turns, boxes that died, revival.

What it decides is decided purely (``fleet.lease``) from truth's verdict; what it does goes through the
same use cases as a person's commands. It holds nothing that a restart may not forget.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable

from thopter.fleet.deps import Deps, RequestMark, request_mark
from thopter.fleet.disk_guard import DiskGuard
from thopter.fleet.lease import JUMP_MS, busiest, moved, step
from thopter.fleet.live import LiveBox
from thopter.fleet.sleep import Sleep
from thopter.fleet.snapshots import Snapshots
from thopter.model.api.sleep import SuspendRequest
from thopter.model.api.snapshots import CheckpointRequest
from thopter.model.errors import ThopterError
from thopter.model.events import Event
from thopter.model.nouns import BoxState, RunState, WaitReason
from thopter.model.sockets import Mends

log = logging.getLogger(__name__)

TICK_S = 2.0


class Keeper:
    """One per hub; ``watch`` runs as long as the hub. ``destroy`` and ``freeze`` are the fleet's
    own."""

    def __init__(
        self,
        deps: Deps,
        sleep: Sleep,
        snapshots: Snapshots,
        destroy: Callable[[str], Awaitable[object]],
        freeze: Callable[[str], Awaitable[object]],
        disk: DiskGuard,
    ) -> None:
        self.deps = deps
        self._sleep = sleep
        self._snapshots = snapshots
        self._destroy = destroy
        self._freeze = freeze
        self._disk = disk
        self._wall = 0
        self._mono = 0.0
        self._trouble: dict[str, str] = {}  # provider -> what is wrong with all its boxes
        self._failed: dict[str, int] = {}  # box -> when its action failed last

    async def watch(self) -> None:
        """Look again and again; one box's trouble is logged and does not stop the others'."""
        self._set_clock()
        while True:
            try:
                await self.tick()
            except ThopterError as e:
                log.error("the watch over boxes failed: %s", e.message)
            await self.deps.clock.sleep(TICK_S)

    def _set_clock(self) -> None:
        self._wall, self._mono = self.deps.clock.now_ms(), self.deps.clock.monotonic()

    async def tick(self) -> None:
        """One look at every box."""
        wall, mono = self._wall, self._mono
        self._set_clock()
        jump = (self._wall - wall) - round((self._mono - mono) * 1000) if wall else 0
        if abs(jump) < JUMP_MS:
            jump = 0
        else:
            log.warning("the clock jumped by %.1f s; deadlines move with it", jump / 1000)
        for lease in await self.deps.store.leases.all():
            live = self.deps.crew.live.get(lease.box)
            shifted = moved(lease, jump)
            if live is None:
                if shifted != lease:
                    await self.deps.store.leases.put(shifted)
                continue
            now = self.deps.clock.now_ms()
            verdict = busiest([live.verdict, *live.others.verdicts()])
            new, action = step(shifted, live.box.state, verdict, live.attended > 0, now)
            if new != lease:
                await self.deps.store.leases.put(new)
            if action:
                await self._act(live, action, now)
        await self._flush()
        for live in list(self.deps.crew.live.values()):
            await self._turn(live)
        await self._disk.look()
        for name, provider in self.deps.providers.items():
            if isinstance(provider, Mends):
                await self._mend(name, await provider.mend())

    async def _act(self, live: LiveBox, action: str, now: int) -> None:
        name = live.box.name
        if now - self._failed.get(live.box.id, 0) < 60_000:
            return
        text = f"its time is over: {action}"
        log.info("%s: %s", name, text)
        await self.deps.store.events.append(
            [Event(kind="note", at_ms=now, box=live.box.id, data={"name": name, "text": text})]
        )
        try:
            if action == "freeze":
                await self._freeze(name)
            elif action == "destroy":
                await self._destroy(name)
            else:
                await self._sleep.suspend(name, SuspendRequest(disk=action == "stop"))
            self._failed.pop(live.box.id, None)
        except ThopterError as e:
            self._failed[live.box.id] = now
            log.error("%s could not be put to rest (%s): %s", name, action, e.message)

    # ----------------------------------------------------------------------------- turns

    async def _flush(self) -> None:
        """Have what finished turns wrote on the disk, once for all that ended since the last look."""
        ended = [
            live
            for live in self.deps.crew.live.values()
            if live.verdict.state is RunState.WAITING and live.kept_turn != live.verdict.since_ms
        ]
        for live in ended:
            live.kept_turn = live.verdict.since_ms
        for name in {live.box.provider for live in ended}:
            provider = self.deps.providers[name]
            if isinstance(provider, Mends):
                await provider.flush()

    async def _turn(self, live: LiveBox) -> None:
        """Save the end of a turn once, when the policy says so."""
        verdict, run = live.verdict, live.run
        if str(self.deps.settings.get("run.checkpoint")) != "turn" or run is None or live.pooled:
            return
        ended = verdict.state is RunState.WAITING and verdict.reason is WaitReason.TURN_END
        if not ended or not verdict.since_ms or live.box.state is not BoxState.READY:
            return
        key = f"{run.id} {verdict.since_ms}"
        if live.saved_turn == key:
            return
        live.saved_turn = key
        token = hashlib.sha256(b"turn " + key.encode()).hexdigest()
        mark = request_mark.set(RequestMark(token=token))  # the same turn is the same checkpoint, for ever
        try:
            await self._snapshots.checkpoint(live.box.name, CheckpointRequest(), turn_ms=verdict.since_ms)
        except ThopterError as e:
            log.error("%s: the end of its turn could not be saved: %s", live.box.name, e.message)
        finally:
            request_mark.reset(mark)

    # ----------------------------------------------------------------------------- trouble

    async def _mend(self, name: str, trouble: str) -> None:
        """Tell once of a provider's trouble, and wake its boxes when it is over (where so set)."""
        known = self._trouble.get(name, "")
        if trouble == known:
            return
        self._trouble[name] = trouble
        text = f"provider {name}: {trouble}" if trouble else f"provider {name} is well again"
        log.log(logging.ERROR if trouble else logging.INFO, "%s", text)
        if not trouble:
            now = self.deps.clock.now_ms()
            await self.deps.store.events.append([Event(kind="note", at_ms=now, data={"text": text})])
            await self.revive_lost()

    # ---------------------------------------------------------------------------- revival

    async def revive_lost(self) -> None:
        """After a start of the hub: wake the boxes whose processes are gone, where the setting says so."""
        if str(self.deps.settings.get("run.revive")) != "auto":
            return
        for box in await self.deps.store.boxes.list():
            if box.state is not BoxState.LOST:
                continue
            run = await self.deps.crew.run_of(box.id)
            if run is None or await self.deps.store.pools.holds(box.id):
                continue
            try:
                await self.deps.providers[box.provider].get(box.id)
                await self._sleep.wake(box, run)
            except (ThopterError, KeyError) as e:
                log.error("%s can't be revived: %s", box.name, e)
