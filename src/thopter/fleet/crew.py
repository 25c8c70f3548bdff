"""The boxes the hub looks after: adopting them after a start, keeping one :class:`LiveBox` for each,
and letting go of them. What exists is in the store and in the world; this can be lost at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from msgspec import structs

from thopter.fleet import modelwords
from thopter.fleet.accept import Acceptor
from thopter.fleet.budget_terms import terms_of
from thopter.fleet.death import notice_death
from thopter.fleet.delivery import Delivery
from thopter.fleet.deps import Deps
from thopter.fleet.egress import route_of
from thopter.fleet.end import DestroyArgs, Destroyer
from thopter.fleet.facts import boxes_in, facts_of, lineage
from thopter.fleet.furnish import Stage
from thopter.fleet.launch import FlyArgs, Launcher, launch_context, routes
from thopter.fleet.live import LiveBox
from thopter.fleet.pumps import pump, remember_words
from thopter.fleet.reconcile import reconcile
from thopter.fleet.saving import Saver
from thopter.fleet.supervise import Nursery
from thopter.fleet.take import Taker
from thopter.fleet.turnstile import Turnstile
from thopter.kit.channel import BoxLink
from thopter.model.errors import ThopterError
from thopter.model.events import Event
from thopter.model.nouns import BoxState, Run, RunState
from thopter.model.sockets import Confines

log = logging.getLogger(__name__)

_FIRST_WORDS_S = 1.5
_FLOWS_KEPT_MS = 30 * 86_400_000
UP = (BoxState.READY, BoxState.FROZEN, BoxState.SUSPENDED)
OVER = (RunState.DONE, RunState.FAILED, RunState.STOPPED)


class Crew:
    """One per hub. ``start`` reconciles and adopts; ``stop`` lets go, boxes and agents go on."""

    def __init__(self, deps: Deps, acceptor: Acceptor) -> None:
        self.deps = deps
        deps.crew = self
        self.live: dict[str, LiveBox] = {}
        self.ready = False
        self._ready = asyncio.Event()
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}
        self._stack = AsyncExitStack()
        self._nursery = Nursery()
        self._acceptor = acceptor
        self.before_flows: list[Callable[[frozenset[str]], Awaitable[None]]] = []
        self.saver = Saver(deps)
        self.turnstile = Turnstile(deps.engine)
        launcher, destroyer = Launcher(deps), Destroyer(deps, self.saver)
        deps.engine.register("fly", launcher.fly, FlyArgs)
        Taker(deps, launcher)
        deps.engine.register("destroy", destroyer.destroy, DestroyArgs)

    async def start(self) -> None:
        """Make the records true, attach gateways, take up what was under way. Then ``ready``."""
        await self._stack.enter_async_context(self._nursery)
        for provider in self.deps.providers.values():
            await provider.start()
        await self.deps.gateways.start()
        await self.deps.engine.start()
        pending = await self.deps.engine.pending()
        missed = await self._acceptor.unheard(frozenset(pending))
        under_way = [*pending.values(), *(m.request for m in missed)]
        in_flow = frozenset(key for args in under_way for key in boxes_in(args))
        result = await reconcile(self.deps, in_flow)
        wanted = frozenset({*pending, *(m.flow for m in missed)})
        await asyncio.to_thread(Stage(self.deps.paths.state).sweep, wanted)
        for box in [*result.live, *result.lost]:
            try:
                await self.adopt(box.id)
                if box.state in UP:
                    await self.attach_gateways(box.id)
            except (ThopterError, OSError):
                log.exception("box %s could not be taken up again", box.name)
        served = await self.deps.gateways.attached()
        for stray in served - {b.id for b in result.live} - in_flow:
            await self.deps.gateways.detach(stray)
        flow_args = [str(v) for args in under_way for v in args.values() if isinstance(v, str)]
        for mend in self.before_flows:
            await mend(frozenset(flow_args))
        await self.deps.engine.recover()
        for intent in missed:
            await self._acceptor.submit(intent)
        self.ready = True
        self._nursery.spawn("housekeeping", self._keep_house())
        self._nursery.spawn("model gateway's word", modelwords.follow(self.deps, self.live.get))
        await self._first_words()
        self._ready.set()

    def spawn(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        """Let ``work`` go on until the fleet stops; its failure is logged and ends nothing else."""
        self._nursery.spawn(name, work)

    async def _keep_house(self) -> None:
        """Forget, now and then, what nobody can ask for any more."""
        while True:
            now = self.deps.clock.now_ms()
            await self.deps.store.idempotency.expire(now)
            await self.deps.engine.prune(now - _FLOWS_KEPT_MS)
            await self.deps.clock.sleep(3600.0)

    async def _first_words(self) -> None:
        """Give boxes a moment to answer, so that the first look already shows who is there."""
        linked = [b.link(_FIRST_WORDS_S) for b in self.live.values() if b.box.state is BoxState.READY]
        await asyncio.gather(*linked, return_exceptions=True)

    async def settled(self, patience: float) -> None:
        """Wait (at most ``patience`` seconds) until what was there before has been looked at."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._ready.wait()

    async def stop(self) -> None:
        """Let go of everything; agents work on, their boxes' gateways stay up."""
        self.ready = False
        await self.deps.engine.stop()
        await self._stack.aclose()
        in_use = any(b.box.state in UP for b in self.live.values())
        await self.deps.gateways.stop(end_processes=not in_use)
        for provider in self.deps.providers.values():
            await provider.close()

    async def adopt(self, key: str) -> LiveBox:
        """The live box of ``key``; made, linked and pumped from now on when it was not."""
        box = await self.deps.store.boxes.get(key)
        if key in self.live:
            self.live[key].box = box
            return self.live[key]
        run = await self.run_of(key)
        agent = self.deps.agents.get(run.agent) if run is not None else None
        live = LiveBox(self.deps, box, run, agent)
        live.is_dead = partial(notice_death, self.deps)
        live.pooled = await self.deps.store.pools.holds(key)
        if run is not None:
            live.lineage = await lineage(self.deps, run)
            live.others.load(await self.deps.store.others.of_box(key))
            live.learn(await self.deps.store.evidence.of_run(run.id))
            remember_words(live, (await self.deps.store.entries.page(run.id, last=50)).entries)
        self.live[key] = live
        self._tasks[key] = [self._nursery.spawn(f"fold {box.name}", live.keep_folding())]
        self._tasks[key].append(self._nursery.spawn(f"post {box.name}", Delivery(live).keep()))
        if box.state in (*UP, BoxState.CREATING):
            self._tasks[key].append(self._nursery.spawn(f"link {box.name}", live.keep(self._pump)))
        return live

    async def _pump(self, live: LiveBox, link: BoxLink) -> None:
        """Pump with the run as it is recorded now; wait for a run that is being launched."""
        facts = await facts_of(self.deps, live.box)
        ctx = None
        if live.run is not None and facts is not None:
            ctx = launch_context(live.run, live.box, facts.settings, facts.token)
        live.ctx = ctx
        await pump(live, link, ctx)

    async def release(self, key: str) -> None:
        """Stop looking after a box (it is about to go)."""
        for task in self._tasks.pop(key, []):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self.live.pop(key, None)

    async def retire(self, key: str, state: RunState, problem: str) -> None:
        """Record that a box is gone; its run, if not over already, becomes ``state``."""
        await self.release(key)
        now = self.deps.clock.now_ms()
        box = await self.deps.store.boxes.get(key)
        run = await self.run_of(key)
        if run is not None and run.state not in OVER:
            run = structs.replace(run, state=state, reason=None, changed_ms=now, problem=problem)
            await self.deps.store.runs.update(
                run,
                Event(
                    kind="run.state", at_ms=now, box=key, run=run.id, data={"name": box.name, "state": state}
                ),
            )
        if box.state is not BoxState.GONE:
            gone = structs.replace(box, state=BoxState.GONE, changed_ms=now, problem=problem)
            await self.deps.store.boxes.update(
                gone, Event(kind="box.destroyed", at_ms=now, box=key, data={"name": box.name})
            )

    async def attach_gateways(self, key: str) -> None:
        """Let the gateways serve a box (again)."""
        box = await self.deps.store.boxes.get(key)
        run = await self.run_of(key)
        provider = self.deps.providers[box.provider]
        if run is None or not isinstance(provider, Confines):
            return
        listeners = await provider.listeners(key)
        model, git = routes(self.deps, box, run, self.deps.agents[run.agent])
        model = structs.replace(model, terms=await terms_of(self.deps, box, run))
        try:
            egress = await route_of(self.deps, box, run)
            await self.deps.gateways.attach(key, run.id, listeners, model, git, egress)
        finally:
            for sock in listeners.values():
                sock.close()

    async def run_of(self, key: str) -> Run | None:
        """The newest run of a box."""
        runs = await self.deps.store.runs.of_box(key)
        return runs[-1] if runs else None
