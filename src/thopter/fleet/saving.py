"""Flows that make saved boxes: ``save`` (a snapshot or a checkpoint of a box, also in place of an
older one) and ``build`` (from a distribution or an image). Recorded before made, dropped when they fail."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from msgspec import Struct, structs

from thopter.fleet.deps import Deps
from thopter.fleet.golden import have_golden
from thopter.flow.engine import FlowContext
from thopter.model.api import RunRequest
from thopter.model.errors import NotFound, NotNow, ProviderError, ThopterError, Unsupported
from thopter.model.events import Event
from thopter.model.nouns import Box, BoxState, Snapshot, SnapshotKind, SnapshotState
from thopter.model.sockets import SnapshotHandle, Snapshots
from thopter.store.store import Tx

log = logging.getLogger(__name__)


class SaveArgs(Struct, frozen=True, kw_only=True):
    """Which box becomes which snapshot; ``replaces`` is the one that gives its name (``as_name``) to it
    and goes. ``keep`` bounds the checkpoints of turns that the box keeps (0: all)."""

    box: str
    name: str
    snap: str
    replaces: str = ""
    as_name: str = ""
    keep: int = 0


class BuildArgs(Struct, frozen=True, kw_only=True):
    """What a built snapshot is made of."""

    snap: str
    name: str
    source: str
    packages: tuple[str, ...] = ()


class Saver:
    """The steps; bound to the fleet's parts, registered with the flow engine."""

    def __init__(self, deps: Deps) -> None:
        self.deps = deps
        deps.engine.register("save", self.save, SaveArgs)
        deps.engine.register("build", self.build, BuildArgs)

    async def save(self, ctx: FlowContext, args: SaveArgs) -> dict[str, Any]:
        """Save a box as it is at one instant. The result is ``{"name", "snapshot", "size"}``."""
        await ctx.step("accept", lambda: self._stands(args.snap), undo=lambda _v: self.drop(args.snap))
        size = await ctx.step("snapshot", lambda: self._snapshot(args), title="save the box")
        await ctx.step("keep", lambda: self._keep(args))
        if args.replaces:
            await ctx.step("drop", lambda: self.drop(args.replaces), title="remove the one it replaces")
        if args.keep:
            for old in await ctx.step("surplus", lambda: self._surplus(args)):
                await ctx.step(f"drop {old}", partial(self.drop, old), title="remove an old checkpoint")
        return {"name": args.name, "snapshot": args.snap, "size": size}

    async def _stands(self, snap: str) -> str:
        return (await self.deps.store.snapshots.get(snap)).name

    async def _snapshot(self, args: SaveArgs) -> int:
        box = await self.deps.store.boxes.get(args.box)
        if box.state in (BoxState.GONE, BoxState.CREATING):
            raise NotNow(f"{args.name} is {box.state}", hint="there is no box to save")
        record = await self.deps.store.snapshots.get(args.snap)
        tags = {"name": record.name, "kind": str(record.kind), "source": args.name}
        try:
            handle = await saves(self.deps, box.provider).snapshot(args.box, args.snap, tags)
        except NotFound as e:
            raise NotNow(f"nothing is left of the box of {args.name}: {e.message}") from None
        await self.ready(args.snap, handle)
        return handle.own_bytes

    async def ready(self, snap: str, handle: SnapshotHandle) -> Snapshot:
        """Record that it is there."""
        record = await self.deps.store.snapshots.get(snap)
        made = structs.replace(
            record, state=SnapshotState.READY, size=handle.own_bytes, golden=handle.golden,
            parent=record.parent or handle.parent,
        )  # fmt: skip
        now = self.deps.clock.now_ms()
        data = {"name": made.name or made.id, "kind": made.kind, "source": made.box_name}
        event = Event(kind="snapshot.made", at_ms=now, box=made.box, data=data)
        await self.deps.store.snapshots.update(made, *([event] if record.state is not made.state else []))
        return made

    async def _keep(self, args: SaveArgs) -> None:
        """Hand the name over: in one transaction, so that it names one of the two at any moment."""
        if not args.replaces:
            return

        def swap(tx: Tx) -> None:
            old, new = tx.snapshots.get(args.replaces), tx.snapshots.get(args.snap)
            if old.state is not SnapshotState.GONE:
                tx.snapshots.update(structs.replace(old, state=SnapshotState.DROPPING))
            tx.snapshots.update(structs.replace(new, name=args.as_name))

        await self.deps.store.write(swap)

    async def _surplus(self, args: SaveArgs) -> list[str]:
        turns = [s for s in await self.deps.store.snapshots.of_box(args.box) if s.turn_ms and not s.label]
        return [s.id for s in turns[: max(len(turns) - args.keep, 0)]]

    async def drop(self, snap: str) -> None:
        """Remove a saved box and its record; what was started from it lives on. Gone already: success."""
        try:
            record = await self.deps.store.snapshots.get(snap)
        except NotFound:
            return
        if record.state is SnapshotState.GONE:
            return
        if record.state is not SnapshotState.DROPPING:
            record = structs.replace(record, state=SnapshotState.DROPPING)
            await self.deps.store.snapshots.update(record)
        if record.provider in self.deps.providers:
            await saves(self.deps, record.provider).drop_snapshot(snap)
        gone = structs.replace(record, state=SnapshotState.GONE)
        now = self.deps.clock.now_ms()
        data = {"name": record.name or record.id, "kind": record.kind}
        await self.deps.store.snapshots.update(
            gone, Event(kind="snapshot.dropped", at_ms=now, box=record.box, data=data)
        )

    # --------------------------------------------------------------------------------- build

    async def build(self, ctx: FlowContext, args: BuildArgs) -> dict[str, Any]:
        """Make a snapshot whose whole root comes from ``args.source``."""
        await ctx.step("accept", lambda: self._stands(args.snap), undo=lambda _v: self.drop(args.snap))
        await ctx.step("golden", lambda: self._golden(ctx, args), title="golden box")
        size = await ctx.step("build", lambda: self._build(ctx, args), title=f"build from {args.source}")
        return {"name": args.name, "snapshot": args.snap, "size": size}

    async def _golden(self, ctx: FlowContext, args: BuildArgs) -> bool:
        """Its agents are put into what is built."""
        record = await self.deps.store.snapshots.get(args.snap)
        provider = self.deps.providers[record.provider]
        agent = RunRequest(prompt="").agent
        return await have_golden(
            self.deps, ctx, provider, agent, self.deps.settings.section(f"agents.{agent}")
        )

    async def _build(self, ctx: FlowContext, args: BuildArgs) -> int:
        record = await self.deps.store.snapshots.get(args.snap)
        provider = saves(self.deps, record.provider)
        tags = {"name": record.name, "kind": str(record.kind), "source": args.source}
        found = next((h for h in await provider.snapshots() if h.id == args.snap), None)
        if found is None:
            async for line in provider.build_snapshot(args.snap, args.source, args.packages, tags):
                ctx.say(line)
            found = next((h for h in await provider.snapshots() if h.id == args.snap), None)
        if found is None:
            raise ProviderError("the snapshot was built, and is not there", hint="see 'thopter hub logs'")
        return (await self.ready(args.snap, found)).size


