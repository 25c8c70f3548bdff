"""How QEMU is started: the smallest machine that will do, and nothing of the host but descriptors.

Pure. The paths are those of the keeper's own root (vm_rootfs.py). Python 3.9, standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

KVM, TCG = "kvm", "tcg"
TREE, DISK, KIT = "/tree", "/disk", "/kit"
PROGRAM = "/usr/bin/qemu-system-x86_64"
OVERHEAD = {KVM: 192 << 20, TCG: 448 << 20}  # what QEMU itself takes besides the machine's memory, at most
_TRANSLATED_MB = 128  # of emulated code
_SMALLEST_MB = 256
_DEFAULT_MB = 2048
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


class Machine:
    """One kind of virtual machine: what a saved state is a state of. ``khz``: how fast the clock counter
    runs, which an emulated machine can't find out (0: it can)."""

    def __init__(self, accel: str, memory_mb: int, cpus: int, khz: int) -> None:
        if accel not in (KVM, TCG) or memory_mb < _SMALLEST_MB or cpus < 1 or khz < 0:
            raise ValueError(f"no machine: {accel!r}, {memory_mb} MiB, {cpus} processors, {khz} kHz")
        self.accel, self.memory_mb, self.cpus, self.khz = accel, memory_mb, cpus, khz

    def raw(self) -> dict[str, Any]:
        """As JSON."""
        return {"accel": self.accel, "memory_mb": self.memory_mb, "cpus": self.cpus, "khz": self.khz}

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Machine:
        """From that. Raises ValueError, KeyError, TypeError."""
        return cls(str(raw["accel"]), int(raw["memory_mb"]), int(raw["cpus"]), int(raw["khz"]))


def size(accel: str, memory_bytes: int, cpus: float, host_cpus: int, khz: int) -> Machine:
    """The machine for a box with these limits (0: none). Raises ValueError where it would be too small."""
    memory = memory_bytes >> 20 if memory_bytes else _DEFAULT_MB
    if memory < _SMALLEST_MB:
        raise ValueError(f"a virtual machine takes {_SMALLEST_MB} MiB of memory, not {memory}")
    count = min(math.ceil(cpus), host_cpus) if cpus else host_cpus
    return Machine(accel, memory, max(1, min(count, 8)), khz if accel == TCG else 0)


def kernel_line(machine: Machine) -> str:
    """What the kernel is told."""
    words = ["console=ttyS0", "quiet", "loglevel=3", "panic=-1", "reboot=t", "random.trust_cpu=on"]
    if machine.khz:  # without a timer chip an emulated machine can't measure; and it is its own host's mercy
        words += [f"tsc_early_khz={machine.khz}", "tsc=reliable", "mitigations=off", "cryptomgr.notests"]
    return " ".join(words)


def argv(machine: Machine, monitor: int, pipe: int, incoming: int, kernel: str = "kernel") -> list[str]:
    """The command line. ``monitor``, ``pipe``: its ends of socket pairs; ``incoming``: a saved state to go
    on from (-1: boot)."""
    accel = "kvm" if machine.accel == KVM else f"tcg,tb-size={_TRANSLATED_MB}"
    words = [
        PROGRAM, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-sandbox", _SANDBOX,
        "-M", "microvm,usb=off,graphics=off,pcie=off", "-accel", accel,
        "-cpu", "host" if machine.accel == KVM else "max", "-smp", str(machine.cpus),
        "-m", f"{machine.memory_mb}M",
        "-kernel", f"{KIT}/{kernel}", "-initrd", f"{KIT}/initrd", "-append", kernel_line(machine),
        "-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control",
        "-chardev", f"file,id=console,path={DISK}/console", "-serial", "chardev:console",
        "-device", "virtio-serial-device,max_ports=2", "-chardev", f"socket,id=pipe,fd={pipe}",
        "-device", "virtserialport,nr=1,chardev=pipe,name=thopter",
        "-drive", f"if=none,id=disk,file={DISK}/disk,format=raw,aio=threads,cache=writeback,"
        "discard=unmap,detect-zeroes=unmap,werror=report,rerror=report",
        "-device", "virtio-blk-device,drive=disk",
        "-fsdev", f"local,id=tree,path={TREE},security_model=none,readonly=on,multidevs=remap",
        "-device", "virtio-9p-device,fsdev=tree,mount_tag=tree",
    ]  # fmt: skip
    return [*words, "-incoming", f"fd:{incoming}"] if incoming >= 0 else words
