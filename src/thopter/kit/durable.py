"""Files that are replaced as a whole, and are on the disk when that is said. Standard library only."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_private(path: Path, content: bytes, still: Callable[[], bool] = lambda: True) -> bool:
    """Replace ``path`` atomically and durably by ``content``, mode 0600; never a half-written file. ``still``
    is asked just before, when all else is done: False leaves what is there, which is then the answer."""
    fd, temp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        if not still():
            os.unlink(temp)
            return False
        os.replace(temp, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temp)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True
