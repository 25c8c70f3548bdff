"""Loop devices by ioctl: a file as a disk, let go by itself at the last unmount."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

_CTL_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A
_CLR_FD = 0x4C01
_AUTOCLEAR, _DIRECT_IO = 4, 16
_TRIES = 50


@contextlib.contextmanager
def attached(image: Path) -> Iterator[str]:
    """The device of a loop over ``image`` while the block runs; mounted in it, it stays until the
    last unmount, otherwise it is gone at the end. The caller must hold no other loop over the same
    file. Raises OSError."""
    backing = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        fd, device = _attach(backing)
    finally:
        os.close(backing)
    try:
        yield device
    finally:
        os.close(fd)


def _attach(backing: int) -> tuple[int, str]:
    for flags in (_AUTOCLEAR | _DIRECT_IO, _AUTOCLEAR):
        for _ in range(_TRIES):
            device = _free_device()
            fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            try:
                _configure(fd, backing, flags)
                return fd, device
            except OSError as e:
                os.close(fd)
                if e.errno == errno.EINVAL and flags & _DIRECT_IO:
                    break  # a filesystem that can't do direct I/O
                if e.errno != errno.EBUSY:  # EBUSY: somebody else took that device meanwhile
                    raise
    raise OSError(errno.EBUSY, "no loop device can be had")


def _free_device() -> str:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        number = fcntl.ioctl(control, _CTL_GET_FREE)
    finally:
        os.close(control)
    return f"/dev/loop{number}"


def _configure(fd: int, backing: int, flags: int) -> None:
    # struct loop_config: fd, block size, loop_info64 (its flags at offset 52), 8 reserved words
    info = bytearray(232)
    struct.pack_into("<I", info, 52, flags)
    block = 4096 if flags & _DIRECT_IO else 0
    fcntl.ioctl(fd, _CONFIGURE, struct.pack("<II", backing, block) + info + bytes(64))


def detach(device: str) -> None:
    """Let go of a loop that nothing is mounted from. Let go already = success."""
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _CLR_FD)
    except OSError as e:
        if e.errno != errno.ENXIO:
            raise
    finally:
        os.close(fd)


def over(image: Path) -> list[str]:
    """The loop devices that use ``image`` now."""
    found = []
    for entry in Path("/sys/block").glob("loop*"):
        try:
            backing = (entry / "loop/backing_file").read_text().strip()
        except OSError:
            continue
        if backing == str(image) or backing == f"{image} (deleted)":
            found.append(f"/dev/{entry.name}")
    return found
