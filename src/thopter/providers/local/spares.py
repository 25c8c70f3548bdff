"""Spare builders: each box takes the one that is ready and orders the next.

A spare is named by its control group; it holds a range of ids. It lives in the zygote, which tells a
new hub which ones there are.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from thopter.model.nouns import Isolation
from thopter.providers.local.modes import Mode
from thopter.providers.local.uids import Ranges


class Spare(Struct, frozen=True):
    """One builder that waits, or will: its control group and its base of ids."""

    group: str
    base: int


class Spares:
    """What this hub knows of the zygote's spares. Thread-safe."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges
        self._lock = threading.Lock()
        self._ready: list[Spare] = []
        self._coming: set[Spare] = set()
        self._taken: set[Spare] = set()

    def know(self, halves: Iterable[Mapping[str, Any]]) -> None:
        """The zygote has these (as it was told when they were ordered)."""
        with self._lock:
            self._ready = [Spare(str(h["group"]), int(h["base"])) for h in halves]
            self._ranges.know(s.base for s in self._ready)

    def take(self, mode: Mode) -> tuple[Spare, Spare | None]:
        """The spare for a new box, and the one to order in its place where none is coming."""
        with self._lock:
            if mode.isolation is Isolation.GVISOR:  # its builder is not like the others
                spare = self._new(mode)
                self._taken.add(spare)
                return spare, None
            spare = self._ready.pop() if self._ready else self._new(mode)
            self._taken.add(spare)
            after = None if self._ready or self._coming else self._new(mode)
            if after is not None:
                self._coming.add(after)
            return spare, after

    def _new(self, mode: Mode) -> Spare:
        return Spare("g-" + secrets.token_hex(6), self._ranges.take() if mode.idmapped else 0)

    def forget(self) -> list[Spare]:
        """The zygote ended: none is ready any more. Those that were."""
        with self._lock:
            gone, self._ready = self._ready, []
            return gone

    def bound(self, spare: Spare) -> None:
        """A record names it now (or nobody ever will)."""
        with self._lock:
            self._taken.discard(spare)

    def came(self, spare: Spare | None) -> None:
        """The zygote was told to make it."""
        with self._lock:
            if spare is not None and spare in self._coming:
                self._coming.discard(spare)
                self._ready.append(spare)

    def spoil(self, spare: Spare | None) -> None:
        """It will not be made, or nobody knows."""
        with self._lock:
            if spare is not None:
                self._coming.discard(spare)
                self._ranges.give_back(spare.base)

    def groups(self) -> frozenset[str]:
        """All groups that spares have or are about to have, and that no record names yet."""
        with self._lock:
            return frozenset(s.group for s in (*self._ready, *self._coming, *self._taken))
