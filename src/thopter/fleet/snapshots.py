"""Saved boxes as people use them: snapshots, checkpoints, the default one, files of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec import structs

from thopter.fleet.accept import Ids
from thopter.fleet.deps import Deps
from thopter.fleet.facts import snapshot_ready
from thopter.fleet.forking import Forker
from thopter.fleet.rewinding import Rewinder
from thopter.fleet.saving import BuildArgs, SaveArgs, describe, saves
from thopter.kit.names import friendly
from thopter.model.api.snapshots import (
    BuildRequest,
    CheckpointRequest,
    ForkAccepted,
    ForkRequest,
    PruneRequest,
    RewindAccepted,
    RewindRequest,
    SnapshotAccepted,
    SnapshotList,
    SnapshotRequest,
    SnapshotView,
)
from thopter.model.errors import BadInput, NotFound, NotNow
from thopter.model.events import Event
from thopter.model.ids import check_name
from thopter.model.nouns import Box, BoxState, Snapshot, SnapshotKind, SnapshotState
from thopter.model.sockets import SnapshotHandle

_NAMES_TRIED = 50


class Snapshots:
    """Use cases; the work that outlives a call is in flows."""

    def __init__(self, deps: Deps) -> None:
        self.deps = deps
        self.saver = deps.crew.saver
        self.forker = Forker(deps, self.saver)
        self.rewinder = Rewinder(deps, self.saver)

    # --------------------------------------------------------------------------------- look

    async def overview(self) -> SnapshotList:
        """Every snapshot that a person made, oldest first."""
        shown = [s for s in await self.deps.store.snapshots.all() if s.kind is SnapshotKind.SNAPSHOT]
        return await self._views([s for s in shown if s.state is not SnapshotState.DROPPING])

    async def show(self, word: str) -> SnapshotView:
        """One saved box, by name or id (or the beginning of an id)."""
        return (await self._views([await self.deps.store.snapshots.find(word)])).snapshots[0]

    async def checkpoints(self, name: str) -> SnapshotList:
        """The checkpoints of a thopter, oldest first."""
        box = await self.deps.store.boxes.find(name)
        return await self._views(await self.deps.store.snapshots.of_box(box.id))

    async def _views(self, records: list[Snapshot]) -> SnapshotList:
        handles: dict[str, SnapshotHandle] = {}
        for name in {r.provider for r in records} & self.deps.providers.keys():
            handles |= {h.id: h for h in await saves(self.deps, name).snapshots()}
        default = str(self.deps.settings.get("box.snapshot"))
        return SnapshotList(
            snapshots=[_view(r, handles.get(r.id), default) for r in records], default=default
        )

    # --------------------------------------------------------------------------------- make

    async def create(self, req: SnapshotRequest) -> SnapshotAccepted:
        """Save a thopter; with ``replace`` in place of the snapshot of that name, which goes last."""
        box = await self._saveable(req.thopter)
        old: Snapshot | None = None
        if req.replace:
            old = await self.deps.store.snapshots.find(check_name(req.name))
            if old.name != req.name:
                raise NotFound(
                    f"there is no snapshot {req.name!r}", hint="'thopter snapshot create' makes a new one"
                )
        elif req.name:
            check_name(req.name)
        names = [] if req.replace else [req.name] if req.name else [friendly() for _ in range(_NAMES_TRIED)]
        record = await self._record(box, SnapshotKind.SNAPSHOT, names)
        args = SaveArgs(
            box=box.id, name=box.name, snap=record.id, replaces=old.id if old else "",
            as_name=old.name if old else "",
        )  # fmt: skip
        flow = "flow_" + record.id.partition("_")[2]
        await self.deps.engine.submit("save", args, flow_id=flow)
        return SnapshotAccepted(flow=flow, id=record.id, name=record.name or args.as_name)

    async def checkpoint(self, name: str, req: CheckpointRequest, turn_ms: int = 0) -> SnapshotAccepted:
        """Save a moment of a thopter, to go back to."""
        box = await self._saveable(name)
        record = await self._record(box, SnapshotKind.CHECKPOINT, [], req.label, turn_ms)
        keep = int(self.deps.settings.get("run.checkpoints_kept")) if turn_ms else 0
        flow = "flow_" + record.id.partition("_")[2]
        args = SaveArgs(box=box.id, name=box.name, snap=record.id, keep=keep)
        await self.deps.engine.submit("save", args, flow_id=flow)
        return SnapshotAccepted(flow=flow, id=record.id, name=record.label)

    async def _saveable(self, name: str) -> Box:
        box = await self.deps.store.boxes.find(name)
        if box.state is BoxState.CREATING:
            raise NotNow(f"{box.name} is still being created", hint=f"'thopter wait {box.name}'")
        saves(self.deps, box.provider)
        return box

    async def _record(
        self, box: Box, kind: SnapshotKind, names: list[str], label: str = "", turn_ms: int = 0
    ) -> Snapshot:
        now = self.deps.clock.now_ms()
        record = await describe(self.deps, box, kind, Ids.make(now).flow.partition("_")[2], now)
        record = structs.replace(record, label=label, turn_ms=turn_ms)
        return await self.deps.store.snapshots.insert(record, names)

    async def build(self, req: BuildRequest) -> SnapshotAccepted:
        """Make a snapshot from a distribution or an image."""
        if req.name:
            check_name(req.name)
        if any(p.startswith("-") or not p.isprintable() for p in req.packages):
            raise BadInput("a package is named by letters, digits and '.+-'")
        provider = str(self.deps.settings.get("provider"))
        saves(self.deps, provider)
        record = await self._bare(provider, req.name, req.source)
        flow = "flow_" + record.id.partition("_")[2]
        args = BuildArgs(snap=record.id, name=record.name, source=req.source, packages=tuple(req.packages))
        await self.deps.engine.submit("build", args, flow_id=flow)
        return SnapshotAccepted(flow=flow, id=record.id, name=record.name)

    async def _bare(self, provider: str, name: str, label: str) -> Snapshot:
        now = self.deps.clock.now_ms()
        record = Snapshot(
            id="snap_" + Ids.make(now).flow.partition("_")[2], name="", provider=provider,
            kind=SnapshotKind.SNAPSHOT, state=SnapshotState.MAKING, created_ms=now, label=label,
        )  # fmt: skip
        names = [name] if name else [friendly() for _ in range(_NAMES_TRIED)]
        return await self.deps.store.snapshots.insert(record, names)

    # --------------------------------------------------------------------------------- files

    async def export(self, word: str) -> AsyncIterator[bytes]:
        """The whole of a snapshot as one checksummed file."""
        found = await snapshot_ready(self.deps, word)
        data = {"snapshot": found.id, "text": f"{found.name or found.id} is written out"}
        now = self.deps.clock.now_ms()
        await self.deps.store.audit.append(Event(kind="snapshot.exported", at_ms=now, data=data))
        async for chunk in saves(self.deps, found.provider).export_snapshot(found.id):
            yield chunk

    async def take_in(self, name: str, body: AsyncIterator[bytes]) -> SnapshotView:
        """Make a snapshot of such a file; nothing is left of one that is bad."""
        if name:
            check_name(name)
        provider = str(self.deps.settings.get("provider"))
        into = saves(self.deps, provider)
        record = await self._bare(provider, name, "imported")
        tags = {"name": record.name, "kind": str(record.kind), "source": "imported"}
        try:
            handle = await into.import_snapshot(record.id, body, tags)
            await self.saver.ready(record.id, handle)
        except BaseException:
            await self.saver.drop(record.id)
            raise
        return await self.show(record.id)

    # ---------------------------------------------------------------------------------- end

    async def destroy(self, word: str) -> SnapshotView:
        """Remove a saved box for good; thopters that were started from it live on."""
        found = await self.deps.store.snapshots.find(word)
        if found.state is SnapshotState.MAKING:
            raise NotNow(f"{found.name or found.id} is still being made")
        view = (await self._views([found])).snapshots[0]
        await self.saver.drop(found.id)
        return view

    async def prune(self, req: PruneRequest) -> SnapshotList:
        """Remove what nobody needs any more; answers what (with ``dry_run``: would have) gone."""
        boxes = {str(b.id) for b in await self.deps.store.boxes.list()}
        default = str(self.deps.settings.get("box.snapshot"))
        surplus = [
            s
            for s in await self.deps.store.snapshots.all()
            if s.state in (SnapshotState.READY, SnapshotState.LOST) and _surplus(s, boxes, req, default)
        ]
        found = await self._views(surplus)
        if not req.dry_run:
            for record in surplus:
                await self.saver.drop(record.id)
        return found

    # ------------------------------------------------------------------------- fork and rewind

    async def fork(self, name: str, req: ForkRequest) -> ForkAccepted:
        """See :class:`Forker`."""
        return await self.forker.accept(name, req)

    async def rewind(self, name: str, req: RewindRequest) -> RewindAccepted:
        """See :class:`Rewinder`."""
        return await self.rewinder.accept(name, req)


def _surplus(s: Snapshot, boxes: set[str], req: PruneRequest, default: str) -> bool:
    if s.kind is SnapshotKind.CHECKPOINT and s.box not in boxes:
        return True
    if not req.older_ms or s.created_ms >= req.older_ms:
        return False
    if s.kind is SnapshotKind.CHECKPOINT:
        return True
    return req.named and s.kind is SnapshotKind.SNAPSHOT and s.name != default and s.id != default


def _view(s: Snapshot, handle: SnapshotHandle | None, default: str) -> SnapshotView:
    return SnapshotView(
        id=s.id, name=s.name, kind=s.kind, state=s.state, provider=s.provider, source=s.box_name,
        created_ms=s.created_ms, size=handle.own_bytes if handle else s.size,
        depth=handle.depth if handle else 1, default=bool(default) and default in (s.name, s.id),
        label=s.label, agent=s.agent, repo=s.repo.source if s.repo else "", cwd=s.cwd, session=s.session,
        parent=s.parent, golden=s.golden, turn_ms=s.turn_ms,
        missing=dict(handle.missing) if handle else {},
    )  # fmt: skip
