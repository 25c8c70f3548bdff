"""Saved boxes: what a box had written, kept under ``pool/.saved/<id>``, and what is known of it in
``snapshots/<id>/``.

``snap.json`` is written before anything is made, ``done.json`` when all of it is on the disk: without
it the snapshot is half-made or half-gone, and whatever exists of it is removed.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec
from msgspec import Struct, field

from thopter.model.errors import NotFound
from thopter.model.sockets import SnapshotHandle
from thopter.providers.local.pool import Pool
from thopter.providers.local.record import sync_path, write_json
from thopter.providers.local.trees import remove_tree


class SavedBox(Struct, frozen=True, kw_only=True):
    """One snapshot. ``golden`` is the digest below it; ``stored`` the first id of its files on disk;
    ``parent`` the snapshot its box came from; ``own_bytes`` and ``missing`` as in SnapshotHandle."""

    id: str
    golden: str
    created_ms: int
    stored: int = 0
    parent: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    own_bytes: int = -1
    missing: dict[str, str] = field(default_factory=dict)
    complete: bool = False

    def handle(self) -> SnapshotHandle:
        """As the socket wants it. A snapshot holds all it needs above its golden: depth is always 1."""
        return SnapshotHandle(
            id=self.id, golden=self.golden, created_ms=self.created_ms, own_bytes=self.own_bytes,
            parent=self.parent, tags=self.tags, missing=self.missing,
        )  # fmt: skip


class _Done(Struct, frozen=True, kw_only=True):
    """What ``done.json`` says."""

    own_bytes: int = -1
    missing: dict[str, str] = field(default_factory=dict)


class Saved:
    """The snapshots of one state folder. Blocking; nothing is cached."""

    def __init__(self, folder: Path, pool: Pool) -> None:
        self.folder = folder
        self._pool = pool

    def data(self, snap: str) -> Path:
        """Where its files are (or would be)."""
        return self._pool.saved / snap

    def live(self, snap: str) -> Path:
        """Where its processes are (or would be)."""
        return self.folder / snap / "live"

    def read(self, snap: str) -> SavedBox | None:
        """The record of ``snap``; None when there is none or it can't be read."""
        folder = self.folder / snap
        try:
            found = msgspec.json.decode((folder / "snap.json").read_bytes(), type=SavedBox)
        except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
            return None
        try:
            done = msgspec.json.decode((folder / "done.json").read_bytes(), type=_Done)
        except (FileNotFoundError, msgspec.DecodeError):
            return msgspec.structs.replace(found, complete=False)
        return msgspec.structs.replace(found, complete=True, own_bytes=done.own_bytes, missing=done.missing)

    def require(self, snap: str) -> SavedBox:
        """The complete snapshot ``snap``; NotFound."""
        found = self.read(snap)
        if found is None or not found.complete:
            raise NotFound(f"there is no snapshot {snap}")
        return found

    def ids(self) -> set[str]:
        """Every id that has a folder of either kind, readable or not."""
        return _folders(self.folder) | _folders(self._pool.saved)

    def all(self) -> list[SavedBox]:
        """Every readable record, half-made ones too."""
        return [s for s in (self.read(i) for i in sorted(_folders(self.folder))) if s is not None]

    def begin(self, saved: SavedBox) -> None:
        """Write down that it is about to be made. Survives kill -9; after a power cut what is left
        without it is found by its folder."""
        folder = self.folder / saved.id
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        write_json(folder / "snap.json", saved)

    def finish(self, snap: str, own_bytes: int, missing: dict[str, str] | None = None) -> SavedBox:
        """Write down, durably, that all of it is on the disk; returns it as it is now."""
        folder = self.folder / snap
        write_json(folder / "done.json", _Done(own_bytes=own_bytes, missing=missing or {}))
        for path in (folder / "snap.json", folder / "done.json", folder, self.folder):
            sync_path(path)
        return self.require(snap)

    def remove(self, snap: str) -> None:
        """Remove it, made or half-made. Idempotent; nobody starts from it once this has begun."""
        folder = self.folder / snap
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            (folder / "done.json").unlink()
            sync_path(folder)
        self._pool.remove_saved(snap)
        remove_tree(self.live(snap))
        for name in ("done.json.new", "snap.json.new", "snap.json"):
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()


def _folders(top: Path) -> set[str]:
    try:
        return {e.name for e in os.scandir(top) if e.is_dir(follow_symlinks=False)}
    except FileNotFoundError:
        return set()
