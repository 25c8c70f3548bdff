"""The flow ``fork``: N new thopters with the files of one *and its conversation*; the one goes on.

One flow makes them all, each fork in steps of its own: one that fails is undone and told, the others
stand. The saved box in the middle is dropped at the end.
"""

from __future__ import annotations

import hashlib
import uuid
from functools import partial
from typing import Any

from msgspec import Struct, field, structs

from thopter.fleet import walls
from thopter.fleet.accept import Ids
from thopter.fleet.branch import own_branch
from thopter.fleet.deps import Deps
from thopter.fleet.facts import facts_of, how_to_wake
from thopter.fleet.forking_live import LiveForker, heritage
from thopter.fleet.launch import box_spec, new_token
from thopter.fleet.lease import new_lease
from thopter.fleet.rouse import Rouser, Wish
from thopter.fleet.saving import Saver, describe, saves
from thopter.fleet.tell import check_text
from thopter.flow.engine import FlowContext
from thopter.model.api.snapshots import ForkAccepted, ForkRequest
from thopter.model.errors import Cancelled, NotFound, NotNow, Refused, ThopterError
from thopter.model.events import Event
from thopter.model.ids import NAME_MAX, BoxId, RunId, check_name
from thopter.model.nouns import Box, BoxState, Run, RunState, SnapshotKind
from thopter.store.budgets import Budget
from thopter.store.intents import Intent
from thopter.store.store import Tx

_NAMES_TRIED = 500


class Fork(Struct, frozen=True, kw_only=True):
    """One of the forks: its ids and its name, as recorded."""

    box: str
    run: str
    name: str
    session: str
    token: str


