"""The watcher over boxes, on a real store and a clock that jumps."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from thopter.fleet.deps import Deps
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


class Watched:
    """A keeper over one box whose agent waits since ``NOW``; ``done`` is what it did."""

    def __init__(self, store: Store, lease: Lease, trouble: bool = False) -> None:
        self.clock = Clock()
        self.done: list[str] = []
        self.trouble = trouble
        self.store = store
        nothing: Any = None
        given = {"settings": Settings({}), "clock": self.clock, "store": store, "providers": {}, "agents": {}}
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
        self.keeper = Keeper(deps, sleep, nothing, self._act("destroy"), self._act("freeze"))

    def is_doing(self, state: RunState, reason: WaitReason | None = None) -> None:
        self.live.verdict = Verdict(state=state, reason=reason, since_ms=self.clock.wall)

    def _act(self, word: str) -> Callable[[str], Awaitable[None]]:
        async def act(name: str) -> None:
            self.done.append(f"{word} {name}")
            if self.trouble:
                raise NotNow("not now")

        return act

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
