"""Boxes, runs and what people see of them. Times are integer milliseconds since the Unix epoch."""

from __future__ import annotations

import enum
from typing import Any

from msgspec import Struct, field

from thopter.model.ids import BoxId, RunId


class BoxState(enum.StrEnum):
    """State of a box, as people see it (DESIGN 2)."""

    CREATING = "creating"
    READY = "ready"
    FROZEN = "frozen"
    SUSPENDED = "suspended"
    STOPPED = "stopped"
    LOST = "lost"
    GONE = "gone"


class RunState(enum.StrEnum):
    """State of a run. ``unknown`` is an honest answer; a guess is a defect."""

    QUEUED = "queued"
    STARTING = "starting"
    WORKING = "working"
    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    UNKNOWN = "unknown"


class WaitReason(enum.StrEnum):
    """Why a run waits; this is what rings a phone."""

    PERMISSION = "permission"
    QUESTION = "question"
    TURN_END = "turn_end"
    RATE_LIMIT = "rate_limit"
    BUDGET = "budget"  # what it may spend is used up


class Isolation(enum.StrEnum):
    """How strongly a box is kept apart, named honestly (how strong each is: model/tiers.py)."""

    VM = "vm"  # a virtual machine: a kernel of its own behind virtual hardware
    GVISOR = "gvisor"  # a kernel of its own as a program, inside namespaces of ours
    NAMESPACES_IDMAPPED = "namespaces-idmapped"  # root hub: user namespace per box, own ids
    NAMESPACES_USER = "namespaces-user"  # ordinary user: one user namespace
    BUBBLEWRAP = "bubblewrap"
    CONTAINER = "container"
    NONE = "none"


class Limits(Struct, frozen=True, kw_only=True):
    """What a box may use. ``0`` means no limit."""

    memory_bytes: int = 4 << 30
    pids: int = 2048
    cpus: float = 2.0
    disk_bytes: int = 20 << 30


class Box(Struct, frozen=True, kw_only=True):
    """One sandbox, as recorded by the hub. ``memory`` is the provider's own opaque note; ``snapshot``
    is the id of the saved box it was started from, empty for none."""

    id: BoxId
    name: str
    provider: str
    state: BoxState
    created_ms: int
    changed_ms: int
    limits: Limits = Limits()
    isolation: Isolation | None = None
    golden: str = ""
    snapshot: str = ""
    problem: str = ""
    memory: dict[str, Any] = field(default_factory=dict)


class RepoRef(Struct, frozen=True, kw_only=True):
    """A repository as the user named it, resolved.

    ``source`` is an absolute path or a URL; ``slug`` names the mirror (``[a-z0-9.-]+``);
    ``base`` is the commit the box starts from; ``branch`` the branch it was read from; ``folder`` where
    it stands in the box; ``beside``: further repositories of the same box.
    """

    source: str
    slug: str
    branch: str
    base: str
    folder: str = ""
    beside: tuple[RepoRef, ...] = ()


class Run(Struct, frozen=True, kw_only=True):
    """One agent at work on one prompt in one box. ``parent``: the run whose conversation it goes on
    with (a fork, or a box taken back to a checkpoint), empty for none."""

    id: RunId
    box: BoxId
    agent: str
    prompt: str
    state: RunState
    created_ms: int
    changed_ms: int
    reason: WaitReason | None = None
    session: str = ""
    repo: RepoRef | None = None
    cwd: str = ""
    problem: str = ""
    exit_code: int | None = None
    parent: str = ""


class SnapshotKind(enum.StrEnum):
    """What a saved box is for."""

    SNAPSHOT = "snapshot"  # made by a person, has a name, others start from it
    CHECKPOINT = "checkpoint"  # a moment of one thopter, to go back to
    FORK = "fork"  # lives only while forks are made of it


class SnapshotState(enum.StrEnum):
    """State of a saved box in the hub's record."""

    MAKING = "making"
    READY = "ready"
    DROPPING = "dropping"
    LOST = "lost"  # its provider does not have it any more
    GONE = "gone"


class Snapshot(Struct, frozen=True, kw_only=True):
    """A saved box, as recorded by the hub. ``box``, ``box_name``, ``run``, ``agent``, ``session``,
    ``repo`` and ``cwd`` are those of the thopter it was made of (empty for an imported or built one);
    ``parent`` is the snapshot that box itself came from; ``label`` is a person's word or the reason;
    ``turn_ms`` is the end of the turn it was made at (0: at no particular one)."""

    id: str
    name: str
    provider: str
    kind: SnapshotKind
    state: SnapshotState
    created_ms: int
    box: str = ""
    box_name: str = ""
    run: str = ""
    agent: str = ""
    session: str = ""
    repo: RepoRef | None = None
    cwd: str = ""
    golden: str = ""
    parent: str = ""
    label: str = ""
    size: int = -1
    turn_ms: int = 0


class Lease(Struct, frozen=True, kw_only=True):
    """How long a box may go on. ``keep_min``: minutes from ``thopter keepalive`` (or its start) to
    ``expires_ms``; ``idle_min``: minutes of idleness; 0 is for ever. ``idle_until_ms``: when the present
    idleness has lasted long enough, 0 while it is not idle; only idleness after ``from_ms`` counts.
    ``on_idle``: what happens then."""

    box: str
    keep_min: float = 0
    expires_ms: int = 0
    idle_min: float = 0
    idle_until_ms: int = 0
    on_idle: str = "suspend"
    from_ms: int = 0


class Leak(Struct, frozen=True, kw_only=True):
    """Something on this machine made by a provider that no recorded box accounts for."""

    kind: str  # process, mount, cgroup, directory, socket, netns, loop
    what: str
    key: str = ""


class Role(enum.StrEnum):
    """Who speaks in a transcript entry."""

    USER = "user"
    ASSISTANT = "assistant"
    TOOL_USE = "tool_use"
    TOOL_RESULT = "tool_result"
    SYSTEM = "system"


class Entry(Struct, frozen=True, kw_only=True):
    """One item of a transcript; ``at_ms`` is the event's own time, never the time of reading.

    ``key`` is unique and stable within a session (reading the same line twice gives the same key),
    so storing is idempotent. ``summary`` is one line of at most 200 characters.
    """

    session: str
    key: str
    at_ms: int
    role: Role
    summary: str
    text: str = ""
    tool: str = ""
    is_error: bool = False
    sidechain: bool = False
