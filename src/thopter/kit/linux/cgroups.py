"""Control groups v1 and v2, found per controller: limits, freezing and killing of a set of processes.

Groups are ``<hierarchy>/<family>/<name>``. Whatever a machine lacks is left out and can be asked for
(:attr:`Cgroups.limits`, :attr:`Cgroups.can_freeze`); nothing is pretended.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterable

_WANTED = ("memory", "pids", "cpu")


class Hierarchy:
    """One mounted hierarchy: where our family of groups is, and which controllers it really has."""

    def __init__(self, family: str, version: int, controllers: frozenset[str]) -> None:
        self.family = family
        self.version = version
        self.controllers = controllers

    def group(self, name: str) -> str:
        """The folder of group ``name``."""
        return f"{self.family}/{name}"


class Cgroups:
    """The groups of one family on all hierarchies that are of use. Blocking; calls take well under
    a millisecond except :meth:`kill` and :meth:`destroy`, which wait for processes to go."""

    def __init__(self, hierarchies: Iterable[Hierarchy]) -> None:
        self.hierarchies = tuple(hierarchies)
        self._v2 = next((h for h in self.hierarchies if h.version == 2), None)
        self._freezer = self._v2 or next((h for h in self.hierarchies if "freezer" in h.controllers), None)

    @property
    def limits(self) -> frozenset[str]:
        """Which of memory, pids, cpu are enforced."""
        return frozenset(c for h in self.hierarchies for c in h.controllers if c in _WANTED)

    @property
    def can_freeze(self) -> bool:
        """True when a group can be stopped as a whole."""
        return self._freezer is not None

    def make(self, name: str, memory_bytes: int = 0, pids: int = 0, cpus: float = 0) -> list[str]:
        """Make group ``name`` with its limits (0 = none); returns the folders that a process must
        join (write itself to ``cgroup.procs``). Idempotent."""
        made = []
        for h in self.hierarchies:
            group = h.group(name)
            with contextlib.suppress(FileExistsError):
                try:
                    os.mkdir(group)
                except FileNotFoundError:  # the first group of the family
                    os.makedirs(h.family, exist_ok=True)
                    if h.version == 2:
                        _enable(os.path.dirname(h.family), h.family)
                    os.mkdir(group)
            made.append(group)
            limit = _limit_v2 if h.version == 2 else _limit_v1
            limit(group, h.controllers, memory_bytes, pids, cpus)
        return made

    def pids(self, name: str) -> set[int]:
        """All processes of the group, as numbered here."""
        found: set[int] = set()
        for h in self.hierarchies:
            try:
                with open(h.group(name) + "/cgroup.procs", encoding="ascii") as f:
                    found.update(int(line) for line in f if line.strip() not in ("", "0"))
            except FileNotFoundError:
                continue
        return found

    def names(self) -> set[str]:
        """Every group of the family, on any hierarchy."""
        found: set[str] = set()
        for h in self.hierarchies:
            with contextlib.suppress(FileNotFoundError), os.scandir(h.family) as entries:
                found.update(e.name for e in entries if e.is_dir(follow_symlinks=False))
        return found

    def freeze(self, name: str) -> None:
        """Stop every process of the group; returns when they have stopped. Idempotent.

        Raises TimeoutError when the kernel has not managed within 10 s (a process in an
        uninterruptible wait); the group is thawed again then.
        """
        self._set_frozen(name, True)

    def thaw(self, name: str) -> None:
        """Let them go on. Idempotent."""
        self._set_frozen(name, False)

    def frozen(self, name: str) -> bool:
        """True when the group is stopped, or being stopped."""
        h = self._freezer
        if h is None:
            return False
        try:
            if h.version == 2:
                return _read(h.group(name) + "/cgroup.freeze") == "1"
            return _read(h.group(name) + "/freezer.state") in ("FROZEN", "FREEZING")
        except FileNotFoundError:
            return False

    def _set_frozen(self, name: str, frozen: bool) -> None:
        h = self._freezer
        if h is None:
            raise OSError(errno.EOPNOTSUPP, "no freezer on this machine")
        group = h.group(name)
        if h.version == 2:
            _write(group + "/cgroup.freeze", "1" if frozen else "0")
        else:
            _write(group + "/freezer.state", "FROZEN" if frozen else "THAWED")
        deadline = time.monotonic() + 10
        pause = 0.0
        while not self._settled(h, group, frozen):
            if time.monotonic() > deadline:
                if frozen:
                    self._set_frozen(name, False)
                raise TimeoutError(f"{group} did not {'freeze' if frozen else 'thaw'} within 10 s")
            time.sleep(pause)
            pause = min(pause + 0.0002, 0.01)

    @staticmethod
    def _settled(h: Hierarchy, group: str, frozen: bool) -> bool:
        if h.version == 2:
            return f"frozen {int(frozen)}" in _read(group + "/cgroup.events").splitlines()
        return _read(group + "/freezer.state") == ("FROZEN" if frozen else "THAWED")

    def reclaim(self, name: str) -> int:
        """Have the kernel take the memory of a (frozen) group: to swap, or away where it is a copy of a
        file. Returns the bytes that came back; 0 without swap or without a memory controller."""
        h = next((h for h in self.hierarchies if "memory" in h.controllers), None)
        if h is None or not any_swap():
            return 0
        group = h.group(name)
        usage = group + ("/memory.current" if h.version == 2 else "/memory.usage_in_bytes")
        before = int(_read(usage))
        with contextlib.suppress(OSError):  # EAGAIN, EBUSY: not all of it could be taken
            if h.version == 2:
                if os.path.exists(group + "/memory.swap.max"):
                    _write(group + "/memory.swap.max", "max")
                _write(group + "/memory.reclaim", str(before))
            else:
                _write(group + "/memory.force_empty", "0")
        return max(0, before - int(_read(usage)))

    def dirty_bytes(self, name: str) -> int:
        """What the group wrote to files that is not on the disk yet; 0 where nobody counts it."""
        h = next((h for h in self.hierarchies if "memory" in h.controllers), None)
        if h is None:
            return 0
        wanted = "file_dirty" if h.version == 2 else "dirty"
        with contextlib.suppress(FileNotFoundError):
            for line in _read(h.group(name) + "/memory.stat").splitlines():
                key, _, value = line.partition(" ")
                if key == wanted:
                    return int(value)
        return 0

    def kill(self, name: str, seconds: float = 10.0) -> None:
        """Kill every process of the group, those being forked too, and wait until none is left.

        Raises TimeoutError when one can't die (uninterruptible). No group = success.
        """
        deadline = time.monotonic() + seconds
        pause = 0.0005
        by_kernel = self._v2 is not None and os.path.exists(self._v2.group(name) + "/cgroup.kill")
        while True:
            if by_kernel and self._v2 is not None:
                with contextlib.suppress(FileNotFoundError):
                    _write(self._v2.group(name) + "/cgroup.kill", "1")
            left = self.pids(name)
            if not left:
                return
            if not by_kernel:
                self._kill_each(name, left)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(left)} processes of {name} do not die: {sorted(left)[:5]}")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    def _kill_each(self, name: str, pids: set[int]) -> None:
        # Frozen first, so that a fork bomb can't outrun the loop; v1 needs the thaw for dying.
        if self._freezer is not None:
            with contextlib.suppress(OSError):
                self._set_frozen(name, True)
            pids = self.pids(name)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._freezer is not None:
            with contextlib.suppress(OSError):
                self._set_frozen(name, False)

    def destroy(self, name: str, seconds: float = 10.0) -> None:
        """Kill everything in the group and remove it, also when somebody joins at that very moment.

        Raises TimeoutError. Gone already = success.
        """
        deadline = time.monotonic() + seconds
        pause = 0.0005
        while True:
            self.kill(name, max(0.0, deadline - time.monotonic()))
            if all([_rmdir(h.group(name)) for h in self.hierarchies]):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"control group {name} stays busy")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    def remove_family(self) -> None:
        """Remove the family's own folders when no group is left in them."""
        for h in self.hierarchies:
            with contextlib.suppress(OSError):
                os.rmdir(h.family)


