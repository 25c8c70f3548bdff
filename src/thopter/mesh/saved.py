"""A hub's calls about saved boxes and sleep: one method a call of its API, as in ``mesh.client``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, TYPE_CHECKING

from thopter.mesh.http import Died, Silent, query, quote
from thopter.model import api
from thopter.model.api import sleep, snapshots
from thopter.model.errors import BadInput, HubUnreachable, TimedOut

if TYPE_CHECKING:
    from thopter.mesh.client import HubClient

_LONG = 600.0  # seconds between two signs of life of an import


class Saved:
    """Calls about snapshots, checkpoints, forks and sleep, on the connection of ``hub``."""

    def __init__(self, hub: HubClient) -> None:
        self._hub = hub

    # ---------------------------------------------------------------------------- snapshots

    def overview(self) -> snapshots.SnapshotList:
        """All of them."""
        return self._hub.get("/v1/snapshots", snapshots.SnapshotList)

    def show(self, word: str) -> snapshots.SnapshotView:
        """One, by name or id."""
        return self._hub.get(_snapshot(word), snapshots.SnapshotView)

    def create(self, request: snapshots.SnapshotRequest) -> snapshots.SnapshotAccepted:
        """Save a thopter; durable when this returns."""
        return self._hub.post("/v1/snapshots", request, snapshots.SnapshotAccepted)

    def build(self, request: snapshots.BuildRequest) -> snapshots.SnapshotAccepted:
        """Make one from a distribution or an image; durable when this returns."""
        return self._hub.post("/v1/snapshot-builds", request, snapshots.SnapshotAccepted)

    def destroy(self, word: str) -> snapshots.SnapshotView:
        """Remove one; answers what it was."""
        return self._hub.delete(_snapshot(word), snapshots.SnapshotView)

    def prune(self, request: snapshots.PruneRequest) -> snapshots.SnapshotList:
        """Remove what nobody needs; answers which."""
        return self._hub.post("/v1/snapshot-prunings", request, snapshots.SnapshotList, timeout=_LONG)

    def export(self, word: str, out: IO[bytes]) -> int:
        """Write one as a file to ``out``; returns its size."""
        return self._hub.download(_snapshot(word) + "/export", out)

    def take_in(self, pieces: Iterable[bytes], name: str) -> snapshots.SnapshotView:
        """Make one of such a file."""
        try:
            return self._hub.upload(
                "/v1/snapshot-imports" + query(name=name), pieces, snapshots.SnapshotView, _LONG
            )
        except Silent:
            raise TimedOut("the hub did not answer in time; the import may still happen") from None
        except Died:
            raise HubUnreachable("the hub went away in the middle of the import") from None

    def checkpoints(self, name: str) -> snapshots.SnapshotList:
        """Those of a thopter."""
        return self._hub.get(self._hub.of(name, "checkpoints"), snapshots.SnapshotList)

    def checkpoint(self, name: str, label: str) -> snapshots.SnapshotAccepted:
        """Save a moment; durable when this returns."""
        body = snapshots.CheckpointRequest(label=label)
        return self._hub.post(self._hub.of(name, "checkpoints"), body, snapshots.SnapshotAccepted)

    def fork(self, name: str, request: snapshots.ForkRequest) -> snapshots.ForkAccepted:
        """Make forks; durable when this returns."""
        return self._hub.post(self._hub.of(name, "fork"), request, snapshots.ForkAccepted)

    def rewind(self, name: str, checkpoint: str) -> snapshots.RewindAccepted:
        """Go back; durable when this returns."""
        body = snapshots.RewindRequest(checkpoint=checkpoint)
        return self._hub.post(self._hub.of(name, "rewind"), body, snapshots.RewindAccepted)

    # -------------------------------------------------------------------------------- sleep

    def suspend(self, name: str, disk: bool) -> sleep.SuspendResult:
        """Put it to sleep; idempotent."""
        body = sleep.SuspendRequest(disk=disk)
        return self._hub.post(self._hub.of(name, "suspend"), body, sleep.SuspendResult, timeout=120.0)

    def resume(self, name: str, go_on: bool = True) -> api.Accepted:
        """Let it go on; durable when this returns. ``go_on``: also with a turn that was cut short."""
        return self._hub.post(self._hub.of(name, "resume"), sleep.ResumeRequest(go_on=go_on), api.Accepted)

    def restart(self, name: str, fresh: bool) -> api.Accepted:
        """Restart its agent; durable when this returns."""
        return self._hub.post(self._hub.of(name, "restart"), sleep.RestartRequest(fresh=fresh), api.Accepted)

    def stop(self, name: str) -> None:
        """End its agent; its box stays."""
        self._hub.post(self._hub.of(name, "stop"), api.Nothing(), api.Nothing)

    def keepalive(self, name: str, request: sleep.KeepAliveRequest) -> sleep.LeaseView:
        """Begin its time anew."""
        return self._hub.post(self._hub.of(name, "keepalive"), request, sleep.LeaseView)

    def lease(self, name: str) -> sleep.LeaseView:
        """How long it may go on."""
        return self._hub.get(self._hub.of(name, "keepalive"), sleep.LeaseView)


def _snapshot(word: str) -> str:
    if not word or word in (".", "..") or "/" in word:
        raise BadInput(f"{word!r} does not name a snapshot", hint="see 'thopter snapshot list'")
    return f"/v1/snapshots/{quote(word)}"
