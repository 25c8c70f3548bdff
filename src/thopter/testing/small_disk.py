"""A disk that can be filled: a small filesystem of its own, for tests of what happens when it is full."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def small_disk(at: Path, size_mb: int) -> Iterator[None]:
    """An ext4 of ``size_mb`` MiB mounted at the new folder ``at`` while the block runs. Needs root."""
    image = at.with_name(at.name + ".ext4")
    at.mkdir(mode=0o700)
    with image.open("xb") as f:
        f.truncate(size_mb << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True)
    try:
        at.chmod(0o700)
        yield
    finally:
        subprocess.run(["umount", str(at)], check=True)
        image.unlink(missing_ok=True)  # whoever made the folder may have removed it by now
