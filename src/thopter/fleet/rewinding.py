"""The flow ``rewind``: a thopter's files and conversation become those of a checkpoint of it.

What was there until then is itself saved first, so that nothing is lost: it can be gone back to. Where
the checkpoint can't be put in place, the box is made anew from that.
"""

from __future__ import annotations

import uuid
from typing import Any

from msgspec import Struct, structs

from thopter.fleet import walls
from thopter.fleet.accept import Ids
from thopter.fleet.deps import Deps
from thopter.fleet.facts import facts_of, how_to_wake
from thopter.fleet.launch import box_spec
from thopter.fleet.rouse import Rouser, Wish
from thopter.fleet.saving import Saver, describe, saves
from thopter.flow.engine import FlowContext
from thopter.model.api.snapshots import RewindAccepted, RewindRequest
from thopter.model.errors import Conflict, NotFound, NotNow
from thopter.model.events import Event
from thopter.model.ids import RunId
from thopter.model.nouns import Box, BoxState, Run, RunState, Snapshot, SnapshotKind
from thopter.store.store import Tx


class RewindArgs(Struct, frozen=True, kw_only=True):
    """``snap``: where to go back to; ``before``: what is saved first; ``run``: the run that goes on from
    there, ``was`` the one until now."""

    box: str
    name: str
    snap: str
    before: str
    run: str
    was: str
    session: str


