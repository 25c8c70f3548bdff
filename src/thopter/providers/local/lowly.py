"""Running a program of this machine as the root of a user namespace: for the kernel it is a range of ids
that are nobody's, so it can build a whole system tree and harm nothing outside of it.

It sees the machine's files as any stranger does, in namespaces of its own but for the network. The
folder it works in is at :data:`PLACE` for it. It ends, with all it started, when the hub does.
Standard library only: the helper starts without anything else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from thopter.kit.linux import calls

PLACE = "/var/tmp"
_COUNT = 0x10000  # ids of one range, see uids.py
_SPACES = calls.CLONE_NEWNS | calls.CLONE_NEWPID | calls.CLONE_NEWIPC | calls.CLONE_NEWUTS


def command(base: int, folder: Path, argv: list[str]) -> list[str]:
    """What to start, as root, so that ``argv`` runs that way: its root is id ``base``, which owns
    ``folder``. The exit code is that of the program."""
    here = str(Path(__file__).parents[3])
    code = "import sys; sys.path.append(sys.argv[1]); from thopter.providers.local.lowly import main; main()"
    start = [sys.executable, "-S", "-E", "-I", "-c", code, here, str(os.getpid()), str(base), str(folder)]
    return start + argv


def main() -> NoReturn:
    """The helper: argv is the source folder of this package, the hub's pid, the base, the folder, the
    program."""
    hub, base, folder, argv = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5:]
    _end_with(hub)
    os.chdir(folder)
    ready, go = os.pipe(), os.pipe()
    helper = os.getpid()
    pid = os.fork()
    if pid == 0:
        _child(lambda: _second(helper, ready[1], go, argv))
    os.close(ready[1])
    if os.read(ready[0], 1) != b"u":
        sys.exit("user namespaces are refused here")
    for kind in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{kind}").write_text(f"0 {base} {_COUNT}\n")
    os.write(go[1], b"m")
    os._exit(_wait(pid))


def _second(helper: int, ready: int, go: tuple[int, int], argv: list[str]) -> int:
    """Becomes root of the namespaces, and waits for the first process in them."""
    os.close(go[1])
    calls.unshare(calls.CLONE_NEWUSER)
    os.write(ready, b"u")
    if os.read(go[0], 1) != b"m":
        return 1
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    _end_with(helper)  # only now: a change of ids forgets it
    calls.prctl(calls.PR_SET_NO_NEW_PRIVS, 1)
    calls.unshare(_SPACES)
    pid = os.fork()
    if pid == 0:
        _child(lambda: _first(argv))
    return _wait(pid)


def _first(argv: list[str]) -> int:
    """Process 1: sets the mounts right, starts the program and takes in what it leaves behind."""
    calls.prctl(calls.PR_SET_PDEATHSIG, signal.SIGKILL)
    calls.mount("none", "/", flags=calls.MS_REC | calls.MS_PRIVATE)
    calls.mount(".", PLACE, flags=calls.MS_BIND)
    calls.mount("proc", "/proc", "proc", calls.MS_NOSUID | calls.MS_NODEV | calls.MS_NOEXEC)
    os.chdir(PLACE)
    pid = os.fork()
    if pid == 0:
        calls.close_range(3, 0x7FFFFFFF)
        os.umask(0o022)
        os.execvp(argv[0], argv)
    while True:
        ended, status = os.wait()
        if ended == pid:
            return _code(status)


def _end_with(parent: int) -> None:
    """Die when the parent does, also when it has just done so."""
    calls.prctl(calls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _child(work: Callable[[], int]) -> NoReturn:
    status = 1
    try:
        status = work()
    except OSError as e:
        with contextlib.suppress(OSError):
            os.write(2, f"E: the builder's namespaces can't be made: {e}\n".encode())
    finally:
        os._exit(status)


def _wait(pid: int) -> int:
    return _code(os.waitpid(pid, 0)[1])


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
