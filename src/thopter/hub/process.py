"""The hub as a process: detaching, signals, descriptors, and nothing readable from outside."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import resource
import sys
from pathlib import Path

_PR_SET_DUMPABLE = 4
_WANTED_FILES = 16384


def keep_private() -> None:
    """No core dumps, and neither memory nor environment of this process can be read by other
    processes of the same user (root apart): both may hold credentials. New files are private."""
    os.umask(0o077)
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    # 1 means none at all; of 0 the kernel would still give it to the program in core_pattern.
    none = 0 if hard == 0 else 1
    resource.setrlimit(resource.RLIMIT_CORE, (none, none))
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def raise_file_limit() -> None:
    """Allow as many open files as the machine lets us have, within reason."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # fewer clients at once is all that follows
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def detach(errors: Path) -> None:
    """Go on in the background; the process that was started exits 0 now.

    Called when the locks are held and the sockets listen, so 0 means: a client can connect. What a
    crash writes to stderr goes to ``errors``.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():  # not a session leader: no terminal opened later can become ours
        os._exit(0)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    err = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    for target, source in ((0, null), (1, err), (2, err)):
        os.dup2(source, target)
    os.close(null)
    os.close(err)


def show_crashes() -> None:
    """Write where the interpreter was when it crashed to stderr."""
    faulthandler.enable()
