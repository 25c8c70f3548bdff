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
_GONE_SECONDS = 2.0


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
        words = LastWords(paths)
        child = _spawn(paths.state / "hub.out")
        seen = time.monotonic()
        while not answers(paths):
            # It detaches: the child we started ends with 0 when its socket listens. From then on a
            # socket that takes no connection means that it died. Another code: it gave up at once;
            # unless a hub that was started by other means came first, to which it gave way.
            code = child.poll()
            if code is None or (code == 0 and paths.hub_socket.exists()):
                seen = time.monotonic()
            elif code or time.monotonic() - seen > _GONE_SECONDS:
                if answers(paths):
                    return
                raise HubUnreachable(
                    f"the hub did not start{words.read()}", hint="see 'thopter hub logs' and 'thopter doctor'"
                )
            if time.monotonic() > until:
                child.poll()
                raise TimedOut(
                    f"the hub did not answer within {START_SECONDS:.0f} s{words.read()}",
                    hint="see 'thopter hub logs'",
                )
            time.sleep(0.02)
        # A hub that stays our child lives on as somebody else's: there is nothing to wait for.
        child.returncode = child.poll() or 0


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


class LastWords:
    """What a hub writes from now on: to its output, its crash file and its log."""

    def __init__(self, paths: Paths) -> None:
        self._files = [paths.state / "hub.out", paths.state / "hub.err", paths.hub_log]
        self._was = [_stamp(path) for path in self._files]

    def read(self) -> str:
        """Return the end of the first of them that has news, indented under a colon."""
        for path, (changed, size) in zip(self._files, self._was, strict=True):
            now, new_size = _stamp(path)
            if not new_size or now == changed:
                continue
            with contextlib.suppress(OSError), path.open("rb") as file:
                begin = size if path.suffix == ".log" and new_size >= size else 0
                file.seek(max(begin, new_size - _LAST_WORDS))
                lines = clean(file.read(_LAST_WORDS).decode("utf-8", "replace")).strip().splitlines()
                if lines:
                    return ":\n" + "\n".join("  " + line for line in lines[-12:])
        return ", and said nothing"


def _stamp(path: Path) -> tuple[int, int]:
    """Time of the last change (ns) and size; zeros when there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
