"""Starting processes fast and clean (posix_spawn), watching their end (pidfd), forgetting none."""

from __future__ import annotations

import errno
import os
import signal
import struct
import time
from typing import Callable, Dict, List, Optional, Tuple

from thopter.boxd import procfs
from thopter.boxd.fields import OpError, bad, from_os
from thopter.boxd.loop import READ, Loop, describe, log
from thopter.boxd.wire import to_text

_ALL_SIGNALS = [s for s in range(1, signal.NSIG) if s not in (signal.SIGKILL, signal.SIGSTOP, 32, 33)]
_POLL = 0.05  # seconds between looks when the kernel has no pidfd


def find_program(argv: List[bytes], env: Dict[bytes, bytes]) -> List[bytes]:
    """Return the paths at which ``argv[0]`` may be found, by the PATH of ``env``."""
    name = argv[0]
    if b"/" in name:
        return [name]
    path = env.get(b"PATH", b"/usr/local/bin:/usr/bin:/bin")
    return [(folder or b".") + b"/" + name for folder in path.split(b":")]


def start(
    argv: List[bytes],
    env: Dict[bytes, bytes],
    cwd: bytes,
    files: Optional[Tuple[int, int, int]],
    tty: Optional[str] = None,
) -> int:
    """Start a process in its own session with only descriptors 0, 1, 2; return its pid.

    ``files`` are our descriptors for them, or ``tty`` is opened as all three and becomes the
    controlling terminal. Default signal handlers and mask. Raises OpError: ``not_found`` says
    whether the folder or the program is missing.
    """
    if tty is not None:
        actions: List[Tuple[int, ...]] = [
            (os.POSIX_SPAWN_OPEN, 0, tty, os.O_RDWR, 0),  # type: ignore[list-item]
            (os.POSIX_SPAWN_DUP2, 0, 1),
            (os.POSIX_SPAWN_DUP2, 0, 2),
        ]
    else:
        assert files is not None
        actions = [(os.POSIX_SPAWN_DUP2, fd, n) for n, fd in enumerate(files)]
    try:
        os.chdir(cwd)  # posix_spawn has no portable way to say it; we are single-threaded
    except OSError as e:
        error = from_os(e, f"the folder {to_text(cwd)}")
        error.extra["what"] = "cwd"
        raise error from None
    try:
        return _try_each(argv, env, actions)
    finally:
        os.chdir("/")


def _try_each(argv: List[bytes], env: Dict[bytes, bytes], actions: List[Tuple[int, ...]]) -> int:
    denied: Optional[OSError] = None
    for program in find_program(argv, env):
        try:
            if os.path.isdir(program):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return os.posix_spawn(
                program, argv, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_ALL_SIGNALS
            )
        except OSError as e:
            if e.errno in (errno.ENOENT, errno.ENOTDIR):
                continue
            if e.errno != errno.EACCES:
                raise _program_error(e, argv) from None
            denied = e
    raise _program_error(denied or OSError(errno.ENOENT, ""), argv)


def _program_error(error: OSError, argv: List[bytes]) -> OpError:
    shown = to_text(argv[0][:200])
    if error.errno == errno.ENOENT:
        return OpError("not_found", f"no program {shown}", what="argv")
    if error.errno == errno.ENOEXEC:
        return bad(f"{shown} is not a program (no '#!' line?)")
    return from_os(error, shown)


