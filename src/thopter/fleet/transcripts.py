"""The hub's own copies of transcripts: ``state/transcripts/<run>/…``, byte for byte, kept when a box goes.

A line is written at the place that it has in the box's file, so that reading it again after a crash
changes nothing; it is on the disk before the cursor behind it is stored. Names and sizes come from a
box: names are checked, what a run may have is bounded, and nothing is ever followed or run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RUN_MAX = 512 << 20  # bytes of one run
FILES_MAX = 4000
_OLD_MAX = 9
_HOLE_MAX = 64 << 20
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_DEPTH = 8
_FULL = 1 << 62


def folder_of(state: Path, run: str) -> Path:
    """Where the copies of a run are."""
    return state / "transcripts" / run


def files_of(folder: Path) -> list[Path]:
    """The copies of a run, agents after the sessions that they belong to."""
    return sorted((p for p in folder.rglob("*.jsonl") if p.is_file()), key=lambda p: (len(p.parts), str(p)))


def stamp(folder: Path) -> str:
    """Changes whenever a copy grows."""
    sizes = [(str(p.relative_to(folder)), p.stat().st_size) for p in files_of(folder)]
    return hashlib.sha256(repr(sizes).encode()).hexdigest()[:24]


def lines_of(folder: Path, piece: int = 1 << 16) -> Iterator[bytes]:
    """All copies one after the other, in pieces that end anywhere."""
    for path in files_of(folder):
        with path.open("rb") as file:
            while data := file.read(piece):
                yield data


def prune(state: Path, keep: set[str], before_ms: int) -> list[str]:
    """Remove copies of runs that are not in ``keep`` and were last written before then."""
    gone = []
    root = state / "transcripts"
    for folder in root.iterdir() if root.is_dir() else ():
        if folder.name not in keep and _newest(folder) * 1000 < before_ms:
            shutil.rmtree(folder, ignore_errors=True)
            gone.append(folder.name)
    return gone


def _newest(folder: Path) -> float:
    return max((p.stat().st_mtime for p in folder.rglob("*")), default=folder.stat().st_mtime)


class Copies:
    """The copies of one run. Blocking; for one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = files_of(folder) if folder.is_dir() else []
        self._used = sum(p.stat().st_size for p in found)
        self._files = len(found)
        self._ends: dict[str, int] = {}  # cursor behind the last line written, by the box's name of a file

    def cursors(self, stored: Mapping[str, int]) -> dict[str, int]:
        """Where to go on reading: not beyond what is here (a copy that was lost is made again)."""
        found = {name: min(offset, self._have(name)) for name, offset in stored.items()}
        self._ends.update(found)
        return found

    def _have(self, name: str) -> int:
        if self._used >= RUN_MAX or self._files >= FILES_MAX:
            return _FULL  # there is no room for what is missing
        try:
            return self._path(name).stat().st_size
        except OSError:
            return 0

    def _path(self, name: str) -> Path:
        parts = name.split("/")
        if not name.endswith(".jsonl") or len(parts) > _DEPTH or not all(map(_PART.fullmatch, parts)):
            raw = name.encode(errors="surrogateescape")
            return self.folder / "other" / (hashlib.sha256(raw).hexdigest()[:32] + ".jsonl")
        return self.folder.joinpath(*parts)

    def take(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """Write what the ``tail`` op told, and have it on the disk when this returns."""
        written: dict[int, None] = {}
        opened: dict[str, int] = {}
        try:
            for part in parts:
                if "reset" in part:
                    self._reset(str(part["reset"]), opened)
                    continue
                name = str(part.get("file", ""))
                lines = [str(line).encode(errors="surrogateescape") for line in part.get("lines", [])]
                if name not in opened:
                    fd = self._open(name)
                    if fd is None:
                        continue
                    opened[name] = fd
                self._write(opened[name], name, lines, int(part.get("offset", 0)))
                written[opened[name]] = None
            for fd in written:
                os.fdatasync(fd)
        finally:
            for fd in opened.values():
                os.close(fd)

    def _open(self, name: str) -> int | None:
        path = self._path(name)
        if not path.exists():
            if self._files >= FILES_MAX or self._used >= RUN_MAX:
                return None
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._files += 1
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def _write(self, fd: int, name: str, lines: Sequence[bytes], offset: int) -> None:
        data = b"".join(line + b"\n" for line in lines)
        start = self._ends.get(name, 0)
        gap = offset - start
        self._ends[name] = offset
        if gap <= 0 or gap - len(data) > _HOLE_MAX or self._used + gap > RUN_MAX:
            return
        before = os.fstat(fd).st_size
        if len(data) == gap:
            os.pwrite(fd, data, start)
        else:  # a line that came shortened: the rest of it is a hole
            os.pwrite(fd, data[:-1][: gap - 1], start)
            os.pwrite(fd, b"\n", offset - 1)
        self._used += max(offset - before, 0)

    def _reset(self, name: str, opened: dict[str, int]) -> None:
        """The file began anew in the box: what it held before is kept beside it."""
        if name in opened:
            os.close(opened.pop(name))
        self._ends[name] = 0
        path = self._path(name)
        for n in range(1, _OLD_MAX + 1):
            old = path.with_suffix(f".before-{n}")
            if not old.exists() or n == _OLD_MAX:
                with contextlib.suppress(FileNotFoundError):
                    path.rename(old)
                return
