"""Starting a hub on demand: detached, once however many ask, with its last words shown when it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from thopter.kit.paths import Paths, private_dir
from thopter.kit.sanitize import clean
from thopter.mesh.client import HubClient
from thopter.model.errors import HubUnreachable, ThopterError, TimedOut

START_SECONDS = 30.0
_LAST_WORDS = 4096


def start_hub(paths: Paths, say: Callable[[str], None] | None = None) -> None:
    """Start a hub unless one answers by now, and return when it does.

    It gets a session of its own, no terminal, no descriptor of ours but its output file
    (``hub.out``), and our environment. Raises HubUnreachable with what it wrote when it dies,
    TimedOut after 30 s. Callers at the same time wait for one another: one of them starts it.
    """
    private_dir(paths.state)
    private_dir(paths.runtime)
    until = time.monotonic() + START_SECONDS
    with _only_one(paths.state / "start.lock", until):
        if answers(paths):
            return
        if say is not None:
            say("starting the hub")
        out = paths.state / "hub.out"
        log_from = _size(paths.hub_log)
        child = _spawn(out)
        while not answers(paths):
            if child.poll() is not None:
                # Another hub may have come first, by other means than ours; then ours gave way.
                if answers(paths):
                    return
                raise HubUnreachable(
                    f"the hub ended at once (exit {child.returncode})"
                    + _last_words(out, paths.hub_log, log_from),
                    hint="see 'thopter hub logs' and 'thopter doctor'",
                )
            if time.monotonic() > until:
                raise TimedOut(
                    f"the hub (pid {child.pid}) did not answer within {START_SECONDS:.0f} s"
                    + _last_words(out, paths.hub_log, log_from),
                    hint="see 'thopter hub logs'",
                )
            time.sleep(0.02)
        child.returncode = 0  # it lives on as somebody else's child: nothing to wait for


def answers(paths: Paths) -> bool:
    """True when a hub answers on the socket now."""
    if not paths.hub_socket.exists():
        return False
    try:
        with HubClient(paths.hub_socket, timeout=5.0) as client:
            client.hub()
    except HubUnreachable:
        return False
    except ThopterError:
        return True
    return True


def _spawn(out: Path) -> subprocess.Popen[bytes]:
    fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "thopter.hub.main"],
            stdin=subprocess.DEVNULL,
            stdout=fd,
            stderr=fd,
            cwd="/",
            close_fds=True,
            start_new_session=True,
        )
    finally:
        os.close(fd)


@contextlib.contextmanager
def _only_one(path: Path, until: float) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimedOut(
                        "another command is starting the hub and does not get done",
                        hint="see 'thopter hub logs'",
                    ) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(fd)


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _last_words(out: Path, log: Path, log_from: int) -> str:
    """What a hub said before it died: its output, else what it added to its log."""
    for path, start in ((out, 0), (log, log_from)):
        with contextlib.suppress(OSError), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(start if size >= start else 0, size - _LAST_WORDS))
            lines = clean(file.read().decode("utf-8", "replace")).strip().splitlines()
            if lines:
                return ":\n" + "\n".join("  " + line for line in lines[-12:])
    return ", and said nothing"
