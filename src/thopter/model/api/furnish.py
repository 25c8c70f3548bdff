"""How a new box is furnished before its agent starts: part of the requests that make boxes."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field


class Checkout(Struct, frozen=True, kw_only=True):
    """One more repository, cloned below ``/work``: source and branch as in ``RunRequest``."""

    repo: str
    branch: str = ""


class Upload(Struct, frozen=True, kw_only=True):
    """A file for the box: absolute ``path`` there (``~/`` is the box's home), content, permissions."""

    path: Annotated[str, Meta(min_length=1, max_length=4096)]
    content: bytes
    mode: Annotated[int, Meta(ge=0, le=0o777)] = 0o600


class Furnishing(Struct, kw_only=True):
    """``home``: the agent works in the home folder. ``post_create``: a shell command run in the work
    folder of the new box; when it fails the box is not made. ``uploads`` are written after everything
    else and may replace what thopter wrote; all of them together at most 32 MiB. ``limits``: settings
    ``box.*`` in place of the hub's own (memory_mb, pids, cpus, disk_mb). ``instructions``: the text that
    takes the place of what thopter tells the agent of its box; empty: as the hub's setting says."""

    home: bool = False
    checkouts: Annotated[list[Checkout], Meta(max_length=16)] = field(default_factory=list)
    uploads: Annotated[list[Upload], Meta(max_length=1000)] = field(default_factory=list)
    post_create: Annotated[str, Meta(max_length=65536)] = ""
    limits: dict[str, int | float] = field(default_factory=dict)
    instructions: Annotated[str, Meta(max_length=262144)] = ""
