"""Where boxes write: one folder a box under ``pool/``, holding the upper layers of its overlays."""

from __future__ import annotations

import os
from pathlib import Path

from thopter.model.nouns import Limits
from thopter.providers.local.trees import remove_tree

LAYERS = ("root", "usr")


class Pool:
    """Plain folders: work on any filesystem; what a box writes is not limited."""

    limits_disk = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self) -> None:
        """Make ready. Idempotent."""
        self.folder.mkdir(mode=0o711, exist_ok=True)

    def make(self, key: str, base: int, limits: Limits) -> Path:
        """Make the folder of ``key`` with its empty layers, owned by id ``base``."""
        top = self.folder / key
        self._make_top(top, limits)
        for layer in LAYERS:
            (top / layer).mkdir(mode=0o711)
            for part, mode in (("upper", 0o755), ("work", 0o700)):
                path = top / layer / part
                path.mkdir()
                os.chmod(path, mode)
                if base:
                    os.chown(path, base, base)
        return top

    def _make_top(self, top: Path, limits: Limits) -> None:
        top.mkdir(mode=0o711)

    def remove(self, key: str) -> None:
        """Remove the folder of ``key`` and all in it. Gone already = success."""
        remove_tree(self.folder / key)

    def names(self) -> set[str]:
        """Keys that have a folder."""
        try:
            return {e.name for e in os.scandir(self.folder) if e.is_dir(follow_symlinks=False)}
        except FileNotFoundError:
            return set()

    def close(self) -> None:
        """Let go of the place when no box is left."""
