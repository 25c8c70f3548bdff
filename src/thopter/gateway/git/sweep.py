"""Clears what a killed git left in a mirror: half-received objects and locks that nobody holds."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
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


def end_orphans(mirrors: Path, seconds: float = 3.0) -> int:
    """End what a killed gateway left running in ``mirrors``; returns how many processes that were.

    They are known by the environment that only a gateway gives. Called by the one process that holds the
    gateway's lock, before it serves anything (so nothing of its own is among them).
    """
    orphans = _orphans(mirrors)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while orphans and time.monotonic() < deadline:
            time.sleep(0.01)
            if not (set(orphans) & set(_orphans(mirrors))):
                return len(orphans)
    return len(orphans)


def _orphans(mirrors: Path) -> list[int]:
    mark = b"GIT_PROJECT_ROOT=" + os.fsencode(mirrors) + b"\0"
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # gone, or another user's
        if mark in environment and b"\0THOPTER_REF=" in b"\0" + environment:
            found.append(int(entry.name))
    return found


def _age(path: Path, now: float) -> float:
    """Seconds since the last change; negative when it is not there."""
    try:
        return now - os.lstat(path).st_mtime
    except FileNotFoundError:
        return -1.0