def open_pidfd(pid: int) -> int:
    """Return a pidfd, or -1 where the kernel has none. Raises ProcessLookupError."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except (OSError, AttributeError):
        return -1


class Watch:
    """Calls ``gone()`` once when a process ends (a child of ours or not), without polling."""

    def __init__(self, loop: Loop, pid: int, gone: Callable[[], None], is_gone: Callable[[], bool]) -> None:
        """``is_gone`` is asked where the kernel has no pidfd. A pid that is not there is gone."""
        self._loop, self._gone, self._is_gone = loop, gone, is_gone
        try:
            self.fd = open_pidfd(pid)
        except ProcessLookupError:
            self.fd = -2
        if self.fd >= 0:
            loop.watch(self.fd, READ, self._ready)
        elif self.fd == -2:
            loop.soon(self._fire)
        else:
            loop.later(_POLL, self._look)

    def cancel(self) -> None:
        """Watch no more; ``gone`` is not called."""
        self._gone = _nothing
        if self.fd >= 0:
            self._loop.forget(self.fd)
            os.close(self.fd)
            self.fd = -1

    def _ready(self, _events: int) -> None:
        self._loop.forget(self.fd)
        self._fire()

    def _look(self) -> None:
        if self._gone is _nothing or self._is_gone():
            self._fire()
        else:
            self._loop.later(_POLL, self._look)

    def _fire(self) -> None:
        gone, self._gone = self._gone, _nothing
        try:
            gone()
        finally:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1


def _nothing() -> None:
    return None


class Ledger:
    """The sessions we started, in a small file, so that a new boxd ends what a dead one left.

    A slot is written at the start of each process and cleared at its end; no fsync (it matters
    only while the box runs: a file of another life of the box, or of the machine, is ignored).
    """

    _SLOT = struct.Struct("<Id")  # pid, CLOCK_BOOTTIME when it was started
    _SLOTS = 4096

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._life = _life()
        self._free = list(range(self._SLOTS - 1, -1, -1))

    def sweep(self) -> int:
        """Kill every recorded session that still lives; return how many."""
        raw = os.pread(self._fd, _LIFE + self._SLOT.size * self._SLOTS, 0)
        if raw[:_LIFE] != self._life:
            raw = b""
        killed = 0
        for at in range(_LIFE, len(raw) - self._SLOT.size + 1, self._SLOT.size):
            pid, since = self._SLOT.unpack_from(raw, at)
            if not pid:
                continue
            leader = procfs.stat(pid)
            # While a session has members its number is not given out again, so members
            # without a leader are ours; a leader must be as old as the record says.
            ours = leader is None or (leader.session == pid and abs(procfs.boot_seconds(leader) - since) < 2)
            if ours and procfs.session_members(pid):
                killed += 1
                procfs.kill_session(pid)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, self._life, 0)
        return killed

    def enter(self, pid: int) -> int:
        """Record a session; return its slot (-1 when all are taken)."""
        if not self._free:
            return -1
        slot = self._free.pop()
        self._write(slot, pid)
        return slot

    def leave(self, slot: int) -> None:
        """Forget a session that has ended."""
        if slot >= 0:
            self._write(slot, 0)
            self._free.append(slot)

    def _write(self, slot: int, pid: int) -> None:
        entry = self._SLOT.pack(pid, time.clock_gettime(time.CLOCK_BOOTTIME))
        try:
            os.pwrite(self._fd, entry, _LIFE + slot * self._SLOT.size)
        except OSError as e:
            log("the ledger of processes can't be written: " + describe(e))


_LIFE = 64  # bytes at the ledger's beginning that name one life of the box


def _life() -> bytes:
    first = procfs.stat(1)
    try:
        boot = procfs.read_small("/proc/sys/kernel/random/boot_id").strip()
    except OSError:
        boot = b"hidden"  # a provider may mask it; the first process's age is then enough
    return (boot + b" %d" % (first.started if first is not None else 0)).ljust(_LIFE)[:_LIFE]


class Child:
    """A running child of ours: ends with one call of ``ended(status)`` (as from waitpid)."""

    def __init__(self, loop: Loop, ledger: Ledger, pid: int, ended: Callable[[int], None]) -> None:
        self.pid = pid
        self.status: Optional[int] = None
        self._ledger, self._slot, self._ended = ledger, ledger.enter(pid), ended
        self._watch = Watch(loop, pid, self._reap, self._reaped)

    def _reaped(self) -> bool:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.status = status
        return bool(pid)

    def _reap(self) -> None:
        if self.status is None and not self._reaped():
            raise RuntimeError(f"process {self.pid} was said to be gone but is not")
        self._ledger.leave(self._slot)
        assert self.status is not None
        self._ended(self.status)

    def kill(self) -> None:
        """SIGKILL its whole session; ``ended`` still comes. Harmless afterwards."""
        if self.status is None:
            procfs.kill_session(self.pid)

    def signal(self, number: int) -> None:
        """Send a signal to its process group. Harmless afterwards."""
        if self.status is None:
            procfs.signal_group(self.pid, number)


def outcome(status: int) -> Dict[str, int]:
    """Say a wait status as ``{"exit": n}`` or ``{"signal": n}``."""
    if os.WIFSIGNALED(status):
        return {"signal": os.WTERMSIG(status)}
    return {"exit": os.WEXITSTATUS(status)}
