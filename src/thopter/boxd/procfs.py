"""What /proc says of processes: identity that survives pid reuse, sessions, trees, a listing."""

from __future__ import annotations

import os
import signal
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Set

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Stat(NamedTuple):
    """Fields of ``/proc/<pid>/stat``; ``started`` (ticks since boot) tells reused pids apart."""

    pid: int
    comm: bytes
    state: str
    ppid: int
    session: int
    cpu_ms: int
    started: int
    rss: int
    tty: int = 0


def read_small(path: str, limit: int = 1 << 16) -> bytes:
    """Return up to ``limit`` bytes of a file of /proc; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, limit)
    finally:
        os.close(fd)


def parse_stat(raw: bytes) -> Optional[Stat]:
    """Parse a stat line (the name in it may hold anything); None when it is not one."""
    left, right = raw.find(b"("), raw.rfind(b")")
    rest = raw[right + 2 :].split()
    if left < 0 or right < left or len(rest) < 22:
        return None
    try:
        return Stat(
            pid=int(raw[:left]),
            comm=raw[left + 1 : right],
            state=rest[0].decode("ascii"),
            ppid=int(rest[1]),
            session=int(rest[3]),
            cpu_ms=(int(rest[11]) + int(rest[12])) * 1000 // _TICKS,
            started=int(rest[19]),
            rss=int(rest[21]) * _PAGE,
            tty=int(rest[4]),
        )
    except ValueError:
        return None


def stat(pid: int) -> Optional[Stat]:
    """Return the process's facts, or None when there is no such process."""
    try:
        return parse_stat(read_small(f"/proc/{pid}/stat"))
    except OSError:
        return None


def alive(pid: int, started: int) -> bool:
    """True while exactly that process (not a later one of the same number) runs."""
    found = stat(pid)
    return found is not None and found.started == started and found.state not in "ZX"


def everything() -> Iterator[Stat]:
    """Every process that can be seen, zombies included."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            found = stat(int(name))
            if found is not None:
                yield found


def boot_seconds(found: Stat) -> float:
    """When it started, in seconds of CLOCK_BOOTTIME."""
    return found.started / _TICKS


def kill(pids: Iterable[int], number: int) -> None:
    """Send a signal to each; those already gone are fine."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def session_members(session: int) -> List[int]:
    """Pids of a session's living processes."""
    return [p.pid for p in everything() if p.session == session and p.state not in "ZX"]


def signal_group(leader: int, number: int) -> None:
    """Send a signal to the process group that ``leader`` started with."""
    try:
        os.killpg(leader, number)
    except (ProcessLookupError, PermissionError):
        return


def kill_session(session: int) -> None:
    """SIGKILL everything in a session, also what was forked meanwhile."""
    signal_group(session, signal.SIGKILL)
    for _ in range(8):
        members = session_members(session)
        if not members:
            return
        kill(members, signal.SIGKILL)


def descendants(roots: Iterable[int]) -> Set[int]:
    """Living processes below ``roots`` (without them) by parentage."""
    children: Dict[int, List[int]] = {}
    for found in everything():
        if found.state not in "ZX":
            children.setdefault(found.ppid, []).append(found.pid)
    below: Set[int] = set()
    todo = list(roots)
    while todo:
        for pid in children.get(todo.pop(), ()):
            if pid not in below:
                below.add(pid)
                todo.append(pid)
    return below


def with_variable(entry: bytes) -> Set[int]:
    """Processes that were started with exactly ``NAME=value`` in their environment."""
    found: Set[int] = set()
    for one in everything():
        try:
            environment = read_small(f"/proc/{one.pid}/environ", 1 << 20)
        except OSError:
            continue
        if entry in environment.split(b"\0"):
            found.add(one.pid)
    return found
