"""What a thopter changed, file by file: answers of the hub's API."""

from __future__ import annotations

from msgspec import Struct


class FileChange(Struct, kw_only=True):
    """One file. ``id`` stands for its name whatever bytes are in that (``path`` is to be read: hostile).
    ``status``: ``A`` added, ``M`` changed, ``D`` removed, ``T`` of another kind. A binary one has no
    lines."""

    id: str
    path: str
    status: str
    added: int = 0
    removed: int = 0
    binary: bool = False


class ChangeList(Struct, kw_only=True):
    """``GET /v1/thopters/{name}/changes``: base to working tree, untracked files included, renames as a
    removed and an added file. ``truncated``: there are more than are listed."""

    files: list[FileChange]
    commits: int
    dirty: int
    head: str = ""
    truncated: bool = False


class FileDiff(Struct, kw_only=True):
    """``GET /v1/thopters/{name}/changes/diff?file=``: one file's unified diff, hostile text like all of a
    box. ``truncated``: it goes on."""

    id: str
    path: str
    diff: str
    binary: bool = False
    truncated: bool = False
