"""The mask: a layer over the machine's /usr that hides what not every user may read.

Inside a box the files of the machine's root belong to the box's root, which may read anything it
owns. So every file or folder of /usr that others may not read is covered by a whiteout.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from pathlib import Path
from typing import Any

from thopter.model.errors import Refused

_SEEN_S = 3600.0
_seen: dict[str, Any] = {}
_ALWAYS = ("local/etc",)  # configuration of the machine, not programs


def hidden(top: str = "/usr") -> list[str]:
    """Paths below ``top`` (relative) that must not be seen in a box. Blocking: 0.6 s for 140,000 files."""
    found = [name for name in _ALWAYS if os.path.lexists(f"{top}/{name}")]
    device = os.stat(top).st_dev
    cut = len(top) + 1
    stack = [top]
    while stack:
        folder = stack.pop()
        if folder[cut:] in _ALWAYS:
            continue
        try:
            entries = os.scandir(folder)
        except PermissionError:
            continue  # hidden by its own mode, noted when its parent was read
        with entries:
            for entry in entries:
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISLNK(info.st_mode):
                    continue
                if stat.S_ISDIR(info.st_mode):
                    if info.st_mode & 0o005 != 0o005:
                        found.append(entry.path[cut:])
                    elif info.st_dev == device:  # other mounts are not part of the layer anyway
                        stack.append(entry.path)
                elif not (stat.S_ISREG(info.st_mode) and info.st_mode & 0o004):
                    found.append(entry.path[cut:])
    return sorted(set(found))


def hidden_now() -> list[str]:
    """The same as absolute paths, looked up at most once an hour in this process."""
    if _seen.get("at", -_SEEN_S) + _SEEN_S < time.monotonic() or "paths" not in _seen:
        _seen.update(at=time.monotonic(), paths=[f"/usr/{path}" for path in hidden()])
    return list(_seen["paths"])


def digest(paths: list[str]) -> str:
    """Name of the mask that hides exactly these paths."""
    return hashlib.sha256("\0".join(paths).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def make(folder: Path, paths: list[str], top: str = "/usr") -> None:
    """Make the layer in the new ``folder``. Parents get the mode that they have in ``top``, as the
    uppermost layer decides it. Raises OSError, or Refused where whiteouts can't be made."""
    folder.mkdir(mode=0o755)
    folder.chmod(stat.S_IMODE(os.stat(top).st_mode))
    for path in paths:
        parent = folder
        for part in Path(path).parts[:-1]:
            parent = parent / part
            if not parent.exists():
                original = os.stat(os.path.join(top, parent.relative_to(folder)))
                parent.mkdir()
                parent.chmod(stat.S_IMODE(original.st_mode))
        try:
            os.mknod(folder / path, stat.S_IFCHR | 0o600, os.makedev(0, 0))
        except PermissionError:
            raise Refused(f"whiteouts can't be made in {folder}") from None
