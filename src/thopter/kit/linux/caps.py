"""Capabilities: what a process may keep of root's powers, dropped for good."""

from __future__ import annotations

import ctypes
import os

from thopter.kit.linux import calls

NUMBER = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "DAC_READ_SEARCH": 2, "FOWNER": 3, "FSETID": 4, "KILL": 5,
    "SETGID": 6, "SETUID": 7, "SETPCAP": 8, "LINUX_IMMUTABLE": 9, "NET_BIND_SERVICE": 10,
    "NET_BROADCAST": 11, "NET_ADMIN": 12, "NET_RAW": 13, "IPC_LOCK": 14, "IPC_OWNER": 15,
    "SYS_MODULE": 16, "SYS_RAWIO": 17, "SYS_CHROOT": 18, "SYS_PTRACE": 19, "SYS_PACCT": 20,
    "SYS_ADMIN": 21, "SYS_BOOT": 22, "SYS_NICE": 23, "SYS_RESOURCE": 24, "SYS_TIME": 25,
    "SYS_TTY_CONFIG": 26, "MKNOD": 27, "LEASE": 28, "AUDIT_WRITE": 29, "AUDIT_CONTROL": 30,
    "SETFCAP": 31, "MAC_OVERRIDE": 32, "MAC_ADMIN": 33, "SYSLOG": 34, "WAKE_ALARM": 35,
    "BLOCK_SUSPEND": 36, "AUDIT_READ": 37, "PERFMON": 38, "BPF": 39, "CHECKPOINT_RESTORE": 40,
}  # fmt: skip
LAST = 40


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (
        ("effective0", ctypes.c_uint32), ("permitted0", ctypes.c_uint32), ("inheritable0", ctypes.c_uint32),
        ("effective1", ctypes.c_uint32), ("permitted1", ctypes.c_uint32), ("inheritable1", ctypes.c_uint32),
    )  # fmt: skip


def mask(names: frozenset[str]) -> int:
    """Return the bit mask of capability ``names`` (without ``CAP_``)."""
    return sum(1 << NUMBER[name] for name in names)


def drop_all_but(names: frozenset[str]) -> None:
    """Keep only ``names`` in the bounding, permitted and effective sets; nothing inheritable or ambient.

    Capabilities that the kernel has and this table does not know are dropped too.
    """
    keep = mask(names)
    for number in range(64):
        if keep >> number & 1:
            continue
        try:
            calls.prctl(calls.PR_CAPBSET_DROP, number)
        except OSError as e:
            if e.errno == 22 and number > LAST:
                break  # the kernel knows none beyond this one
            raise
    calls.prctl(calls.PR_CAP_AMBIENT, calls.PR_CAP_AMBIENT_CLEAR_ALL)
    low, high = keep & 0xFFFFFFFF, keep >> 32
    header, data = _Header(0x20080522, 0), _Data(low, low, 0, high, high, 0)
    calls.syscall("capset", ctypes.pointer(header), ctypes.pointer(data))


def effective(pid: int | str = "self") -> int:
    """Return the effective capability mask of a process."""
    with open(f"/proc/{pid}/status", "rb") as f:
        for line in f:
            if line.startswith(b"CapEff:"):
                return int(line.split()[1], 16)
    raise OSError(3, f"process {pid} has no CapEff (pid of {os.getpid()})")
