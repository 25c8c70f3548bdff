"""Requests and answers about saved boxes: snapshots, checkpoints, forks, going back."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

Word = Annotated[str, Meta(max_length=200)]
FORKS_MAX = 50


class SnapshotView(Struct, kw_only=True):
    """One saved box. ``size``: bytes of disk that would be free without it (-1: not known); ``depth``:
    layers it stands on; ``source`` is the thopter it was made of, empty for one built or imported;
    ``missing``: programs that a thopter from it lacks, with what needs them."""

    id: str
    name: str
    kind: str
    state: str
    provider: str
    source: str
    created_ms: int
    size: int = -1
    depth: int = 1
    default: bool = False
    label: str = ""
    agent: str = ""
    repo: str = ""
    cwd: str = ""
    session: str = ""
    parent: str = ""
    golden: str = ""
    turn_ms: int = 0
    missing: dict[str, str] = field(default_factory=dict)


class SnapshotList(Struct, kw_only=True):
    """``GET /v1/snapshots``, ``GET /v1/thopters/{name}/checkpoints``. ``default``: the name that new
    thopters start from, which may be that of none."""

    snapshots: list[SnapshotView]
    default: str = ""


class SnapshotRequest(Struct, kw_only=True):
    """``POST /v1/snapshots``: save ``thopter``. ``name`` empty: a friendly one. ``replace``: ``name``
    exists, and goes when the new one is there."""

    thopter: Word
    name: Word = ""
    replace: bool = False


class BuildRequest(Struct, kw_only=True):
    """``POST /v1/snapshot-builds``: from ``debian:SUITE`` or the absolute path of an OCI image folder or
    tar, with these packages in it."""

    source: Annotated[str, Meta(min_length=1, max_length=4096)]
    name: Word = ""
    packages: Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=500)] = (
        field(default_factory=list)
    )


class SnapshotAccepted(Struct, kw_only=True):
    """It is durable; ``flow`` is where its progress can be read."""

    flow: str
    id: str
    name: str


class PruneRequest(Struct, kw_only=True):
    """``POST /v1/snapshot-prunings``. Checkpoints of thopters that are gone always go. ``older_ms``:
    also checkpoints made before that moment; ``named``: and snapshots with a name (never the default).
    ``dry_run``: only say which."""

    older_ms: Annotated[int, Meta(ge=0, le=1 << 53)] = 0
    named: bool = False
    dry_run: bool = False


class ForkRequest(Struct, kw_only=True):
    """``POST /v1/thopters/{name}/fork``. ``count`` forks, each told ``prompt`` when there is one. ``name``
    is the beginning of their names. ``as_is``: leave the repository in them as it is; otherwise each
    gets a branch of its own. ``live``: with the running processes."""

    count: Annotated[int, Meta(ge=1, le=FORKS_MAX)] = 1
    prompt: str = ""
    name: Word = ""
    as_is: bool = False
    live: bool = False


class ForkAccepted(Struct, kw_only=True):
    """The names are taken; the flow's result says of each fork what became of it."""

    flow: str
    names: list[str]


class CheckpointRequest(Struct, kw_only=True):
    """``POST /v1/thopters/{name}/checkpoints``."""

    label: Word = ""


class RewindRequest(Struct, kw_only=True):
    """``POST /v1/thopters/{name}/rewind``. ``checkpoint``: its id (or the beginning of it) or label;
    empty: the newest one."""

    checkpoint: Word = ""


class RewindAccepted(Struct, kw_only=True):
    """``before``: the checkpoint that holds what was there until now."""

    flow: str
    name: str
    checkpoint: str
    before: str
