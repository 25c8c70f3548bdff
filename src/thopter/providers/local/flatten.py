"""Bringing what a (dead) box wrote back into a golden that is being built, and naming its content.

The upper layer of an overlay was written by a box: nothing in it is followed, only plain files,
folders and links are taken, nobody's ownership and no setuid bit survives.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from pathlib import Path

from thopter.model.errors import ProviderError
from thopter.providers.local.trees import remove_tree

_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")


def apply_upper(upper: Path, target: Path) -> int:
    """Do to ``target`` what the layer ``upper`` says; returns the number of entries taken.

    Files are moved where possible, so ``upper`` is used up. Raises ProviderError for a device,
    pipe or socket, OSError.
    """
    taken = 0
    links: dict[tuple[int, int], Path] = {}
    stack = [(upper, target)]
    while stack:
        source, place = stack.pop()
        with os.scandir(source) as entries:
            found = sorted(entries, key=lambda e: e.name)
        for entry in found:
            taken += 1
            info = entry.stat(follow_symlinks=False)
            here, there = Path(entry.path), place / entry.name
            if stat.S_ISDIR(info.st_mode):
                _folder(here, there, info)
                stack.append((here, there))
            elif stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                _clear(there)
            elif stat.S_ISLNK(info.st_mode):
                _clear(there)
                there.symlink_to(os.readlink(here))
            elif stat.S_ISREG(info.st_mode):
                _clear(there)
                _file(here, there, info, links)
            else:
                raise ProviderError(f"{entry.name} is neither a file nor a folder nor a link")
    return taken


def _clear(path: Path) -> None:
    if os.path.lexists(path):
        remove_tree(path)


def _folder(here: Path, there: Path, info: os.stat_result) -> None:
    opaque = any(name in os.listxattr(here, follow_symlinks=False) for name in _OPAQUE)
    if os.path.lexists(there) and (opaque or there.is_symlink() or not there.is_dir()):
        _clear(there)
    there.mkdir(exist_ok=True)
    there.chmod(stat.S_IMODE(info.st_mode) & 0o777)


def _file(here: Path, there: Path, info: os.stat_result, links: dict[tuple[int, int], Path]) -> None:
    known = links.get((info.st_dev, info.st_ino))
    if known is not None:
        os.link(known, there, follow_symlinks=False)
        return
    try:
        here.rename(there)
    except OSError as e:
        if e.errno != errno.EXDEV:
            raise
        shutil.copyfile(here, there, follow_symlinks=False)
    for name in os.listxattr(there, follow_symlinks=False):
        os.removexattr(there, name, follow_symlinks=False)
    if os.geteuid() == 0:
        os.chown(there, 0, 0, follow_symlinks=False)
    there.chmod(stat.S_IMODE(info.st_mode) & 0o777)
    if info.st_nlink > 1:
        links[info.st_dev, info.st_ino] = there


def content_digest(root: Path) -> str:
    """A name for exactly this tree: paths, modes, link targets and contents (no times, no owners)."""
    whole = hashlib.sha256()
    seen: dict[tuple[int, int], bytes] = {}
    stack = [root]
    while stack:
        folder = stack.pop()
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda e: e.name)
        for entry in found:
            info = entry.stat(follow_symlinks=False)
            name = os.fsencode(os.path.relpath(entry.path, root))
            whole.update(b"%d:%s %o " % (len(name), name, info.st_mode))
            if stat.S_ISDIR(info.st_mode):
                stack.append(Path(entry.path))
            elif stat.S_ISLNK(info.st_mode):
                whole.update(os.fsencode(os.readlink(entry.path)) + b"\0")
            elif stat.S_ISREG(info.st_mode):
                key = (info.st_dev, info.st_ino)
                if key not in seen:
                    with open(entry.path, "rb") as f:
                        seen[key] = hashlib.file_digest(f, "sha256").digest()
                whole.update(seen[key])
    return whole.hexdigest()[:16]


def needs_scripts(prefix: Path) -> bool:
    """True when a package below ``prefix`` has install scripts that have not run."""
    for path in (prefix / "lib" / "node_modules").rglob("package.json"):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = path.read_text()
            if any(f'"{name}"' in text for name in ("preinstall", "install", "postinstall")):
                return True
            if (path.parent / "binding.gyp").exists():
                return True
    return False