class Rewinder:
    """Accepts and does it; bound to the fleet's parts."""

    def __init__(self, deps: Deps, saver: Saver) -> None:
        self.deps = deps
        self.saver = saver
        self.rouser = Rouser(deps)
        deps.engine.register("rewind", self.rewind, RewindArgs)

    async def accept(self, name: str, req: RewindRequest) -> RewindAccepted:
        """Record what is saved first, and start the flow: durable when this returns."""
        box = await self.deps.store.boxes.find(name)
        if box.state is BoxState.CREATING:
            raise NotNow(f"{box.name} is still being created", hint=how_to_wake(box))
        saves(self.deps, box.provider)
        target = _choose(box, await self.deps.store.snapshots.of_box(box.id), req.checkpoint)
        run = await self.deps.crew.run_of(box.id)
        if run is None:
            raise NotFound(f"{box.name} has no run")
        now = self.deps.clock.now_ms()
        ids = Ids.make(now)
        stem = ids.flow.partition("_")[2]
        before = await describe(self.deps, box, SnapshotKind.CHECKPOINT, stem, now)
        before = structs.replace(before, label=f"before going back to {target.label or target.id}")
        await self.deps.store.snapshots.insert(before)
        args = RewindArgs(
            box=box.id, name=box.name, snap=target.id, before=before.id, run=ids.run, was=run.id,
            session=str(uuid.uuid5(uuid.NAMESPACE_URL, "thopter:" + stem)),
        )  # fmt: skip
        if not await self.deps.engine.knows(ids.flow):  # else this very request was accepted before
            async with self.deps.crew.turnstile.through(box.id, box.name):
                await self.deps.engine.submit("rewind", args, flow_id=ids.flow)
        return RewindAccepted(flow=ids.flow, name=box.name, checkpoint=target.id, before=before.id)

    # ---------------------------------------------------------------------------------- flow

    async def rewind(self, ctx: FlowContext, args: RewindArgs) -> dict[str, Any]:
        """See the module docstring."""
        saved = await ctx.step("save", lambda: self._save(args), title="save what is there now")
        put_back = saved["saved"]
        await ctx.step("close", lambda: self._close(args), title="close its ways out")
        await ctx.step(
            "remove",
            lambda: self._remove(args),
            undo=lambda _v: self._put_back(args, put_back),
            undo_partial=True,
            title="take its files away",
        )
        await ctx.step("restore", lambda: self._restore(args), title="put the checkpoint in their place")
        await ctx.step("gateways", lambda: self.deps.crew.attach_gateways(args.box), title="gateways")
        await ctx.step("prepare", lambda: self.rouser.prepare(args.box, args.run), title="prepare agent")
        wish = Wish(run=args.run, life=args.run + ".rewind", spare=args.session)
        started = await ctx.step(
            "agent", lambda: self.rouser.start(args.box, wish, unless_running=False), title="start agent"
        )
        seen = await ctx.step(
            "sign", lambda: self.rouser.sign(args.box, wish.life, False), title="first sign of the agent"
        )
        problem = started["problem"] or seen["problem"]
        return {"name": args.name, "state": seen["state"], "problem": problem, "before": args.before}

    async def _save(self, args: RewindArgs) -> dict[str, Any]:
        """A box of which nothing is left has nothing to lose."""
        record = await self.deps.store.snapshots.get(args.before)
        tags = {"kind": str(record.kind), "source": args.name}
        try:
            handle = await saves(self.deps, record.provider).snapshot(args.box, args.before, tags)
        except NotFound:
            await self.saver.drop(args.before)
            return {"saved": False}
        await self.saver.ready(args.before, handle)
        return {"saved": True}

    async def _close(self, args: RewindArgs) -> None:
        await self.deps.crew.release(args.box)
        await self.deps.gateways.detach(args.box)

    async def _remove(self, args: RewindArgs) -> None:
        box = await self.deps.store.boxes.get(args.box)
        await self.deps.providers[box.provider].destroy(args.box)

    async def _restore(self, args: RewindArgs) -> None:
        box = await self._make(args, args.snap)
        target = await self.deps.store.snapshots.get(args.snap)
        now = self.deps.clock.now_ms()

        def record(tx: Tx) -> None:
            was = tx.runs.get(args.was)
            if was.state not in (RunState.DONE, RunState.FAILED, RunState.STOPPED):
                over = structs.replace(was, state=RunState.STOPPED, reason=None, changed_ms=now)
                tx.runs.update(over)
            tx.runs.insert(_run(args, was, target, now))
            tx.boxes.update(box)
            tx.cursors.forget(args.box)
            data = {
                "name": args.name,
                "state": box.state,
                "text": f"went back to {target.label or target.id}",
            }
            tx.events.append([Event(kind="box.state", at_ms=now, box=args.box, run=args.run, data=data)])

        await self.deps.crew.release(args.box)
        await self.deps.store.write(record)
        live = await self.deps.crew.adopt(args.box)
        await live.link(30.0)

    async def _make(self, args: RewindArgs, snap: str) -> Box:
        """The box anew from ``snap``, READY, not recorded yet."""
        box = structs.replace(await self.deps.store.boxes.get(args.box), snapshot=snap)
        facts = await facts_of(self.deps, box)
        assert facts is not None  # it was started from a recorded intent
        handle = await self.deps.providers[box.provider].ensure(box_spec(box, facts.token, self.deps.owner))
        walls.hold(box, handle.isolation)
        return structs.replace(
            box, state=BoxState.READY, problem="", isolation=handle.isolation,
            changed_ms=self.deps.clock.now_ms(), memory={**box.memory, "provider": dict(handle.memory)},
        )  # fmt: skip

    async def _put_back(self, args: RewindArgs, saved: bool) -> None:
        """Undo: the box from what was saved first; its agent comes back with 'thopter resume'."""
        if not saved:
            return
        await self._close(args)
        await self._remove(args)
        box = await self._make(args, args.before)

        def record(tx: Tx) -> None:
            tx.boxes.update(box)
            tx.cursors.forget(args.box)

        await self.deps.store.write(record)
        await self.deps.crew.adopt(args.box)
        await self.deps.crew.attach_gateways(args.box)


def _choose(box: Box, found: list[Snapshot], word: str) -> Snapshot:
    """The checkpoint that ``word`` names by label or (the beginning of an) id; empty: the newest."""
    if not found:
        raise NotFound(f"{box.name} has no checkpoint", hint=f"'thopter checkpoint {box.name}' makes one")
    if not word:
        return found[-1]
    labelled = [s for s in found if s.label == word]
    if labelled:
        return labelled[-1]
    near = [s for s in found if s.id.startswith(word) or s.id.removeprefix("snap_").startswith(word)]
    if len(near) == 1:
        return near[0]
    if not near:
        raise NotFound(f"{box.name} has no checkpoint {word!r}", hint=f"see 'thopter checkpoints {box.name}'")
    raise Conflict(f"{word!r} could be {', '.join(s.id for s in near[:8])}", hint="type more of the id")


def _run(args: RewindArgs, was: Run, target: Snapshot, now: int) -> Run:
    return structs.replace(
        was, id=RunId(args.run), state=RunState.QUEUED, reason=None, created_ms=now, changed_ms=now,
        session=target.session or was.session, problem="", exit_code=None, parent=target.run or was.id,
    )  # fmt: skip
