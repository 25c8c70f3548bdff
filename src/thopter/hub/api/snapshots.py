"""Routes about saved boxes: snapshots, checkpoints, forks, going back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from msgspec import Meta, Struct

from thopter.hub.auth import OPERATE, READ
from thopter.hub.routes import MIB, Call, NoQuery, Route
from thopter.model.api import Nothing
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

_PROMPT_MAX = 8 * MIB


class NameQuery(Struct, kw_only=True):
    """``name``: what to call it; empty for a friendly name."""

    name: Annotated[str, Meta(max_length=200)] = ""


async def list_snapshots(call: Call[NoQuery, Nothing]) -> SnapshotList:
    """All snapshots."""
    return await call.fleet.snapshots.overview()


async def show_snapshot(call: Call[NoQuery, Nothing]) -> SnapshotView:
    """One of them."""
    return await call.fleet.snapshots.show(call.key)


async def create_snapshot(call: Call[NoQuery, SnapshotRequest]) -> SnapshotAccepted:
    """Save a thopter."""
    return await call.fleet.snapshots.create(call.body)


async def build_snapshot(call: Call[NoQuery, BuildRequest]) -> SnapshotAccepted:
    """Make one from a distribution or an image."""
    return await call.fleet.snapshots.build(call.body)


async def destroy_snapshot(call: Call[NoQuery, Nothing]) -> SnapshotView:
    """Remove one."""
    return await call.fleet.snapshots.destroy(call.key)


async def prune_snapshots(call: Call[NoQuery, PruneRequest]) -> SnapshotList:
    """Remove what nobody needs."""
    return await call.fleet.snapshots.prune(call.body)


def export_snapshot(call: Call[NoQuery, Nothing]) -> AsyncIterator[bytes]:
    """One as a file."""
    return call.fleet.snapshots.export(call.key)


async def import_snapshot(call: Call[NameQuery, Nothing]) -> SnapshotView:
    """Make one of a file."""
    return await call.fleet.snapshots.take_in(call.query.name, call.chunks)


async def list_checkpoints(call: Call[NoQuery, Nothing]) -> SnapshotList:
    """Those of one thopter."""
    return await call.fleet.snapshots.checkpoints(call.key)


async def create_checkpoint(call: Call[NoQuery, CheckpointRequest]) -> SnapshotAccepted:
    """Save a moment."""
    return await call.fleet.snapshots.checkpoint(call.key, call.body)


async def fork_thopter(call: Call[NoQuery, ForkRequest]) -> ForkAccepted:
    """Make forks."""
    return await call.fleet.snapshots.fork(call.key, call.body)


async def rewind_thopter(call: Call[NoQuery, RewindRequest]) -> RewindAccepted:
    """Go back."""
    return await call.fleet.snapshots.rewind(call.key, call.body)


ROUTES = (
    Route(
        method="GET",
        path="/v1/snapshots",
        summary="All snapshots, and the name of the default one",
        scope=READ,
        handler=list_snapshots,
        response=SnapshotList,
    ),
    Route(
        method="POST",
        path="/v1/snapshots",
        summary="Save a thopter, also in place of an older snapshot",
        scope=OPERATE,
        handler=create_snapshot,
        request=SnapshotRequest,
        response=SnapshotAccepted,
        status=202,
        mutating=True,
    ),
    Route(
        method="POST",
        path="/v1/snapshot-builds",
        summary="Make a snapshot from a distribution or an image",
        scope=OPERATE,
        handler=build_snapshot,
        request=BuildRequest,
        response=SnapshotAccepted,
        status=202,
        mutating=True,
    ),
    Route(
        method="POST",
        path="/v1/snapshot-imports",
        summary="Make a snapshot of an exported file; the body is the file",
        scope=OPERATE,
        handler=import_snapshot,
        query=NameQuery,
        response=SnapshotView,
        mutating=True,
        repeatable=True,
        kind="upload",
    ),
    Route(
        method="POST",
        path="/v1/snapshot-prunings",
        summary="Remove saved boxes that nobody needs any more; answers which",
        scope=OPERATE,
        handler=prune_snapshots,
        request=PruneRequest,
        response=SnapshotList,
        mutating=True,
    ),
    Route(
        method="GET",
        path="/v1/snapshots/{id}",
        summary="One saved box, by name or id",
        scope=READ,
        handler=show_snapshot,
        response=SnapshotView,
    ),
    Route(
        method="DELETE",
        path="/v1/snapshots/{id}",
        summary="Remove a saved box; thopters started from it live on",
        scope=OPERATE,
        handler=destroy_snapshot,
        response=SnapshotView,
        mutating=True,
    ),
    Route(
        method="GET",
        path="/v1/snapshots/{id}/export",
        summary="A snapshot as one checksummed file",
        scope=OPERATE,
        handler=export_snapshot,
        kind="bytes",
    ),
    Route(
        method="GET",
        path="/v1/thopters/{name}/checkpoints",
        summary="The checkpoints of a thopter",
        scope=READ,
        handler=list_checkpoints,
        response=SnapshotList,
    ),
    Route(
        method="POST",
        path="/v1/thopters/{name}/checkpoints",
        summary="Save a moment of a thopter, to go back to",
        scope=OPERATE,
        handler=create_checkpoint,
        request=CheckpointRequest,
        response=SnapshotAccepted,
        status=202,
        mutating=True,
    ),
    Route(
        method="POST",
        path="/v1/thopters/{name}/fork",
        summary="New thopters with the files and the conversation of this one",
        scope=OPERATE,
        handler=fork_thopter,
        request=ForkRequest,
        response=ForkAccepted,
        status=202,
        mutating=True,
        body_max=_PROMPT_MAX,
    ),
    Route(
        method="POST",
        path="/v1/thopters/{name}/rewind",
        summary="Take a thopter back to a checkpoint; what is there now is saved first",
        scope=OPERATE,
        handler=rewind_thopter,
        request=RewindRequest,
        response=RewindAccepted,
        status=202,
        mutating=True,
    ),
)
