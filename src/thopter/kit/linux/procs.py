"""Processes as the kernel tells of them, safe against reused process ids."""

from __future__ import annotations

import os
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
