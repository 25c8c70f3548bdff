"""What others do by themselves: the kernel's freezer, bubblewrap, memory of a family of processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path

BWRAP = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]


def freezer_ms(count: int = 30, processes: int = 4) -> tuple[list[float], list[float]] | None:
    """Milliseconds that the kernel takes to freeze and to thaw a few sleepers; None without a freezer."""
    for parent, switch, on, off, state, frozen, thawed in _FREEZERS:
        if not Path(parent).is_dir():
            continue
        group = Path(parent) / f"thopter-bench-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        sleepers: list[subprocess.Popen[bytes]] = []
        try:
            if not (group / switch).exists():
                continue
            for _ in range(processes):
                sleepers.append(subprocess.Popen(["sleep", "600"]))
                (group / "cgroup.procs").write_text(str(sleepers[-1].pid))
            took: tuple[list[float], list[float]] = ([], [])
            for _ in range(count):
                took[0].append(_switched(group / switch, on, group / state, frozen))
                took[1].append(_switched(group / switch, off, group / state, thawed))
            return took
        finally:
            with contextlib.suppress(OSError):
                (group / switch).write_text(off)
            for one in sleepers:
                one.kill()
                one.wait()
            with contextlib.suppress(OSError):
                group.rmdir()
    return None


_FREEZERS = (
    ("/sys/fs/cgroup/unified", "cgroup.freeze", "1", "0", "cgroup.events", "frozen 1", "frozen 0"),
    ("/sys/fs/cgroup", "cgroup.freeze", "1", "0", "cgroup.events", "frozen 1", "frozen 0"),
    ("/sys/fs/cgroup/freezer", "freezer.state", "FROZEN", "THAWED", "freezer.state", "FROZEN", "THAWED"),
)


def _switched(switch: Path, value: str, state: Path, wanted: str) -> float:
    began = time.perf_counter()
    switch.write_text(value)
    while wanted not in state.read_text():
        if time.perf_counter() - began > 10:
            raise RuntimeError(f"{switch} does not become {wanted}")
    return (time.perf_counter() - began) * 1000


def bwrap_memory_mb() -> float | None:
    """Pss of a bubblewrap with a sleep in it; None where it can't be had."""
    if shutil.which("bwrap") is None:
        return None
    with subprocess.Popen([*BWRAP, "sleep", "600"], stderr=subprocess.DEVNULL) as box:
        try:
            end = time.monotonic() + 10
            while time.monotonic() < end and len(family(box.pid)) < 3:
                time.sleep(0.02)
            found = family(box.pid)
            return pss_mb(found) if len(found) >= 3 else None
        finally:
            for pid in reversed(family(box.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):  # it ended meanwhile
            for task in Path(f"/proc/{one}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def pss_mb(pids: list[int]) -> float:
    """What these processes take of the memory, what they share counted in parts."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def available_mb() -> float:
    """What the kernel says is left of the machine's memory."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/meminfo does not say")


def disk_kb(path: Path) -> float:
    """What is allocated on the filesystem of ``path``, after everything was written."""
    os.sync()
    return shutil.disk_usage(path).used / 1024
