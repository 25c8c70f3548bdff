"""Putting thopters to sleep and waking them: suspend, resume, restart, stop, and how long they may go on."""

from __future__ import annotations

import uuid

from msgspec import structs

from thopter.fleet.accept import Ids
from thopter.fleet.awake import RestartArgs, StopArgs, WakeArgs, Waker, record_state, stopper
from thopter.fleet.deps import Deps
from thopter.fleet.lease import ON_IDLE, new_lease, renewed
from thopter.fleet.live import LiveBox
from thopter.model.api import Accepted
from thopter.model.api.sleep import (
    KeepAliveRequest,
    LeaseView,
    RestartRequest,
    ResumeRequest,
    SuspendRequest,
    SuspendResult,
)
from thopter.model.errors import BadInput, NotFound, NotNow, Refused, Unsupported
from thopter.model.nouns import Box, BoxState, Lease, Run
from thopter.model.sockets import Stops, Suspends

_ATTEMPTS = 10_000


class Sleep:
    """Use cases; the work that outlives a call is in the flows of :class:`Waker`."""

    def __init__(self, deps: Deps) -> None:
        self.deps = deps
        self.waker = Waker(deps)

    # ------------------------------------------------------------------------------- suspend

    async def suspend(self, name: str, req: SuspendRequest) -> SuspendResult:
        """Freeze the box at once and give its memory back; ``disk``: end its processes, files stay.

        Idempotent: a box that sleeps already as deep stays as it is."""
        box = await self.deps.store.boxes.find(name)
        if box.state is BoxState.CREATING:
            raise NotNow(f"{box.name} is still being created", hint=f"'thopter wait {box.name}'")
        if box.state is BoxState.LOST and not req.disk:
            raise NotNow(f"{box.name} is lost", hint=f"'thopter resume {box.name}' starts it on its files")
        if box.state is BoxState.STOPPED:
            return SuspendResult(name=box.name, state=box.state)
        if req.disk:
            return await self._to_disk(box)
        return await self._to_memory(box)

    async def _to_memory(self, box: Box) -> SuspendResult:
        provider = self.deps.providers[box.provider]
        if not isinstance(provider, Suspends):
            raise Unsupported(f"boxes of provider {provider.name} can't be frozen")
        async with self.deps.crew.turnstile.through(box.id, box.name):
            await provider.freeze(box.id)
            box = await self._record(box, BoxState.SUSPENDED)
        freed = await provider.reclaim(box.id) if isinstance(provider, Stops) else 0
        return SuspendResult(name=box.name, state=box.state, reclaimed=freed)

    async def _record(self, box: Box, state: BoxState) -> Box:
        box = await record_state(self.deps, box, state)
        live = self.deps.crew.live.get(box.id)
        if live is not None:
            live.box = box
            await live.refold()
        return box

    async def _to_disk(self, box: Box) -> SuspendResult:
        stopper(self.deps, box)
        run = await self.deps.crew.run_of(box.id)
        args = StopArgs(box=box.id, name=box.name, run=run.id if run else "")
        async with self.deps.crew.turnstile.through(box.id, box.name, "stop"):
            flow = await self.attempt(f"flow_stop_{box.id}")
            await self.deps.engine.submit("stop", args, flow_id=flow)
        return SuspendResult(name=box.name, state=box.state, flow=flow)

    # -------------------------------------------------------------------------------- resume

    async def resume(self, name: str, req: ResumeRequest) -> Accepted:
        """Let a box go on, from whatever sleep or death, and its agent with its conversation; unless
        ``req`` says otherwise, an agent that died in the middle of a turn is told to go on.

        Asking twice at once is asking once; a thopter that is awake is left as it is."""
        box, run = await self._with_run(name)
        if box.state is BoxState.CREATING:
            raise NotNow(f"{box.name} is still being created", hint=f"'thopter wait {box.name}'")
        await self.renew(box.id)
        return await self.wake(box, run, req.go_on)

    async def wake(self, box: Box, run: Run, go_on: bool = True) -> Accepted:
        """Start (or join) the flow that wakes a box."""
        async with self.deps.crew.turnstile.through(box.id, box.name, "wake"):
            flow = await self.attempt(f"flow_wake_{box.id}")
            args = WakeArgs(
                box=box.id, name=box.name, run=run.id, life=_life(run, flow), spare=_session(flow),
                go_on=go_on,
            )  # fmt: skip
            await self.deps.engine.submit("wake", args, flow_id=flow)
        return Accepted(flow=flow, name=box.name, box=box.id, run=run.id)

    async def restart(self, name: str, req: RestartRequest) -> Accepted:
        """End the agent and start it again in its box, with its conversation unless ``fresh``."""
        live, run = await self._up(name)
        box = live.box
        async with self.deps.crew.turnstile.through(box.id, box.name, "restart"):
            flow = Ids.make(self.deps.clock.now_ms()).flow
            args = RestartArgs(
                box=box.id, name=box.name, run=run.id, life=_life(run, flow), spare=_session(flow),
                fresh=req.fresh,
            )  # fmt: skip
            await self.deps.engine.submit("restart", args, flow_id=flow)
        return Accepted(flow=flow, name=live.box.name, box=live.box.id, run=run.id)

    async def stop(self, name: str) -> None:
        """End the agent only; its box stays as it is. An agent that has ended: nothing to do."""
        live, run = await self._up(name)
        await self.waker.rouser.end(live.box.id, run.id)

    async def attempt(self, stem: str) -> str:
        """The id of the flow of this kind that is under way, else that of the next one."""
        for number in range(1, _ATTEMPTS):
            flow = f"{stem}.{number}"
            if not await self.deps.engine.knows(flow):
                return flow
            if (await self.deps.engine.status(flow)).status == "running":
                return flow
        raise Refused(f"{stem} was tried {_ATTEMPTS} times", hint="see 'thopter hub logs'")

    # ------------------------------------------------------------------------------ keepalive

    async def keepalive(self, name: str, req: KeepAliveRequest) -> LeaseView:
        """Begin the box's time anew, with new lengths where they are given."""
        box = await self.deps.store.boxes.find(name)
        lease = await self.lease_of(box.id)
        if req.on_idle and req.on_idle not in ON_IDLE:
            raise BadInput(f"{req.on_idle!r} is no action", hint="one of " + ", ".join(ON_IDLE))
        lease = structs.replace(
            lease,
            keep_min=lease.keep_min if req.keep_alive is None else req.keep_alive,
            idle_min=lease.idle_min if req.idle_timeout is None else req.idle_timeout,
            on_idle=req.on_idle or lease.on_idle,
        )
        lease = renewed(lease, self.deps.clock.now_ms())
        await self.deps.store.leases.put(lease)
        return view_of(box.name, lease)

    async def lease(self, name: str) -> LeaseView:
        """How long a box may go on."""
        box = await self.deps.store.boxes.find(name)
        return view_of(box.name, await self.lease_of(box.id))

    async def lease_of(self, box: str) -> Lease:
        """The recorded lease, or what a box without one would get now."""
        found = await self.deps.store.leases.get(box)
        return found or new_lease(box, self.deps.settings, self.deps.clock.now_ms())

    async def renew(self, box: str) -> None:
        """Begin the box's time anew: somebody wants it."""
        found = await self.deps.store.leases.get(box)
        if found is not None:
            await self.deps.store.leases.put(renewed(found, self.deps.clock.now_ms()))

    # -------------------------------------------------------------------------------- inside

    async def _with_run(self, name: str) -> tuple[Box, Run]:
        box = await self.deps.store.boxes.find(name)
        run = await self.deps.crew.run_of(box.id)
        if run is None:
            raise NotFound(f"{box.name} has no run")
        return box, run

    async def _up(self, name: str) -> tuple[LiveBox, Run]:
        box, run = await self._with_run(name)
        live = self.deps.crew.live.get(box.id)
        if live is None or box.state is not BoxState.READY:
            raise NotNow(f"{box.name} is {box.state}", hint=f"'thopter resume {box.name}' lets it go on")
        return live, run


def _life(run: Run, flow: str) -> str:
    """The name of the life that a flow begins: the same however often the flow is taken up."""
    return f"{run.id}.{flow.removeprefix('flow_').replace('_', '-')}"[:120]


def _session(flow: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "thopter:" + flow))


def view_of(name: str, lease: Lease) -> LeaseView:
    """A lease as people see it."""
    return LeaseView(
        name=name, keep_alive=lease.keep_min, expires_ms=lease.expires_ms, idle_timeout=lease.idle_min,
        idle_until_ms=lease.idle_until_ms, on_idle=lease.on_idle,
    )  # fmt: skip
