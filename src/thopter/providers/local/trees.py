"""Removing a tree that a box wrote: any depth, any mode, no link followed, no recursion."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path


def remove_tree(path: Path) -> None:
    """Remove ``path`` and all below it. Gone already = success. Blocking.

    Non-empty folders are moved up to the top first, so neither Python's stack nor the length of
    paths nor open files grow with the depth that somebody chose.
    """
    try:
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        path.unlink()
        return
    except PermissionError:
        path.chmod(0o700)
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(top, 0o700)
        _empty(top, top)
        while True:
            os.lseek(top, 0, os.SEEK_SET)  # btrfs lists only what was there when it was last rewound
            names = os.listdir(top)
            if not names:
                break
            for name in names:
                fd = _open_folder(top, name)
                try:
                    _empty(fd, top)
                finally:
                    os.close(fd)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    path.rmdir()


def _empty(folder: int, top: int) -> None:
    """Remove everything in ``folder``; folders that are not empty become children of ``top``."""
    with os.scandir(folder) as entries:
        names = [(e.name, e.is_dir(follow_symlinks=False)) for e in entries]
    for number, (name, is_folder) in enumerate(names):
        if not is_folder:
            os.unlink(name, dir_fd=folder)
            continue
        try:
            os.rmdir(name, dir_fd=folder)
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if folder != top:
                _move_up(folder, name, top, number)


def _move_up(folder: int, name: str, top: int, number: int) -> None:
    # A folder that can't be written can't be moved either: its ".." changes.
    with contextlib.suppress(PermissionError):
        os.chmod(name, 0o700, dir_fd=folder)
    unique = f"{os.fstat(folder).st_ino:x}-{number}"
    os.rename(name, unique, src_dir_fd=folder, dst_dir_fd=top)


def _open_folder(top: int, name: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=top)
    except PermissionError:
        if stat.S_ISLNK(os.lstat(name, dir_fd=top).st_mode):
            raise
        os.chmod(name, 0o700, dir_fd=top)
        fd = os.open(name, flags, dir_fd=top)
    os.fchmod(fd, 0o700)
    return fd
