"""What must be new in a box that starts on files of an earlier one: its names, boxd's own state, and
the overlays' work folders.

The files were written by a box: every step is taken from a descriptor and follows no link.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from thopter.kit.linux import calls
from thopter.providers.local.pool import LAYERS
from thopter.providers.local.trees import remove_tree

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_BOXD = ("var", "lib", "thopter")  # see boxd/config.py: journal, cursors, runs


def clear_work(folder: Path, owner: int) -> None:
    """Give the overlays new work folders: a ``volatile`` overlay refuses those it has used."""
    for layer in LAYERS:
        work = folder / layer / "work"
        remove_tree(work)
        work.mkdir(mode=0o700)
        if owner:
            os.chown(work, owner, owner)


def forget_boxd(folder: Path) -> None:
    """Remove what boxd kept: a new box has a journal of its own."""
    top = os.open(folder / "root/upper", _FOLDER | os.O_CLOEXEC)
    try:
        parent = calls.open_beneath(top, "/".join(_BOXD[:-1]), _FOLDER)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return  # the box moved it away; what is not there is not read
        raise
    finally:
        os.close(top)
    try:
        remove_tree(Path(f"/proc/self/fd/{parent}/{_BOXD[-1]}"))
    finally:
        os.close(parent)


def write_names(folder: Path, name: str, owner: int) -> None:
    """Write /etc/hostname and /etc/hosts of box ``name``, over whatever is there."""
    top = os.open(folder / "root/upper", _FOLDER | os.O_CLOEXEC)
    try:
        etc = _etc(top, owner)
    finally:
        os.close(top)
    texts = {"hostname": f"{name}\n", "hosts": f"127.0.0.1 localhost {name}\n::1 localhost\n"}
    try:
        for file, text in texts.items():
            remove_tree(Path(f"/proc/self/fd/{etc}/{file}"))
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(file, flags, 0o600, dir_fd=etc)
            try:
                os.write(fd, text.encode())
                if owner:
                    os.fchown(fd, owner, owner)
                os.fchmod(fd, 0o644)
            finally:
                os.close(fd)
    finally:
        os.close(etc)


def _etc(top: int, owner: int) -> int:
    """The folder ``etc`` of the layer, made where there is none."""
    try:
        return calls.open_beneath(top, "etc", _FOLDER)
    except OSError as e:
        if e.errno in (errno.ENOTDIR, errno.ELOOP):  # removed in the box, or put a link in its place
            os.unlink("etc", dir_fd=top)
            gone = True
        elif e.errno == errno.ENOENT:
            gone = False
        else:
            raise
    os.mkdir("etc", 0o755, dir_fd=top)
    fd = calls.open_beneath(top, "etc", _FOLDER)
    os.fchmod(fd, 0o755)
    if owner:
        os.fchown(fd, owner, owner)
    if gone:  # what lies below stays as removed as it was
        os.setxattr(fd, "trusted.overlay.opaque" if owner else "user.overlay.opaque", b"y")
    return fd
