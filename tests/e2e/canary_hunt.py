"""Looking for a canary everywhere it must not be; says how much was looked at, so that 0 means something."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_PIECE = 4 << 20


class Hunt:
    """``hits`` name the places, ``looked`` counts the bytes."""

    def __init__(self, *words: str) -> None:
        self._words = [w.encode() for w in words]
        self._most = max(len(w) for w in words)
        self.hits: list[str] = []
        self.looked = 0

    def bytes(self, where: str, raw: bytes) -> None:
        self.looked += len(raw)
        if any(word in raw for word in self._words):
            self.hits.append(where)

    def file(self, path: Path) -> None:
        """A file piece by piece, pieces overlapping."""
        try:
            with path.open("rb", 0) as file:
                end, at, tail = os.fstat(file.fileno()).st_size, 0, b""
                while at < end:
                    try:
                        start = os.lseek(file.fileno(), at, os.SEEK_DATA)  # images of disks are mostly holes
                    except OSError as e:
                        if e.errno == errno.ENXIO:
                            break  # nothing but a hole from here on
                        start = at
                    os.lseek(file.fileno(), start, os.SEEK_SET)
                    piece = file.read(_PIECE)
                    if not piece:
                        break
                    tail = tail if start == at else b""
                    self.bytes(str(path), tail + piece)
                    tail, at = piece[-self._most :], start + len(piece)
        except OSError:
            return  # gone meanwhile, or a file that can't be read

    def tree(self, root: Path, *but: Path) -> None:
        """Every plain file below ``root`` (names too) apart from ``but``, without following links."""
        for folder, folders, files in os.walk(root):
            folders[:] = [f for f in folders if Path(folder, f) not in but]
            for name in [*folders, *files]:
                self.bytes(f"the name {folder}/{name}", os.fsencode(name))
            for name in files:
                path = Path(folder, name)
                with contextlib.suppress(OSError):
                    if path not in but and stat.S_ISREG(path.lstat().st_mode):
                        self.file(path)

    def process(self, pid: int, memory: bool) -> None:
        """Its arguments and environment, and with ``memory`` what it has written to (but for the huge areas
        that runtimes reserve and hardly use)."""
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):  # the kernel says that these have no size
                self.bytes(f"/proc/{pid}/{name}", Path(f"/proc/{pid}/{name}").read_bytes())
        if not memory:
            return
        with contextlib.suppress(OSError), open(f"/proc/{pid}/mem", "rb", 0) as mem:
            for start, end in list(_writable(pid)):
                with contextlib.suppress(OSError, ValueError, OverflowError):
                    mem.seek(start)
                    self.bytes(f"memory of {pid}", mem.read(end - start))


def _writable(pid: int) -> Iterator[tuple[int, int]]:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, mode, *_ = line.split()
        start, _, end = span.partition("-")
        if mode.startswith("rw") and int(end, 16) - int(start, 16) < 32 << 20:
            yield int(start, 16), int(end, 16)


def processes_with(mark: bytes) -> list[int]:
    """Processes in whose arguments or environment ``mark`` stands."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (
                (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            ):
                found.append(int(entry.name))
    return found