def any_swap() -> bool:
    """True when some swap is on."""
    with open("/proc/swaps", encoding="ascii", errors="replace") as f:
        return len(f.readlines()) > 1


def _rmdir(path: str) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as e:
        if e.errno != errno.EBUSY:
            raise
        return False
    return True


def _limit_v1(group: str, controllers: frozenset[str], memory: int, pids: int, cpus: float) -> None:
    if "memory" in controllers and memory:
        _write(group + "/memory.limit_in_bytes", str(memory))
        if os.path.exists(group + "/memory.memsw.limit_in_bytes"):
            _write(group + "/memory.memsw.limit_in_bytes", str(memory))
    if "pids" in controllers and pids:
        _write(group + "/pids.max", str(pids))
    if "cpu" in controllers and cpus:
        _write(group + "/cpu.cfs_quota_us", str(max(int(cpus * 100_000), 1000)))


def _limit_v2(group: str, controllers: frozenset[str], memory: int, pids: int, cpus: float) -> None:
    if "memory" in controllers and memory:
        _write(group + "/memory.max", str(memory))
        if os.path.exists(group + "/memory.swap.max"):
            _write(group + "/memory.swap.max", "0")
    if "pids" in controllers and pids:
        _write(group + "/pids.max", str(pids))
    if "cpu" in controllers and cpus:
        _write(group + "/cpu.max", f"{max(int(cpus * 100_000), 1000)} 100000")


