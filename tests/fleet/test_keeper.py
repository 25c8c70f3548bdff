"""The watcher over boxes, on a real store and a clock that jumps."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from msgspec import structs

from thopter.fleet.deps import Deps
from thopter.fleet.disk_guard import GO_BYTES, HELD, HOLD_BYTES, DiskGuard
from thopter.fleet.keeper import Keeper
from thopter.fleet.lease import renewed
from thopter.fleet.live import LiveBox
from thopter.kit.settings import Settings
from thopter.model.errors import NotNow
from thopter.model.evidence import Verdict
from thopter.model.ids import BoxId, RunId
from thopter.model.nouns import Box, BoxState, Lease, Run, RunState, WaitReason
from thopter.store.store import Store

NOW = 1_800_000_000_000
MIN = 60_000


class Clock:
    """Two clocks that tests set; ``pass_`` is time, ``jump`` is somebody at the wall clock."""

    def __init__(self) -> None:
        self.wall = NOW
        self.mono = 100.0

    def now_ms(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.mono

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)

    def pass_(self, ms: int) -> None:
        self.wall += ms
        self.mono += ms / 1000


class Ground:
    """A provider whose boxes stand on a disk of this machine; ``trouble`` is what it says of that."""

    def __init__(self) -> None:
        self.trouble = ""
        self.flushed = 0

    async def mend(self) -> str:
        return self.trouble

    async def flush(self) -> None:
        self.flushed += 1

    async def freeze(self, key: str) -> None:
        raise AssertionError("the fleet freezes")

    async def thaw(self, key: str) -> None:
        raise AssertionError("the fleet thaws")


class Watched:
    """A keeper over one box whose agent waits since ``NOW``; ``done`` is what it did."""

    def __init__(self, store: Store, lease: Lease, trouble: bool = False) -> None:
        self.clock = Clock()
        self.done: list[str] = []
        self.trouble = trouble
        self.store = store
        nothing: Any = None
        self.ground = Ground()
        self.free = 100 << 30
        given = {
            "settings": Settings({}), "clock": self.clock, "store": store, "providers": {"p": self.ground},
            "agents": {}, "paths": SimpleNamespace(state="/state"),
        }  # fmt: skip
        bare = {f.name: nothing for f in dataclasses.fields(Deps) if f.default is f.default_factory}
        deps = Deps(**(bare | given))
        box = Box(
            id=BoxId("box_1"), name="one", provider="p", state=BoxState.READY, created_ms=1, changed_ms=1
        )
        run = Run(
            id=RunId("run_1"), box=BoxId("box_1"), agent="a", prompt="", state=RunState.WAITING, created_ms=1,
            changed_ms=1,
        )  # fmt: skip
        self.box, self.lease = box, renewed(lease, NOW)
        self.live = LiveBox(deps, box, run, None)
        self.is_doing(RunState.WAITING, WaitReason.TURN_END)
        crew: Any = SimpleNamespace(live={"box_1": self.live})
        deps.crew = crew
        sleep: Any = SimpleNamespace(suspend=self._suspend)
        disk = DiskGuard(deps, self._to(BoxState.FROZEN), self._to(BoxState.READY), lambda _path: self.free)
        self.keeper = Keeper(deps, sleep, nothing, self._act("destroy"), self._act("freeze"), disk)

    def is_doing(self, state: RunState, reason: WaitReason | None = None) -> None:
        self.live.verdict = Verdict(state=state, reason=reason, since_ms=self.clock.wall)

    def _act(self, word: str) -> Callable[[str], Awaitable[None]]:
        async def act(name: str) -> None:
            self.done.append(f"{word} {name}")
            if self.trouble:
                raise NotNow("not now")

        return act

    def _to(self, state: BoxState) -> Callable[[str], Awaitable[None]]:
        async def go(name: str) -> None:
            self.done.append(f"{state} {name}")
            self.live.box = structs.replace(self.live.box, state=state)
            await self.store.boxes.update(self.live.box)

        return go

    async def _suspend(self, name: str, req: Any) -> None:
        await self._act("stop" if req.disk else "suspend")(name)

    async def begin(self) -> None:
        await self.store.boxes.insert(self.box)
        await self.store.leases.put(self.lease)
        await self.keeper.tick()

    async def minutes(self, count: int) -> None:
        for _ in range(count):
            self.clock.pass_(MIN)
            await self.keeper.tick()


def watch(
    tmp_path: Path, lease: Lease, play: Callable[[Watched], Awaitable[None]], trouble: bool = False
) -> None:
    async def go() -> None:
        store = await Store.open(tmp_path / "hub.db")
        try:
            watched = Watched(store, lease, trouble)
            await watched.begin()
            await play(watched)
        finally:
            await store.close()

    asyncio.run(go())


def test_an_idle_box_is_put_to_sleep_once_its_time_is_over(tmp_path: Path) -> None:
    async def play(w: Watched) -> None:
        await w.minutes(9)
        assert w.done == []
        await w.minutes(1)
        assert w.done == ["stop one"]
        lease = await w.store.leases.get("box_1")
        assert lease is not None and lease.idle_until_ms == NOW + 10 * MIN, "the deadline is on record"

    watch(tmp_path, Lease(box="box_1", idle_min=10, on_idle="stop"), play)


def test_setting_the_clock_forward_and_back_suspends_nobody(tmp_path: Path) -> None:
    async def play(w: Watched) -> None:
        for jump in (86_400_000, -3 * 86_400_000, 5_000_000):
            w.clock.wall += jump
            await w.minutes(1)
            assert w.done == []
        await w.minutes(6)
        assert w.done == []
        await w.minutes(1)
        assert w.done == ["freeze one"], "ten minutes that really passed"

    watch(tmp_path, Lease(box="box_1", keep_min=60, idle_min=10, on_idle="freeze"), play)


def test_a_working_box_is_never_touched_and_goes_to_sleep_when_it_rests(tmp_path: Path) -> None:
    async def play(w: Watched) -> None:
        w.is_doing(RunState.WORKING)
        await w.minutes(100)
        w.clock.wall += 86_400_000
        await w.minutes(1)
        assert w.done == []
        w.is_doing(RunState.WAITING, WaitReason.TURN_END)
        await w.keeper.tick()
        assert w.done == ["suspend one"], "its keep-alive was over long ago"

    watch(tmp_path, Lease(box="box_1", keep_min=60, on_idle="suspend"), play)


def test_what_could_not_be_done_is_tried_again_but_not_all_the_time(tmp_path: Path) -> None:
    async def play(w: Watched) -> None:
        await w.minutes(1)
        for _ in range(20):
            w.clock.pass_(2_000)
            await w.keeper.tick()
        assert w.done == ["destroy one"]
        await w.minutes(1)
        assert w.done == ["destroy one", "destroy one"]

    watch(tmp_path, Lease(box="box_1", idle_min=1, on_idle="destroy"), play, trouble=True)


def test_boxes_stand_still_on_a_disk_that_is_nearly_full_and_go_on_when_there_is_room(tmp_path: Path) -> None:
    async def play(w: Watched) -> None:
        w.free = HOLD_BYTES - 1
        w.ground.flushed = 0
        await w.minutes(2)
        assert w.done == ["frozen one"] and w.live.box.problem == HELD
        assert w.ground.flushed == 1, "what it wrote is put on the disk while there is room"
        w.free = GO_BYTES - 1
        await w.minutes(1)
        assert w.done == ["frozen one"], "there is not enough room yet"
        w.free = GO_BYTES
        await w.minutes(1)
        assert w.done == ["frozen one", "ready one"] and w.live.box.problem == ""
        w.free = HOLD_BYTES
        await w.minutes(1)
        assert len(w.done) == 2, "above the line nobody is held"

    watch(tmp_path, Lease(box="box_1", idle_min=600), play)


def test_a_box_that_a_person_froze_stays_frozen_when_there_is_room(tmp_path: Path) -> None:
    async def play(w: Watched) -> None:
        await w._to(BoxState.FROZEN)("one")
        w.done.clear()
        w.free = HOLD_BYTES - 1
        await w.minutes(1)
        w.free = GO_BYTES
        await w.minutes(1)
        assert w.done == []

    watch(tmp_path, Lease(box="box_1", idle_min=600), play)


def test_the_end_of_a_turn_puts_what_was_written_on_the_disk_once(tmp_path: Path) -> None:
    async def play(w: Watched) -> None:
        before = w.ground.flushed
        w.is_doing(RunState.WORKING)
        await w.minutes(1)
        assert w.ground.flushed == before
        w.is_doing(RunState.WAITING, WaitReason.TURN_END)
        await w.minutes(3)
        assert w.ground.flushed == before + 1

    watch(tmp_path, Lease(box="box_1", idle_min=600), play)


def test_trouble_of_a_provider_is_told_once_and_so_is_its_end(tmp_path: Path) -> None:
    async def play(w: Watched) -> None:
        w.ground.trouble = "its disk went read-only"
        await w.minutes(3)
        w.ground.trouble = ""
        await w.minutes(3)
        told = [e.data["text"] for e in (await w.store.events.read()).events]
        assert told == ["provider p is well again"]

    watch(tmp_path, Lease(box="box_1", idle_min=600), play)
