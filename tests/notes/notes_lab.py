"""The notes of a hub without the rest of it: real store, real settings and secrets, real sending."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from msgspec import structs

from thopter.fleet.deps import Deps
from thopter.fleet.live import LiveBox
from thopter.fleet.notes import Notes
from thopter.fleet.supervise import Nursery
from thopter.hub.postman import Postman
from thopter.kit.paths import Paths
from thopter.kit.secrets import SecretStore
from thopter.kit.settings import Settings, parse
from thopter.model.events import Event
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.ids import BoxId, RunId
from thopter.model.nouns import Box, BoxState, Run, RunState, WaitReason
from thopter.store.store import Store

T = 1_800_000_000_000


class JumpClock:
    """A clock that runs as the real one does, and can be put forward."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def now_ms(self) -> int:
        return T + int(asyncio.get_running_loop().time() * 1000) + self.ahead_ms

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.05))  # who looks now and then looks often here


class Lab:
    """One store folder; ``up`` is a hub's life over it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.paths = Paths(folder / "state", folder / "run", folder / "config")
        self.paths.state.mkdir(parents=True, exist_ok=True)
        self.paths.config.mkdir(mode=0o700, exist_ok=True)
        self.settings = Settings({k: parse(k, v, "test") for k, v in settings.items()})
        self.secrets = SecretStore(self.paths, {}, "file")
        self.clock = JumpClock()
        self.live: dict[str, LiveBox] = {}

    @asynccontextmanager
    async def up(self) -> AsyncIterator[Lab]:
        """Open the store and start the notes; leaving lets go of everything."""
        self.store = await Store.open(self.paths.state / "hub.db")
        nothing: Any = cast(Any, None)
        deps = Deps(
            paths=self.paths, settings=self.settings, clock=self.clock, store=self.store, engine=nothing,
            providers={}, agents={}, gateways=nothing, mirrors=nothing, policies=nothing,
            upstreams=nothing,
            owner="me", identity=("me", "me@x"),
            postman=Postman(self.secrets, lambda: self.settings), credential_problem=lambda _: "",
        )  # fmt: skip
        self.deps = deps
        self.notes = Notes(deps, self.live)
        async with Nursery() as nursery:
            for live in self.live.values():
                live.deps = deps
            await self.notes.start(nursery.spawn)
            yield self
        await self.store.close()

    async def thopter(self, name: str = "heron") -> LiveBox:
        """A thopter at work since a minute, prompted then."""
        now = self.clock.now_ms()
        box = Box(
            id=BoxId(f"box_{name}"), name=name, provider="local", state=BoxState.READY, created_ms=now,
            changed_ms=now,
        )  # fmt: skip
        run = Run(
            id=RunId(f"run_{name}"), box=box.id, agent="claude", prompt="mend the login",
            state=RunState.WORKING, created_ms=now, changed_ms=now,
        )  # fmt: skip
        await self.store.boxes.insert(box)
        await self.store.runs.insert(run)
        live = LiveBox(self.deps, box, run, None)
        live.alive_ms = now
        live.last_message = "I have mended the login."
        self.live[box.id] = live
        self.prompted(live, 60)
        return live

    def prompted(self, live: LiveBox, seconds_ago: float, **more: Any) -> None:
        """A person says something to it."""
        at = self.clock.now_ms() - round(seconds_ago * 1000)
        live.evidence.append(
            Evidence(source=Source.HOOK, fact=Fact.TURN_STARTED, at_ms=at, seen_ms=at, **more)
        )

    async def becomes(
        self, live: LiveBox, state: RunState, reason: WaitReason | None = None, problem: str = ""
    ) -> Event:
        """Its state changes and is recorded, as :class:`LiveBox` does it."""
        assert live.run is not None
        now = self.clock.now_ms()
        live.run = structs.replace(live.run, state=state, reason=reason, changed_ms=now, problem=problem)
        event = Event(
            kind="run.state", at_ms=now, box=live.box.id, run=live.run.id,
            data={"name": live.box.name, "state": state, "reason": reason, "since_ms": now},
        )  # fmt: skip
        await self.store.runs.update(live.run, event)
        return event

    async def settled(self, count: int = 1) -> list[Any]:
        """Wait until ``count`` notes are there and none of them is on its way; newest first."""

        async def there() -> bool:
            found = await self.store.notes.list()
            return len(found) >= count and all(v.fate != "queued" for v in found)

        await self.until(there)
        return await self.store.notes.list()

    async def until(self, test: Callable[[], Any], bound: float = 60.0) -> None:
        """Wait until ``await test()`` is true."""
        async with asyncio.timeout(bound):
            while not await test():
                await self.clock.sleep(0.02)

    async def decided(self) -> None:
        """Wait until every event so far has been looked at for notes."""
        last = self.store.events.last()
        await self.until(lambda: self._beyond(last))

    async def _beyond(self, last: int) -> bool:
        return await self.store.notes.cursor() >= last
