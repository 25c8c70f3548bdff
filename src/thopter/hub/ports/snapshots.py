"""What the hub's shell needs of saved boxes; filled by ``thopter.fleet.snapshots``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

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


class SnapshotsPort(Protocol):
    """The use cases. ``word`` is a name, an id, or the beginning of an id that is unique."""

    async def overview(self) -> SnapshotList:
        """Every snapshot."""

    async def show(self, word: str) -> SnapshotView:
        """One of them."""

    async def create(self, req: SnapshotRequest) -> SnapshotAccepted:
        """Durable when this returns; the work goes on in the flow."""

    async def build(self, req: BuildRequest) -> SnapshotAccepted:
        """As ``create``, from a distribution or an image."""

    async def destroy(self, word: str) -> SnapshotView:
        """Gone when this returns; answers what it was."""

    async def prune(self, req: PruneRequest) -> SnapshotList:
        """Gone when this returns; answers which."""

    def export(self, word: str) -> AsyncIterator[bytes]:
        """One as a file."""

    async def take_in(self, name: str, body: AsyncIterator[bytes]) -> SnapshotView:
        """Make one of such a file; nothing is left of a bad one."""

    async def checkpoints(self, name: str) -> SnapshotList:
        """Those of one thopter."""

    async def checkpoint(self, name: str, req: CheckpointRequest) -> SnapshotAccepted:
        """As ``create``, to go back to."""

    async def fork(self, name: str, req: ForkRequest) -> ForkAccepted:
        """Names are taken when this returns; the work goes on in the flow."""

    async def rewind(self, name: str, req: RewindRequest) -> RewindAccepted:
        """Durable when this returns; the work goes on in the flow."""
