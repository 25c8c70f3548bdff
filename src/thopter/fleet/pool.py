"""The warm pool: boxes made ahead, with their agent started and waiting at its prompt.

What is wanted is in the store, and so is which box belongs to a pool; the loop here only compares that
with what there is, and makes, retires and replaces boxes through the same durable flows as everything
else. So it may be killed anywhere: a new hub goes on from the records. Runs take boxes in the
transaction that accepts them (``fleet.accept``), and the loop is told by ``deps.pool_wake``.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
from collections.abc import Callable, Sequence

from msgspec import convert, to_builtins

from thopter.fleet.accept import Acceptor
from thopter.fleet.deps import Deps
from thopter.fleet.end import end_box
from thopter.fleet.pool_rules import AT_ONCE, Plan, Seen, decide, fitness, retry_after
from thopter.model.api import FlowView, RunRequest
from thopter.model.api.pool import GOLDEN, PoolRequest, PoolView, WarmBox
from thopter.model.errors import BadInput, NotFound, ThopterError
from thopter.model.ids import new_id
from thopter.model.nouns import BoxState
from thopter.store.pools import FILLING, RETIRED, WARM, Pool, PoolBox

log = logging.getLogger(__name__)

BUSY_S = 0.5  # between two looks while boxes are under way
REST_S = 5.0
EMPTY_S = 60.0  # there is no pool: only being told matters
_PATIENCE_MS = 60_000  # how long the work of people holds the filling up
_AGAIN_MS = 60_000  # until a destruction that failed is tried again


class WarmPool:
    """One per hub: the use cases, and ``keep``, which runs as long as the hub."""

    def __init__(self, deps: Deps, acceptor: Acceptor) -> None:
        self.deps = deps
        self._acceptor = acceptor
        self._doubt: dict[str, int] = {}  # box -> since when it is not fit
        self._ending: dict[str, int] = {}  # box -> when its destruction was last asked for
        self._held_ms = 0  # since when people's work holds the filling up

    # ------------------------------------------------------------------------------ use cases

    async def set(self, req: PoolRequest) -> PoolView:
        """Keep ``req.want`` boxes ready; 0 ends the pool. Durable when this returns."""
        if req.want == 0:
            same = (req.snapshot, req.repo, req.agent)
            await self._remove(lambda p: (p.snapshot, p.repo, p.agent) == same)
            return PoolView(snapshot=req.snapshot, repo=req.repo, agent=req.agent, want=0)
        if req.furnishing.uploads:
            raise BadInput("uploads can't be kept warm", hint="put them into a snapshot, and keep that warm")
        more = (("permission_mode", req.permission_mode), ("model", req.model))
        wish = {k: v for k, v in more if v} | {"furnishing": to_builtins(req.furnishing)}
        pool = Pool(
            id=new_id("pool", self.deps.clock.now_ms()), snapshot=req.snapshot, repo=req.repo,
            agent=req.agent, want=req.want, created_ms=self.deps.clock.now_ms(), wish=wish,
        )  # fmt: skip
        await self._acceptor.recipe(_request(pool))  # refuses what no box could be made of
        pool = await self.deps.store.pools.put(pool)
        self.deps.pool_wake.set()
        return await self._view(pool, await self.deps.store.pools.boxes())

    async def list(self) -> list[PoolView]:
        """What is kept ready, and what is ready now."""
        boxes = await self.deps.store.pools.boxes()
        return [await self._view(pool, boxes) for pool in await self.deps.store.pools.all()]

    async def clear(self, snapshot: str) -> builtins.list[PoolView]:
        """Keep none ready any more of this snapshot (empty: at all); their boxes are destroyed in the
        background. Returns the pools as they were."""
        boxes = await self.deps.store.pools.boxes()
        gone = await self._remove(lambda p: snapshot in ("", p.snapshot))
        if snapshot and not gone:
            raise NotFound(f"there is no pool of {snapshot!r}", hint="see 'thopter pool list'")
        return [await self._view(pool, boxes) for pool in gone]

    async def _remove(self, which: Callable[[Pool], bool]) -> builtins.list[Pool]:
        gone = await self.deps.store.pools.remove(which)
        self.deps.pool_wake.set()
        return gone

    async def _view(self, pool: Pool, boxes: Sequence[PoolBox]) -> PoolView:
        shown = [await self._warm(b) for b in boxes if b.pool == pool.id]
        return PoolView(
            snapshot=pool.snapshot, repo=pool.repo, agent=pool.agent, want=pool.want, taken=pool.taken,
            ready=sum(b.state == WARM for b in shown), filling=sum(b.state == FILLING for b in shown),
            problem=pool.problem, retry_ms=pool.retry_ms if pool.problem else 0, boxes=shown,
            permission_mode=str(pool.wish.get("permission_mode", "")), model=str(pool.wish.get("model", "")),
        )  # fmt: skip

    async def _warm(self, one: PoolBox) -> WarmBox:
        box = await self.deps.store.boxes.get(one.box)
        live = self.deps.crew.live.get(one.box)
        unready = one.state == WARM and fitness(live, box.state) != "fit"
        state = "unready" if unready else one.state
        return WarmBox(name=box.name, box=box.id, state=state, since_ms=box.changed_ms)

    # ------------------------------------------------------------------------------ the loop

    async def keep(self) -> None:
        """Look again and again, and at once when told; trouble is logged and shown, never raised."""
        while True:
            self.deps.pool_wake.clear()
            try:
                pause = await self.look()
            except ThopterError as e:
                log.error("the warm pool could not be looked after: %s", e.message)
                pause = REST_S
            try:
                async with asyncio.timeout(pause):
                    await self.deps.pool_wake.wait()
            except TimeoutError:
                continue

    async def look(self) -> float:
        """One look at all pools; returns the seconds until the next one."""
        pools = await self.deps.store.pools.all()
        boxes = await self.deps.store.pools.boxes()
        if not pools and not boxes:
            return EMPTY_S
        by_pool: dict[str, builtins.list[Seen]] = {p.id: [] for p in pools}
        for one in boxes:
            by_pool.setdefault(one.pool, []).append(await self._see(one))
        under_way = sum(b.state == FILLING for b in boxes)
        slots = 0 if await self._people_first(boxes) else max(0, AT_ONCE - under_way)
        known = {p.id: p for p in pools}
        for key, seen in by_pool.items():
            pool = known.get(key)
            recipe, problem = await self._recipe(pool) if pool is not None else ("", "")
            plan = decide(pool, seen, recipe, self.deps.clock.now_ms(), 0 if problem else slots)
            slots -= plan.fill
            under_way += plan.fill
            await self._do(pool, plan, problem)
        return BUSY_S if under_way or self._held_ms else REST_S

    async def _see(self, one: PoolBox) -> Seen:
        box = await self.deps.store.boxes.get(one.box)
        now = self.deps.clock.now_ms()
        flow, problem = "done", ""
        if one.state == FILLING:
            flow, problem = await self._making(one.flow)
        fit = fitness(self.deps.crew.live.get(one.box), box.state)
        if fit == "fit":
            self._doubt.pop(one.box, None)
        doubt = 0 if fit == "fit" else now - self._doubt.setdefault(one.box, now)
        return Seen(
            box=one.box, state=one.state, recipe=one.recipe, box_state=box.state, flow=flow, problem=problem,
            fitness=fit, doubt_ms=doubt,
        )  # fmt: skip

    async def _making(self, flow: str) -> tuple[str, str]:
        """How the flow that makes a box stands, and its problem."""
        try:
            view: FlowView = await self.deps.engine.status(flow)
        except NotFound:  # accepted just now, or so long ago that it is forgotten
            return "running", ""
        error = view.error or {}
        problem = str(error.get("message") or view.result.get("problem") or "")
        return ("called off", "") if error.get("code") == "cancelled" else (view.status, problem)

    async def _people_first(self, boxes: Sequence[PoolBox]) -> bool:
        """True while a start that somebody waits for is under way, for a minute at most."""
        ours = {b.flow for b in boxes}
        pending = await self.deps.engine.pending()
        theirs = any(flow not in ours and "prompt" in args for flow, args in pending.items())
        now = self.deps.clock.now_ms()
        self._held_ms = (self._held_ms or now) if theirs else 0
        return theirs and now - self._held_ms < _PATIENCE_MS

    async def _recipe(self, pool: Pool) -> tuple[str, str]:
        """What a box of this pool is made of now, or why none can be made. What is missing for good
        makes every box of the pool stale; any other trouble leaves them alone."""
        try:
            return await self._acceptor.recipe(_request(pool)), ""
        except (NotFound, BadInput) as e:
            return "nothing", e.message
        except ThopterError as e:
            return "", e.message

    async def _do(self, pool: Pool | None, plan: Plan, problem: str) -> None:
        store = self.deps.store.pools
        for box in plan.forget:
            await store.forget(box)
            self._doubt.pop(box, None)
            self._ending.pop(box, None)
        for box in plan.warm:
            await store.become(box, FILLING, WARM)
        for box in plan.call_off:
            await self.deps.engine.cancel(next(b.flow for b in await store.boxes() if b.box == box))
        for box in plan.retire:
            await self._retire(box)
        if pool is None:
            return
        if problem:
            if pool.problem != problem:
                await store.trouble(pool.id, problem, 0, 0)
        elif plan.problem is not None and (plan.problem or pool.problem):
            await self._trouble(pool, plan.problem)
        elif pool.problem and not pool.failures:
            await store.trouble(pool.id, "", 0, 0)  # what was missing is there again
        for _ in range(plan.fill):
            try:
                await self._acceptor.fill(_request(pool), pool.id)
            except ThopterError as e:
                await self._trouble(pool, e.message)
                return

    async def _trouble(self, pool: Pool, problem: str) -> None:
        failures = pool.failures + 1 if problem else 0
        retry = self.deps.clock.now_ms() + retry_after(failures) if problem else 0
        if problem:
            log.warning("the pool of %s could not be filled: %s", pool.snapshot, problem)
        await self.deps.store.pools.trouble(pool.id, problem, failures, retry)

    async def _retire(self, key: str) -> None:
        """Destroy a box, unless a run has taken it at the last moment."""
        store = self.deps.store.pools
        if await store.become(key, WARM, RETIRED) or await store.become(key, FILLING, RETIRED):
            self._ending.pop(key, None)
        elif not await store.holds(key):
            return
        now = self.deps.clock.now_ms()
        if now - self._ending.get(key, 0) < _AGAIN_MS:
            return
        self._ending[key] = now
        box = await self.deps.store.boxes.get(key)
        if box.state is not BoxState.GONE:
            await end_box(self.deps, box)


def _request(pool: Pool) -> RunRequest:
    """The request whose runs take boxes of this pool, without its prompt."""
    named = {"fresh": True} if pool.snapshot == GOLDEN else {"snapshot": pool.snapshot}
    whole = {"prompt": "", "repo": pool.repo, "agent": pool.agent, **named, **pool.wish}
    return convert(whole, RunRequest)