class ForkArgs(Struct, frozen=True, kw_only=True):
    """What the flow needs. ``box``, ``name``: the thopter that is forked."""

    box: str
    name: str
    snap: str
    prompt: str
    as_is: bool
    live: bool = False
    forks: tuple[Fork, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


class Forker:
    """Accepts forks and makes them; bound to the fleet's parts."""

    def __init__(self, deps: Deps, saver: Saver) -> None:
        self.deps = deps
        self.saver = saver
        self.rouser = Rouser(deps)
        self.living = LiveForker(deps, saver)
        deps.engine.register("fork", self.fork, ForkArgs)

    # -------------------------------------------------------------------------------- accept

    async def accept(self, name: str, req: ForkRequest) -> ForkAccepted:
        """Record N boxes with their names and start the flow: durable when this returns."""
        box = await self.deps.store.boxes.find(name)
        self._check(box, req)
        if req.live:
            await self.living.check(box, req.prompt)
        run = await self.deps.crew.run_of(box.id)
        facts = await facts_of(self.deps, box)
        if run is None or facts is None:
            raise NotFound(f"how {box.name} was started is not on record")
        problem = self.deps.credential_problem(run.agent)
        if problem:
            raise Refused(problem, hint="'thopter setup' stores one")
        now = self.deps.clock.now_ms()
        flow = Ids.make(now).flow
        stem = flow.partition("_")[2]
        snap = await describe(self.deps, box, SnapshotKind.FORK, stem, now)
        wanted = _candidates(box.name, req)
        parent: Run = run

        def record(tx: Tx) -> Intent:
            made: list[Fork] = []
            allowed = tx.budgets.get(box.id).own  # each may spend what the original was given
            for number in range(req.count):
                one = _ids(stem, number)
                wish = structs.replace(
                    box, id=BoxId(one.box), state=BoxState.CREATING, changed_ms=now,
                    created_ms=now + number,  # lists show them in the order of their numbers
                    problem="", snapshot=snap.id, isolation=None,
                    memory={"flow": flow} | {k: box.memory[k] for k in ("policy",) if k in box.memory}
                    | (heritage(box, parent, facts.token, one.run) if req.live else {}),
                )  # fmt: skip
                taken = {f.name for f in made}
                reserved = tx.boxes.reserve_name(wish, [n for n in wanted if n not in taken])
                one = structs.replace(one, name=reserved.name)
                tx.runs.insert(_run(one, parent, req.prompt, now))
                tx.leases.put(new_lease(one.box, self.deps.settings, now))
                tx.budgets.put(Budget(box=one.box, own=allowed))
                made.append(one)
                data = {"name": one.name, "parent": parent.id}
                tx.events.append(
                    [Event(kind="run.created", at_ms=now, box=one.box, run=one.run, flow=flow, data=data)]
                )
            tx.snapshots.insert(snap)
            args = ForkArgs(
                box=box.id, name=box.name, snap=snap.id, prompt=req.prompt, as_is=req.as_is,
                live=req.live, forks=tuple(made), settings=facts.settings,
            )  # fmt: skip
            request = structs.asdict(args) | {"forks": [structs.asdict(f) for f in made]}
            return tx.intents.add(Intent(id=flow, kind="fork", request=request, created_ms=now, flow=flow))

        intent = await self.deps.store.write(record)
        args = ForkArgs(**(intent.request | {"forks": tuple(Fork(**f) for f in intent.request["forks"])}))
        await self.deps.engine.submit("fork", args, flow_id=flow)
        return ForkAccepted(flow=flow, names=[f.name for f in args.forks])

    def _check(self, box: Box, req: ForkRequest) -> None:
        if req.prompt:
            check_text(req.prompt)
        if req.name:
            check_name(req.name)
        if box.state is BoxState.CREATING:
            raise NotNow(f"{box.name} is still being created", hint=how_to_wake(box))
        saves(self.deps, box.provider)

    # ---------------------------------------------------------------------------------- flow

    async def fork(self, ctx: FlowContext, args: ForkArgs) -> dict[str, Any]:
        """See the module docstring. The result has ``forks``: ``{name, ok, state, problem}`` each."""
        await ctx.step("accept", lambda: self._stand(args), undo=lambda _v: self._give_up(args))
        await ctx.step("snapshot", lambda: self._snapshot(args), title=f"save {args.name}")
        told: list[dict[str, Any]] = []
        for number, one in enumerate(args.forks, 1):
            told.append(await self._one(ctx, args, number, one))
        for number, one in enumerate(args.forks, 1):
            if told[number - 1]["ok"]:
                told[number - 1] |= await ctx.step(
                    f"sign{number}", partial(self._sign, args, one), title=f"{one.name}: first sign"
                )
        await ctx.step("drop", lambda: self.saver.drop(args.snap), title="remove the saved box")
        if not any(t["ok"] for t in told):
            raise ThopterError(f"none of the forks of {args.name} could be made: {told[0]['problem']}")
        return {"name": args.name, "forks": told}

    async def _one(self, ctx: FlowContext, args: ForkArgs, number: int, one: Fork) -> dict[str, Any]:
        """Make one fork, or undo what there is of it and say why."""

        async def step(verb: str, fn: Any) -> Any:
            return await ctx.step(f"{verb}{number}", fn, title=f"{one.name}: {verb}")

        try:
            await step("box", lambda: self._box(args, one))
            await step("gateways", lambda: self.deps.crew.attach_gateways(one.box))
            if not args.as_is:
                await step("repository", lambda: self._repository(args, one))
            await step("prepare", lambda: self.rouser.prepare(one.box, one.run))
            started = await step("processes" if args.live else "agent", lambda: self._agent(args, one))
        except Cancelled:
            raise
        except ThopterError as e:
            why = e.message
            why += await step("undo", lambda: self._clear(one, why))
            return {"name": one.name, "ok": False, "state": "failed", "problem": why}
        return {"name": one.name, "ok": True, "state": "starting", "problem": started["problem"]}

    async def _stand(self, args: ForkArgs) -> list[str]:
        return [(await self.deps.store.boxes.get(f.box)).name for f in args.forks]

    async def _give_up(self, args: ForkArgs) -> None:
        await self.saver.drop(args.snap)
        for one in args.forks:
            await self._undo(one, "it could not be forked")

    async def _undo(self, one: Fork, why: str) -> None:
        box = await self.deps.store.boxes.get(one.box)
        if box.state is BoxState.GONE:
            return
        await self.deps.crew.release(one.box)
        await self.deps.gateways.detach(one.box)
        await self.deps.providers[box.provider].destroy(one.box)
        await self.deps.crew.retire(one.box, RunState.FAILED, why)

    async def _clear(self, one: Fork, why: str) -> str:
        """Undo one. What can't be removed stays on record as lost, for 'thopter destroy': the other forks
        stand all the same. Returns what is to be said of that."""
        try:
            await self._undo(one, why)
        except (ThopterError, OSError) as e:
            left = f"; what there is of it could not be removed: {e}"
            box, now = await self.deps.store.boxes.get(one.box), self.deps.clock.now_ms()
            run = await self.deps.store.runs.get(one.run)
            lost = structs.replace(box, state=BoxState.LOST, changed_ms=now, problem=why + left)
            await self.deps.store.boxes.update(
                lost,
                Event(kind="box.state", at_ms=now, box=box.id, data={"name": box.name, "state": lost.state}),
            )
            await self.deps.store.runs.update(
                structs.replace(run, state=RunState.FAILED, reason=None, changed_ms=now, problem=why + left)
            )
            return left
        return ""

    async def _snapshot(self, args: ForkArgs) -> int:
        if args.live:
            return await self.living.snapshot(args.box, args.snap, {f.run: _life(f) for f in args.forks})
        record = await self.deps.store.snapshots.get(args.snap)
        tags = {"kind": str(record.kind), "source": args.name}
        handle = await saves(self.deps, record.provider).snapshot(args.box, args.snap, tags)
        await self.saver.ready(args.snap, handle)
        return handle.own_bytes

    async def _box(self, args: ForkArgs, one: Fork) -> dict[str, Any]:
        box = await self.deps.store.boxes.get(one.box)
        provider = self.deps.providers[box.provider]
        handle = await provider.ensure(box_spec(box, one.token, self.deps.owner))
        walls.hold(box, handle.isolation)
        now = self.deps.clock.now_ms()
        made = structs.replace(
            box, state=BoxState.READY, isolation=handle.isolation, changed_ms=now,
            memory={**box.memory, "provider": dict(handle.memory)},
        )  # fmt: skip
        await self.deps.store.boxes.update(made)
        live = await self.deps.crew.adopt(one.box)
        await live.link(30.0)
        return {"isolation": handle.isolation}

    async def _repository(self, args: ForkArgs, one: Fork) -> None:
        live = await self.deps.crew.adopt(one.box)
        run = await self.deps.store.runs.get(one.run)
        await own_branch(self.deps, await live.link(30.0), run, one.box, one.name, locks=not args.live)

    async def _agent(self, args: ForkArgs, one: Fork) -> dict[str, Any]:
        if args.live:
            return await self.living.start(one.box, args.snap, one.run, _life(one))
        wish = Wish(run=one.run, life=_life(one), spare=one.session, prompt=args.prompt)
        return await self.rouser.start(one.box, wish, unless_running=False)

    async def _sign(self, args: ForkArgs, one: Fork) -> dict[str, Any]:
        seen = await self.rouser.sign(one.box, _life(one), bool(args.prompt))
        return {"state": seen["state"], "problem": seen["problem"]}


def _life(one: Fork) -> str:
    return one.run + ".fork"


def _candidates(name: str, req: ForkRequest) -> list[str]:
    """Names in the order in which they are tried."""
    if req.name and req.count == 1:
        return [req.name]
    base = (req.name or name)[: NAME_MAX - 4].rstrip("-")
    return [f"{base}-{n}" for n in range(1 if req.name else 2, _NAMES_TRIED)]


def _ids(stem: str, number: int) -> Fork:
    """The same ids at every attempt at one request; the token opens only that box's hook listener."""
    digest = hashlib.sha256(f"fork {number} {stem}".encode()).hexdigest()[:26]
    session = str(uuid.uuid5(uuid.NAMESPACE_URL, f"thopter:fork {number} {stem}"))
    return Fork(box="box_" + digest, run="run_" + digest, name="", session=session, token=new_token())


def _run(one: Fork, parent: Run, prompt: str, now: int) -> Run:
    return structs.replace(
        parent, id=RunId(one.run), box=BoxId(one.box), prompt=prompt or parent.prompt, state=RunState.QUEUED,
        reason=None, created_ms=now, changed_ms=now, session=one.session, problem="", exit_code=None,
        parent=parent.id,
    )  # fmt: skip


__all__ = ["Fork", "ForkArgs", "Forker"]
