"""Processes as the kernel tells of them, safe against reused process ids."""

from __future__ import annotations

import contextlib
import os
import signal
import time


def stat_fields(pid: int) -> list[bytes]:
    """The fields of /proc/<pid>/stat after the command name, the state first."""
    with open(f"/proc/{pid}/stat", "rb") as f:
        return f.read().rpartition(b")")[2].split()


def start_time(pid: int) -> int:
    """When ``pid`` started, in clock ticks since boot: with the pid it names one process for good.

    Raises OSError when there is none.
    """
    return int(stat_fields(pid)[19])


def alive(pid: int, start: int) -> bool:
    """True when exactly that process still runs (a zombie does not)."""
    try:
        fields = stat_fields(pid)
    except (OSError, IndexError):
        return False
    return int(fields[19]) == start and fields[0] not in (b"Z", b"X")


def kill(pid: int, start: int, seconds: float = 10.0) -> None:
    """Kill exactly that process and wait until it is gone. Gone already = success; TimeoutError."""
    with contextlib.suppress(ProcessLookupError):
        if alive(pid, start):
            os.kill(pid, signal.SIGKILL)
    wait_gone(pid, start, seconds)


def kill_tree(pid: int, start: int, seconds: float = 10.0) -> None:
    """Kill exactly that process and all its descendants, those forked meanwhile too; the process
    itself goes last, so that what loses its parent stays below it (it must be a subreaper for that).
    Gone already = success; TimeoutError."""
    deadline = time.monotonic() + seconds
    doomed: set[int] = set()  # what was told to die makes no new ones any more
    quiet = 0
    while alive(pid, start):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)  # so that it makes no new ones
        below = [p for p in tree(pid)[1:] if stat_state(p) not in ("Z", "X", "")]
        quiet = quiet + 1 if doomed.issuperset(below) else 0
        # Not waited for until they are gone: the first of a pid namespace can't go while its parent,
        # which stands still, has not taken note of others that were in there.
        if not below or quiet > 1:
            kill(pid, start, max(0.1, deadline - time.monotonic()))
            break
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for one in below:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, number)
        doomed.update(below)
        _look_again(deadline, pid, below)
    while left := [p for p in doomed if stat_state(p) not in ("Z", "X", "")]:
        _look_again(deadline, pid, left)


def _look_again(deadline: float, pid: int, left: list[int]) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"processes below {pid} do not end: {left[:5]}")
    time.sleep(0.002)


def stat_state(pid: int) -> str:
    """The letter of its state; empty when it is gone."""
    try:
        return stat_fields(pid)[0].decode()
    except (OSError, IndexError):
        return ""


def children() -> dict[int, list[int]]:
    """Every process visible here under its parent's id."""
    found: dict[int, list[int]] = {}
    for pid in all_pids():
        with contextlib.suppress(OSError, IndexError):
            found.setdefault(int(stat_fields(pid)[1]), []).append(pid)
    return found


def tree(pid: int) -> list[int]:
    """``pid`` and all its descendants now, parents first."""
    below = children()
    found = [pid]
    for one in found:
        found += below.get(one, [])
    return found


def ancestors(pid: int) -> list[int]:
    """Parents of ``pid`` from the nearest up; empty when it is gone."""
    found: list[int] = []
    try:
        while pid > 1:
            pid = int(stat_fields(pid)[1])
            found.append(pid)
    except (OSError, IndexError):
        return found
    return found


def stop_tree(pid: int, stop: bool, seconds: float = 10.0) -> None:
    """Stop (or let go on) a process and all its descendants by signal, those forked meanwhile too.

    For where there is no freezer: their parents see it, and somebody inside can undo it.
    """
    deadline = time.monotonic() + seconds
    while True:
        todo = [p for p in tree(pid) if stopped(p) != stop]
        if not todo:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {todo[:5]} do not {'stop' if stop else 'go on'}")
        for one in todo:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGSTOP if stop else signal.SIGCONT)
        time.sleep(0.0005)


def stopped(pid: int) -> bool:
    """True for a process that is stopped by signal (or is no more)."""
    try:
        return stat_fields(pid)[0] in (b"T", b"Z", b"X")
    except (OSError, IndexError):
        return True


def command_line(pid: int) -> list[str]:
    """Its arguments, empty when there are none or it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            raw = f.read(4096)
    except OSError:
        return []
    return [word.decode("utf-8", "replace") for word in raw.rstrip(b"\0").split(b"\0")] if raw else []


def first_of_namespace(pid: int) -> bool:
    """True for the first process of a pid namespace below ours (nobody can pretend to be one)."""
    try:
        with open(f"/proc/{pid}/status", "rb") as f:
            for line in f:
                if line.startswith(b"NSpid:"):
                    numbers = line.split()[1:]
                    return len(numbers) > 1 and numbers[-1] == b"1"
    except OSError:
        return False
    return False


def inner_pid(pid: int) -> int:
    """Its number in the innermost pid namespace that it is in; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/status", "rb") as f:
            return next((int(line.split()[-1]) for line in f if line.startswith(b"NSpid:")), 0)
    except OSError:
        return 0


def first_titled(words: list[str]) -> list[int]:
    """The first processes of pid namespaces whose command line is the one word ``words``, joined."""
    title = " ".join(words)
    return [pid for pid in all_pids() if command_line(pid) == [title] and first_of_namespace(pid)]


def in_namespace(pid: int) -> bool:
    """True for a process of a pid namespace below ours."""
    try:
        with open(f"/proc/{pid}/status", "rb") as f:
            return any(line.startswith(b"NSpid:") and len(line.split()) > 2 for line in f)
    except OSError:
        return True


def wait_gone(pid: int, start: int, seconds: float) -> None:
    """Block until that process is gone or a zombie. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    pause = 0.0005
    while alive(pid, start):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} does not end")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def boot_id() -> str:
    """A word that changes with every boot of this machine."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
        return f.read().strip()


def all_pids() -> list[int]:
    """Every process id visible here."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