def saves(deps: Deps, name: str) -> Snapshots:
    """The provider ``name``, which can save boxes; Unsupported."""
    if name not in deps.providers:
        raise Unsupported(f"there is no provider {name} here")
    provider = deps.providers[name]
    if not isinstance(provider, Snapshots):
        raise Unsupported(f"provider {name} can't save boxes")
    return provider


async def describe(deps: Deps, box: Box, kind: SnapshotKind, stem: str, now_ms: int) -> Snapshot:
    """The record of a box about to be saved: what a thopter started from it must know."""
    run = await deps.crew.run_of(box.id)
    if run is None:
        raise ProviderError(f"{box.name} has no run")
    return Snapshot(
        id="snap_" + stem, name="", provider=box.provider, kind=kind, state=SnapshotState.MAKING,
        created_ms=now_ms, box=box.id, box_name=box.name, run=run.id, agent=run.agent, session=run.session,
        repo=run.repo, cwd=run.cwd, golden=box.golden, parent=box.snapshot,
    )  # fmt: skip


async def mend(deps: Deps, saver: Saver, in_flow: frozenset[str]) -> None:
    """After a start of the hub: finish drops, drop what nobody finishes making, and mark as lost what
    its provider does not have any more. ``in_flow``: ids that unfinished flows work on. What can't be
    done is logged and stays recorded; the next start tries again."""
    there: dict[str, set[str]] = {}
    for name, provider in deps.providers.items():
        if isinstance(provider, Snapshots):
            try:
                there[name] = {h.id for h in await provider.snapshots()}
            except ThopterError as e:
                log.error("provider %s can't list what it saved: %s", name, e.message)
    half = (SnapshotState.MAKING, SnapshotState.DROPPING)
    for record in await deps.store.snapshots.all():
        if record.id in in_flow:
            continue
        if record.state in half or record.kind is SnapshotKind.FORK:
            try:
                await saver.drop(record.id)
            except ThopterError as e:
                log.error("the saved box %s can't be removed: %s", record.id, e.message)
        elif record.provider in there:
            state = SnapshotState.READY if record.id in there[record.provider] else SnapshotState.LOST
            if state is not record.state:
                await deps.store.snapshots.update(structs.replace(record, state=state))
