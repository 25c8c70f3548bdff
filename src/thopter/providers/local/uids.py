"""Ranges of user ids for boxes of a root hub: 65,536 each, never shared with anybody.

Processes of a box have a range of its own; what boxes write is stored under one range, the same for
all (``STORED``), and idmapped for each: so a saved box needs no walk over its files to become another.

Hubs of one machine share ``/run/thopter-uids``: a file for each block of 256 ranges, holding the
state folder that owns it. A block whose state folder is gone is free again. Which ranges of its
blocks are in use a hub knows from its records.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from thopter.kit.paths import private_dir
from thopter.model.errors import Refused

FIRST = 0x10000000
STORED = FIRST - 0x10000  # the ids of all boxes' files on disk; nobody ever runs as one of them
SIZE = 0x10000
_PER_BLOCK = 256
_BLOCKS = (0x7FFF0000 - FIRST) // (SIZE * _PER_BLOCK)  # below 2^31: some tools take ids as signed
REGISTRY = Path("/run/thopter-uids")


class Ranges:
    """Hands out bases. Thread-safe. Nothing is kept beyond the process but the block files."""

    def __init__(self, state: Path, registry: Path = REGISTRY) -> None:
        self._state = state
        self._registry = registry
        self._lock = threading.Lock()
        self._taken: set[int] = set()
        self._reserved = _foreign_ranges()
        self._ours: list[int] | None = None

    def know(self, used: Iterable[int]) -> None:
        """Take note of bases that boxes have already."""
        with self._lock:
            self._taken |= set(used)

    def take(self) -> int:
        """Return a base that no box has and nobody was given."""
        with self._lock:
            if self._ours is None:
                private_dir(self._registry)
                self._ours = [b for b in range(_BLOCKS) if self._owner(b) == str(self._state)]
            for base in self._bases(self._ours):
                return base
            for block in range(_BLOCKS):
                if block not in self._ours and self._claim(block):
                    self._ours.append(block)
                    for base in self._bases([block]):
                        return base
        raise Refused("all ranges of user ids for boxes are in use on this machine")

    def _bases(self, blocks: Iterable[int]) -> Iterator[int]:
        for block in blocks:
            for slot in range(_PER_BLOCK):
                base = FIRST + (block * _PER_BLOCK + slot) * SIZE
                if base not in self._taken and not self._clash(base):
                    self._taken.add(base)
                    yield base

    def give_back(self, base: int) -> None:
        """The box is gone and so are its files."""
        with self._lock:
            self._taken.discard(base)

    def release(self) -> None:
        """Give up this hub's blocks (no box is left)."""
        for block in range(_BLOCKS):
            if self._owner(block) == str(self._state):
                (self._registry / str(block)).unlink(missing_ok=True)
        self._ours = None

    def _clash(self, base: int) -> bool:
        return any(first < base + SIZE and base < first + count for first, count in self._reserved)

    def _owner(self, block: int) -> str:
        try:
            return (self._registry / str(block)).read_text()
        except OSError:
            return ""

    def _claim(self, block: int) -> bool:
        lock = os.open(self._registry / ".lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            owner = self._owner(block)
            if owner and os.path.isdir(owner):
                return False
            temp = self._registry / f".{block}"
            temp.write_text(str(self._state))
            temp.rename(self._registry / str(block))
            return True
        finally:
            os.close(lock)


def _foreign_ranges() -> list[tuple[int, int]]:
    """Ranges promised to others by /etc/subuid and /etc/subgid."""
    found = []
    for name in ("/etc/subuid", "/etc/subgid"):
        try:
            lines = Path(name).read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            parts = line.split(":")
            if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
                found.append((int(parts[1]), int(parts[2])))
    return found
