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


class Isolation(enum.StrEnum):
    """How strongly a box is kept apart, named honestly."""

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
    """One sandbox, as recorded by the hub. ``memory`` is the provider's own opaque note."""

    id: BoxId
    name: str
    provider: str
    state: BoxState
    created_ms: int
    changed_ms: int
    limits: Limits = Limits()
    isolation: Isolation | None = None
    golden: str = ""
    problem: str = ""
    memory: dict[str, Any] = field(default_factory=dict)


class RepoRef(Struct, frozen=True, kw_only=True):
    """A repository as the user named it, resolved.

    ``source`` is an absolute path or a URL; ``slug`` names the mirror (``[a-z0-9.-]+``);
    ``base`` is the commit the box starts from; ``branch`` the branch it was read from.
    """

    source: str
    slug: str
    branch: str
    base: str


class Run(Struct, frozen=True, kw_only=True):
    """One agent at work on one prompt in one box."""

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
