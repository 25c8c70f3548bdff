"""One hub per state folder, and one per socket: kernel locks that end with the process that holds them.

``flock`` is released by the kernel when the last descriptor closes, so ``kill -9`` frees it and a
stale file means nothing. The file's content only tells people who holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path

from thopter.model.errors import Conflict, Refused

_PATIENCE = 2.0  # a holder writes its pid right after it got the lock


class FileLock:
    """An exclusive lock on ``path``, held until :meth:`release` or the end of the process.

    The descriptor is close-on-exec: programs that the holder starts do not keep the lock.
    """

    def __init__(self, path: Path, what: str) -> None:
        """Take the lock now, or raise Conflict that names the holder. ``what``: for the message."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as e:
            raise Refused(f"the lock {path} can't be opened: {e.strerror}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise _held(path, what) from None
        os.fchmod(self._fd, 0o600)
        os.ftruncate(self._fd, 0)  # what a dead holder wrote must not be read as ours

    def sign(self) -> None:
        """Write this process's pid into the file, for people and for the loser of a race."""
        text = json.dumps({"pid": os.getpid()}) + "\n"
        with contextlib.suppress(OSError):  # a full disk: the lock is held all the same
            os.pwrite(self._fd, text.encode(), 0)
            os.ftruncate(self._fd, len(text))

    def release(self) -> None:
        """Let go; the file stays, since removing it would let two holders pass each other."""
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def holder(path: Path) -> int | None:
    """The pid that a lock file names, or None."""
    try:
        found = json.loads(path.read_bytes()[:200])
    except (OSError, ValueError):
        return None
    pid = found.get("pid") if isinstance(found, dict) else None
    return pid if isinstance(pid, int) and not isinstance(pid, bool) and pid > 0 else None


def _held(path: Path, what: str) -> Conflict:
    deadline = time.monotonic() + _PATIENCE
    while (pid := holder(path)) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    who = f"pid {pid}" if pid else "a process that has not said its pid"
    if pid and not Path(f"/proc/{pid}").exists():
        who = f"something that pid {pid} left behind"
    return Conflict(
        f"another hub ({who}) {what}",
        hint="use that one, or end it with 'thopter hub stop'",
        pid=pid or 0,
    )
