"""What a virtual machine has of the host: a disk, which is a file in its box's folder, and limits."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec

from thopter.model.errors import ProviderError
from thopter.model.nouns import Limits
from thopter.providers.local import vm_command, vm_rootfs
from thopter.providers.local.vm_command import Machine

_THREADS = 256  # of QEMU and the keeper, at most
_DISK_BYTES = 20 << 30  # of a box without a limit; only what is written takes room
_FOR_BELOW = 8  # one part of so many is left for the file system that the file is in


def outside(orders: dict[str, Any], limits: Limits) -> Limits:
    """The limits for the control group around a machine that has ``limits`` inside."""
    machine = Machine.of(orders["machine"])
    memory = (machine.memory_mb << 20) + vm_command.OVERHEAD[machine.accel]
    return msgspec.structs.replace(limits, memory_bytes=memory, pids=_THREADS)


def make(folder: Path, limits: Limits, owner: int) -> None:
    """Make the box's disk in its folder, as a file that takes the room of what is in it; one that is there
    is left. Raises OSError, ProviderError."""
    top = folder / vm_rootfs.FOLDER
    disk = top / "disk"
    if disk.exists():
        return
    tool = shutil.which("mkfs.ext4", path=os.defpath + ":/usr/sbin:/sbin")
    if tool is None:
        raise ProviderError("mkfs.ext4 is missing: 'apt install e2fsprogs'")
    top.mkdir(mode=0o700, exist_ok=True)
    size = (limits.disk_bytes or _DISK_BYTES) * (_FOR_BELOW - 1) // _FOR_BELOW & ~0xFFFF
    new = top / "disk.new"
    with open(new, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.truncate(size)
    argv = [tool, "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", str(new)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise ProviderError(f"the machine's disk can't be made: {done.stderr.strip()[-200:]}")
    if owner:
        for path in (new, top):
            os.chown(path, owner, owner)
    new.rename(disk)


def last_words(folder: Path) -> str:
    """What the machine's console, its keeper and QEMU said last."""
    said = []
    for name in ("console", "log"):
        with contextlib.suppress(OSError):
            path = folder / vm_rootfs.FOLDER / name
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                lines = file.read(1 << 20).decode("utf-8", "replace").strip().splitlines()
                said += [line[-200:] for line in lines[-2:]]
    return "; ".join(said) or "nothing"
