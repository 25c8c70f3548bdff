"""btrfs by its ioctls: subvolumes, snapshots and simple quotas, without running its tools."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import struct

_SUBVOL_CREATE = 0x5000940E
_SNAP_DESTROY = 0x5000940F
_SNAP_CREATE_V2 = 0x50009417
_INO_LOOKUP = 0xD0009412
_QUOTA_CTL = 0xC0109428
_QGROUP_LIMIT = 0x8030942B
_START_SYNC = 0x80089418
_SUBVOL_GETFLAGS = 0x80089419
_SUBVOL_SETFLAGS = 0x4008941A
_READ_ONLY = 2
_ENABLE_SIMPLE_QUOTA = 4
_LIMIT_REFERENCED = 1
_FIRST_INODE = 256


def is_btrfs(path: str) -> bool:
    """True when ``path`` lies on btrfs (asked of its inode: a subvolume's root is always 256)."""
    try:
        subvolume_id(path)
    except OSError:
        return False
    return True


def _ioctl(folder: str, request: int, payload: bytes) -> bytes:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        buffer = array.array("B", payload)
        fcntl.ioctl(fd, request, buffer, True)
        return buffer.tobytes()
    except OSError as e:
        raise OSError(e.errno, f"{folder}: {os.strerror(e.errno or 0)} (btrfs {request & 0xFF})") from None
    finally:
        os.close(fd)


def _named(fd: int, name: str) -> bytes:
    raw = os.fsencode(name)
    if not raw or len(raw) > 255 or b"/" in raw:
        raise OSError(errno.EINVAL, f"{name!r} can't name a subvolume")
    return struct.pack("<q4088s", fd, raw)


def create(parent: str, name: str) -> None:
    """Make the empty subvolume ``parent/name``."""
    _ioctl(parent, _SUBVOL_CREATE, _named(0, name))


def start_sync(path: str) -> None:
    """Have the kernel begin to put on the disk all that was done until now; returns at once."""
    _ioctl(path, _START_SYNC, bytes(8))


def destroy(parent: str, name: str) -> None:
    """Remove the subvolume ``parent/name`` with all its files (space comes back in the background)."""
    _ioctl(parent, _SNAP_DESTROY, _named(0, name))


def make_writable(path: str) -> None:
    """Let the subvolume at ``path`` be written to again; its owner may."""
    (flags,) = struct.unpack("<Q", _ioctl(path, _SUBVOL_GETFLAGS, bytes(8)))
    _ioctl(path, _SUBVOL_SETFLAGS, struct.pack("<Q", flags & ~_READ_ONLY))


def snapshot(source: str, parent: str, name: str, read_only: bool = False) -> None:
    """Make ``parent/name`` a snapshot of the subvolume ``source``: all that was written to it until
    now, on the disk when this returns."""
    raw = os.fsencode(name)
    flags = _READ_ONLY if read_only else 0
    fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _ioctl(parent, _SNAP_CREATE_V2, struct.pack("<qQQ32x4040s", fd, 0, flags, raw))
    finally:
        os.close(fd)


def subvolume_id(path: str) -> int:
    """The id of the subvolume that holds ``path``."""
    return int(
        struct.unpack_from("<Q", _ioctl(path, _INO_LOOKUP, struct.pack("<QQ4080x", 0, _FIRST_INODE)))[0]
    )


def enable_simple_quota(path: str) -> None:
    """Count what each subvolume writes (Linux 6.7). Idempotent; OSError where the kernel can't."""
    try:
        _ioctl(path, _QUOTA_CTL, struct.pack("<QQ", _ENABLE_SIMPLE_QUOTA, 0))
    except OSError as e:
        if e.errno != errno.EEXIST:
            raise


def limit(path: str, max_bytes: int) -> None:
    """Let the subvolume at ``path`` hold at most ``max_bytes``; needs simple quotas."""
    group = subvolume_id(path)
    payload = struct.pack("<QQQQQQ", group, _LIMIT_REFERENCED, max_bytes, 0, 0, 0)
    _ioctl(path, _QGROUP_LIMIT, payload)
