"""Flows that end and begin a box's processes: ``stop`` (its files stay), ``wake`` (from whatever
sleep or death), ``restart`` (the agent only). Each step is recorded and safe to repeat; none is undone,
because a box that can't be woken still has its files."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, structs

from thopter.fleet import walls
from thopter.fleet.deps import Deps
from thopter.fleet.facts import facts_of
from thopter.fleet.launch import box_spec
from thopter.fleet.rouse import Rouser, Wish
from thopter.flow.engine import FlowContext
from thopter.model.errors import NotFound, Refused, Unsupported
from thopter.model.events import Event
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.nouns import Box, BoxState
from thopter.model.sockets import BoxHandle, Stops, Suspends


class StopArgs(Struct, frozen=True, kw_only=True):
    """Which box is to be put to sleep on the disk, with its run (empty: it has none)."""

    box: str
    name: str
    run: str = ""


class WakeArgs(Struct, frozen=True, kw_only=True):
    """Which box shall go on, and how its agent shall come back."""

    box: str
    name: str
    run: str
    life: str
    spare: str
    go_on: bool = True


class RestartArgs(Struct, frozen=True, kw_only=True):
    """Whose agent shall be ended and started again; ``fresh`` without its conversation."""

    box: str
    name: str
    run: str
    life: str
    spare: str
    fresh: bool = False


class Waker:
    """The steps; bound to the fleet's parts, registered with the flow engine."""

    def __init__(self, deps: Deps) -> None:
        self.deps = deps
        self.rouser = Rouser(deps)
        deps.engine.register("stop", self.stop, StopArgs)
        deps.engine.register("wake", self.wake, WakeArgs)
        deps.engine.register("restart", self.restart, RestartArgs)

    # ---------------------------------------------------------------------------------- stop

    async def stop(self, ctx: FlowContext, args: StopArgs) -> dict[str, Any]:
        """End every process of the box and keep its files."""
        await ctx.step("close", lambda: self._close(args), title="close its ways out")
        await ctx.step("halt", lambda: self._halt(args), title="end its processes")
        return {"name": args.name, "state": "stopped"}

    async def _close(self, args: StopArgs) -> None:
        if args.run:
            now = self.deps.clock.now_ms()
            stop = Evidence(
                source=Source.HUB, fact=Fact.STOP_REQUESTED, at_ms=now, seen_ms=now,
                detail="put to sleep on the disk", data={"pause": True},
            )  # fmt: skip
            await self.deps.store.evidence.add(args.run, [stop])
        await self.deps.crew.release(args.box)
        await self.deps.gateways.detach(args.box)

    async def _halt(self, args: StopArgs) -> None:
        box = await self.deps.store.boxes.get(args.box)
        await stopper(self.deps, box).stop(args.box)
        await record_state(self.deps, box, BoxState.STOPPED)
        await (await self.deps.crew.adopt(args.box)).refold()

    # ---------------------------------------------------------------------------------- wake

    async def wake(self, ctx: FlowContext, args: WakeArgs) -> dict[str, Any]:
        """From frozen, suspended, stopped or lost to an agent that goes on with its conversation."""
        was = await ctx.step("look", lambda: self._look(args), title="look at the box")
        if was in (BoxState.FROZEN, BoxState.SUSPENDED):
            await ctx.step("thaw", lambda: self._thaw(args), title="let its processes go on")
        elif was in (BoxState.STOPPED, BoxState.LOST):
            await ctx.step("revive", lambda: self._revive(args), title="start the box on its files")
        await ctx.step("gateways", lambda: self.deps.crew.attach_gateways(args.box), title="gateways")
        wish = Wish(run=args.run, life=args.life, spare=args.spare, go_on=args.go_on)
        alive = was not in (BoxState.STOPPED, BoxState.LOST)
        started = await ctx.step("agent", lambda: self.rouser.start(args.box, wish, unless_running=alive))
        return await self._signed(ctx, args.name, args.box, args.life, started)

    async def _signed(
        self, ctx: FlowContext, name: str, box: str, life: str, started: dict[str, Any]
    ) -> dict[str, Any]:
        """The outcome, once a started agent has shown itself."""
        if not started["started"]:
            live = await self.deps.crew.adopt(box)
            return {"name": name, "state": live.verdict.state, "problem": "", "agent": "was running"}
        seen = await ctx.step(
            "sign", lambda: self.rouser.sign(box, life, False), title="first sign of the agent"
        )
        told = {k: started.get(k, 0) for k in ("again", "go_on")}
        problem = started["problem"] or seen["problem"]
        return {"name": name, **seen, "problem": problem, "agent": "started", **told}

    async def _look(self, args: WakeArgs) -> str:
        box = await self.deps.store.boxes.get(args.box)
        try:
            handle = await self.deps.providers[box.provider].get(args.box)
        except NotFound:
            raise Refused(
                f"nothing is left of the box of {args.name}",
                hint=f"'thopter checkpoints {args.name}' may show one to go back to; else 'thopter destroy'",
            ) from None
        walls.hold(box, handle.isolation)
        return str(handle.state)

    async def _thaw(self, args: WakeArgs) -> None:
        box = await self.deps.store.boxes.get(args.box)
        provider = self.deps.providers[box.provider]
        if not isinstance(provider, Suspends):
            raise Unsupported(f"boxes of provider {provider.name} can't be thawed")
        await provider.thaw(args.box)
        live = await self.deps.crew.adopt(args.box)
        live.box = await record_state(self.deps, box, BoxState.READY)
        await live.refold()

    async def _revive(self, args: WakeArgs) -> None:
        box = await self.deps.store.boxes.get(args.box)
        facts = await facts_of(self.deps, box)
        if facts is None:
            raise Refused(f"how {args.name} was started is not on record")
        await self.deps.crew.release(args.box)
        handle = await stopper(self.deps, box).revive(box_spec(box, facts.token, self.deps.owner))
        walls.hold(box, handle.isolation)
        await record_state(self.deps, box, BoxState.READY, handle)
        live = await self.deps.crew.adopt(args.box)
        await live.link(30.0)

    # ------------------------------------------------------------------------------- restart

    async def restart(self, ctx: FlowContext, args: RestartArgs) -> dict[str, Any]:
        """End the agent and start it again in its box."""
        await ctx.step("end", lambda: self.rouser.end(args.box, args.run), title="end the agent")
        wish = Wish(run=args.run, life=args.life, spare=args.spare, fresh=args.fresh)
        started = await ctx.step("agent", lambda: self.rouser.start(args.box, wish, unless_running=False))
        return await self._signed(ctx, args.name, args.box, args.life, started)


def stopper(deps: Deps, box: Box) -> Stops:
    """The box's provider, which can end and begin its processes; Unsupported."""
    provider = deps.providers[box.provider]
    if not isinstance(provider, Stops):
        raise Unsupported(
            f"boxes of provider {box.provider} can't be stopped and started again",
            hint=f"'thopter freeze {box.name}' stops its processes where they are",
        )
    return provider


async def record_state(deps: Deps, box: Box, state: BoxState, handle: BoxHandle | None = None) -> Box:
    """Record the box's new state, and tell it; the same state again is no news."""
    now = deps.clock.now_ms()
    memory = {**box.memory, "provider": dict(handle.memory)} if handle is not None else box.memory
    if state is box.state and memory == box.memory:
        return box
    changed = structs.replace(box, state=state, changed_ms=now, problem="", memory=memory)
    await deps.store.boxes.update(
        changed, Event(kind="box.state", at_ms=now, box=box.id, data={"name": box.name, "state": state})
    )
    return changed
