"""Clears what a killed git left in a mirror: half-received objects and locks that nobody holds."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from pathlib import Path

log = logging.getLogger("thopter.gateway")

#: Longer than any ref update takes: a lock file older than this belongs to nobody.
LOCK_SECONDS = 120.0


def sweep(mirror: Path, *, pushes_under_way: bool, quarantine_seconds: float = 0.0) -> list[str]:
    """Remove leftovers of pushes; returns what was removed (paths in the mirror).

    Quarantined objects (of receive-pack alone) go when no push is under way and they are older than
    ``quarantine_seconds``; locks on boxes' branches when they are older than LOCK_SECONDS.
    """
    removed: list[str] = []
    now = time.time()
    if not pushes_under_way:
        for folder in mirror.glob("objects/*incoming-*"):
            if _age(folder, now) >= quarantine_seconds:
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(str(folder.relative_to(mirror)))
    locks = [*mirror.glob("refs/heads/thopter/*.lock"), *mirror.glob("refs/heads/*.lock")]
    for lock in [*locks, mirror / "packed-refs.lock", mirror / "HEAD.lock"]:
        if _age(lock, now) >= LOCK_SECONDS:
            with contextlib.suppress(FileNotFoundError):
                lock.unlink()
                removed.append(str(lock.relative_to(mirror)))
    if removed:
        log.info("swept %s: %s", mirror.name, ", ".join(removed))
    return removed


def _age(path: Path, now: float) -> float:
    """Seconds since the last change; negative when it is not there."""
    try:
        return now - os.lstat(path).st_mtime
    except FileNotFoundError:
        return -1.0
