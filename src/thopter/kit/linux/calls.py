"""System calls that Python 3.11 does not offer, by ctypes.

Each raises OSError with the call's name and what it was asked, never returns an error code.
Importable in the zygote: standard library only, nothing heavy.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import socket
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE, MS_NOATIME = 4096, 8192, 16384, 1 << 18, 1024
MNT_DETACH = 2

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 4
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
MOUNT_ATTR_IDMAP = 0x00100000

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME, PR_CAPBSET_READ, PR_CAPBSET_DROP = 1, 4, 15, 23, 24
PR_SET_NO_NEW_PRIVS, PR_SET_CHILD_SUBREAPER = 38, 36
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

_GENERIC = {"open_tree": 428, "move_mount": 429, "mount_setattr": 442, "close_range": 436, "openat2": 437}
_BY_MACHINE = {
    "x86_64": {"pivot_root": 155, "keyctl": 250, "seccomp": 317, "capset": 126},
    "aarch64": {"pivot_root": 41, "keyctl": 219, "seccomp": 277, "capset": 91},
}
MACHINE = platform.machine()
NR = {**_GENERIC, **_BY_MACHINE.get(MACHINE, {})}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p,
)  # fmt: skip
_libc.syscall.restype = ctypes.c_long
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


def _failed(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")


def syscall(name: str, *args: int | bytes | ctypes._Pointer[ctypes.Structure] | None) -> int:
    """Make the system call ``name`` of :data:`NR`; integers are passed as C longs."""
    if name not in NR:
        raise OSError(38, f"{name} is not known for {MACHINE}")
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = int(_libc.syscall(ctypes.c_long(NR[name]), *wide))
    if result < 0:
        raise _failed(name)
    return result


def unshare(flags: int) -> None:
    """Leave the present namespaces for new ones."""
    if _libc.unshare(flags) < 0:
        raise _failed(f"unshare({flags:#x})")


def setns(fd: int, flags: int) -> None:
    """Join the namespace behind ``fd`` (a /proc/<pid>/ns file or a pidfd)."""
    if _libc.setns(fd, flags) < 0:
        raise _failed(f"setns({flags:#x})")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). ``data`` longer than a page is refused by the kernel in confusing words, so here."""
    raw = os.fsencode(data)
    if len(raw) > 4095:
        raise OSError(7, f"mount {target}: options of {len(raw)} bytes are over 4095")
    if _libc.mount(os.fsencode(source), os.fsencode(target), kind.encode() or None, flags, raw or None) < 0:
        raise _failed(f"mount {kind or 'bind'} {source} on {target} ({data})")


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    if _libc.umount2(os.fsencode(target), flags) < 0:
        raise _failed(f"umount {target}")


def pivot_into(new_root: str) -> None:
    """Make ``new_root`` (a mount point) the root of this mount namespace; the old one is gone."""
    os.chdir(new_root)
    syscall("pivot_root", b".", b".")
    umount(".", MNT_DETACH)
    os.chdir("/")


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def clone_tree(path: str, attrs: int = 0, userns_fd: int = -1, recursive: bool = False) -> int:
    """Return a detached copy of the mount at ``path`` with ``attrs`` set, as a descriptor.

    With ``userns_fd`` the copy is idmapped by that user namespace.
    """
    deep = AT_RECURSIVE if recursive else 0
    fd = syscall("open_tree", AT_FDCWD, os.fsencode(path), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | deep)
    try:
        if attrs or userns_fd >= 0:
            idmap = MOUNT_ATTR_IDMAP if userns_fd >= 0 else 0
            attr = _MountAttr(attrs | idmap, 0, 0, max(userns_fd, 0))
            syscall("mount_setattr", fd, b"", AT_EMPTY_PATH | deep, ctypes.pointer(attr), ctypes.sizeof(attr))
    except OSError as e:
        os.close(fd)
        raise OSError(e.errno, f"{path}: {e.strerror}") from None
    return fd


def attach_tree(fd: int, target: str) -> None:
    """Put a detached mount (from :func:`clone_tree`) at ``target`` and close ``fd``."""
    try:
        syscall("move_mount", fd, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH)
    except OSError as e:
        raise OSError(e.errno, f"{target}: {e.strerror}") from None
    finally:
        os.close(fd)


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    """prctl(2)."""
    result = int(_libc.prctl(option, a, b, c, d))
    if result < 0:
        raise _failed(f"prctl({option})")
    return result


def set_name(name: str) -> None:
    """Name this process (15 bytes) as ps and top show it."""
    raw = ctypes.create_string_buffer(name.encode()[:15])
    prctl(PR_SET_NAME, ctypes.addressof(raw))


def retitle(name: str, title: str) -> None:
    """Name this process ``name`` (15 bytes) and make ``title`` its command line, as far as there is
    room; what was there tells paths of the machine."""
    set_name(name)
    with open("/proc/self/stat", "rb") as f:
        fields = f.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end
    if 0 < start < end:
        ctypes.memset(start, 0, end - start)
        raw = title.encode()[: end - start - 1]
        ctypes.memmove(start, raw, len(raw))


def sethostname(name: str) -> None:
    """Name this UTS namespace."""
    socket.sethostname(name)


def new_session_keyring() -> None:
    """Leave the session keyring one was started with (it may hold keys of the operator)."""
    syscall("keyctl", 1, None)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 2, 4, 8


def open_beneath(folder: int, path: str | bytes, flags: int, mode: int = 0) -> int:
    """Open ``path`` below the folder behind the descriptor ``folder``: no symbolic link anywhere in
    it is followed, no ``..`` leaves the folder (OSError: ELOOP, EXDEV)."""
    resolve = RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    return syscall("openat2", folder, os.fsencode(path), ctypes.pointer(how), ctypes.sizeof(how))


def close_range(first: int, last: int) -> None:
    """Close all descriptors from ``first`` to ``last``."""
    if first <= last:
        syscall("close_range", first, last, 0)


def close_all_but(keep: tuple[int, ...]) -> None:
    """Close every descriptor above 2 that is not in ``keep``."""
    at = 3
    for fd in sorted(fd for fd in set(keep) if fd > 2):
        close_range(at, fd - 1)
        at = fd + 1
    close_range(at, 0x7FFFFFFF)


def loopback_up() -> None:
    """Bring ``lo`` up in the present network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sh14x", b"lo", 0x1 | 0x40)  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(s.fileno(), 0x8914, request)  # SIOCSIFFLAGS


def syncfs(path: str) -> None:
    """Write back everything of the filesystem that holds ``path``."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) < 0:
            raise _failed(f"syncfs {path}")
    finally:
        os.close(fd)
