"""Saved boxes and sleep for the in-memory fleet: every call answers, nothing is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator

from thopter.model.api import Accepted
from thopter.model.api.sleep import (
    KeepAliveRequest,
    LeaseView,
    RestartRequest,
    ResumeRequest,
    SuspendRequest,
    SuspendResult,
)
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


def view(name: str) -> SnapshotView:
    """A saved box of that name."""
    return SnapshotView(
        id="snap_1",
        name=name[:60],
        kind="snapshot",
        state="ready",
        provider="memory",
        source="one",
        created_ms=1,
    )


class MemorySnapshots:
    """See ``thopter.hub.ports.snapshots``. ``find`` raises for a thopter that is not there."""

    def __init__(self, find):
        self.find = find

    async def overview(self) -> SnapshotList:
        return SnapshotList(snapshots=[view("gold")], default="gold")

    async def show(self, word: str) -> SnapshotView:
        return view(word)

    async def create(self, req: SnapshotRequest) -> SnapshotAccepted:
        return SnapshotAccepted(flow="flow_1", id="snap_1", name=req.name)

    async def build(self, req: BuildRequest) -> SnapshotAccepted:
        return SnapshotAccepted(flow="flow_1", id="snap_1", name=req.name)

    async def destroy(self, word: str) -> SnapshotView:
        return view(word)

    async def prune(self, req: PruneRequest) -> SnapshotList:
        return SnapshotList(snapshots=[])

    async def export(self, word: str) -> AsyncIterator[bytes]:
        yield word.encode(errors="replace")

    async def take_in(self, name: str, body: AsyncIterator[bytes]) -> SnapshotView:
        size = sum([len(chunk) async for chunk in body])
        return view(f"{name}{size}")

    async def checkpoints(self, name: str) -> SnapshotList:
        self.find(name)
        return SnapshotList(snapshots=[view("")])

    async def checkpoint(self, name: str, req: CheckpointRequest) -> SnapshotAccepted:
        self.find(name)
        return SnapshotAccepted(flow="flow_1", id="snap_1", name=req.label)

    async def fork(self, name: str, req: ForkRequest) -> ForkAccepted:
        self.find(name)
        return ForkAccepted(flow="flow_1", names=[f"{n}" for n in range(req.count)])

    async def rewind(self, name: str, req: RewindRequest) -> RewindAccepted:
        found = self.find(name)
        return RewindAccepted(flow="flow_1", name=found.name, checkpoint="snap_1", before="snap_2")


class MemorySleep:
    """See ``thopter.hub.ports.sleep``."""

    def __init__(self, find):
        self.find = find

    async def suspend(self, name: str, req: SuspendRequest) -> SuspendResult:
        return SuspendResult(name=self.find(name).name, state="suspended")

    async def resume(self, name: str, req: ResumeRequest) -> Accepted:
        return Accepted(flow="flow_1", name=self.find(name).name)

    async def restart(self, name: str, req: RestartRequest) -> Accepted:
        return Accepted(flow="flow_1", name=self.find(name).name)

    async def stop(self, name: str) -> None:
        self.find(name)

    async def keepalive(self, name: str, req: KeepAliveRequest) -> LeaseView:
        return await self.lease(name)

    async def lease(self, name: str) -> LeaseView:
        return LeaseView(
            name=self.find(name).name,
            keep_alive=1,
            expires_ms=1,
            idle_timeout=0,
            idle_until_ms=0,
            on_idle="none",
        )