def _read(path: str) -> str:
    with open(path, encoding="ascii") as f:
        return f.read().strip()


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as e:
        raise OSError(e.errno, f"{path} = {text!r}: {os.strerror(e.errno or 0)}") from None
    finally:
        os.close(fd)


def find(family: str, root: bool, mountinfo: str = "/proc/self/mountinfo") -> Cgroups:
    """Detect the hierarchies by making ``family`` on each; what can't be written is left out.
    A family without groups is removed again: only :meth:`Cgroups.make` leaves something behind.

    As root groups are made at the top of each hierarchy that is visible here (a container's own top
    is inside its limits), so they do not end with the session that started us. An ordinary user
    only has what was delegated to it: its own v2 group.
    """
    found: list[Hierarchy] = []
    have: set[str] = set()
    for version, top, controllers in sorted(_mounted(mountinfo), reverse=True):
        parent = top if root else top + _own_group()
        if version == 1 and (not root or not (controllers - have) & {*_WANTED, "freezer"}):
            continue
        place = f"{parent}/{family}"
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(place)
            usable = _enable(parent, place) if version == 2 else controllers & {*_WANTED, "freezer"}
        except OSError:
            continue
        with contextlib.suppress(OSError):  # groups are in it
            os.rmdir(place)
        if version == 1 and usable == {"freezer"} and any(h.version == 2 for h in found):
            continue  # v2 freezes better, and each group joined costs time
        have |= usable
        found.append(Hierarchy(place, version, frozenset(usable)))
    return Cgroups(found)


def _enable(parent: str, place: str) -> set[str]:
    """Hand controllers down to ``place`` and its children; returns those that arrived."""
    for folder in (parent, place):
        available = set(_read(folder + "/cgroup.controllers").split())
        for controller in _WANTED:
            if controller in available:
                with contextlib.suppress(OSError):
                    _write(folder + "/cgroup.subtree_control", f"+{controller}")
    return set(_read(place + "/cgroup.subtree_control").split()) & set(_WANTED)


def _own_group() -> str:
    with open("/proc/self/cgroup", encoding="utf-8") as f:
        for line in f:
            if line.startswith("0::/"):
                return line[3:].strip().rstrip("/")
    return ""


def _mounted(mountinfo: str) -> list[tuple[int, str, frozenset[str]]]:
    found: dict[str, tuple[int, str, frozenset[str]]] = {}
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            left, _, right = line.partition(" - ")
            top, (kind, *_), options = left.split()[4], right.split(), right.split()[-1]
            if kind == "cgroup2":
                found[top] = (2, top, frozenset())
            elif kind == "cgroup" and "name=" not in options:
                found[top] = (1, top, frozenset(options.split(",")))
    return list(found.values())
