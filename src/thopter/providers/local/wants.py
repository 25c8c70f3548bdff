"""What boxes need of a root that somebody else made, and whether it is there.

Trees are looked at by descriptor, through no link; the upper layer (of a box) hides the lower one.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from thopter.kit.linux import calls
from thopter.providers.local.maker import Maker
from thopter.providers.local.saved import SavedBox

PROGRAMS = {"sh": "nothing runs without it", "tmux": "agents run in it", "git": "work is done in git"}
_PATHS = ("usr/local/bin", "usr/bin", "bin")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def missing(root: Path, upper: Path | None = None) -> dict[str, str]:
    """Programs that are not in ``root`` (with ``upper`` over it), and what needs them."""
    layers = [str(p) for p in (upper, root) if p is not None]
    return {name: why for name, why in PROGRAMS.items() if not any(_there(layers, p, name) for p in _PATHS)}


def of_saved(maker: Maker, saved: SavedBox) -> dict[str, str]:
    """The same for a saved box; nothing where this machine's own programs lie under it."""
    if not maker.whole(saved.golden):
        return {}
    return missing(maker.shelf.folder / saved.golden / "root", maker.saved.data(saved.id) / "root/upper")


def _there(layers: list[str], folder: str, name: str) -> bool:
    for layer in layers:
        try:
            top = os.open(layer, _FOLDER | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            at = calls.open_beneath(top, folder, _FOLDER)
        except OSError:
            continue  # not there, or a link as /bin is, whose target is looked into anyway
        finally:
            os.close(top)
        try:
            info = os.lstat(name, dir_fd=at)
        except OSError:
            continue
        finally:
            os.close(at)
        return not (stat.S_ISCHR(info.st_mode) and info.st_rdev == 0)  # the overlay's "removed"
    return False


def node(agents: Path) -> bool:
    """True when an agent below ``agents`` (of a golden of ours) is a script for node."""
    for program in agents.glob("*/bin/*"):
        try:
            with open(program, "rb") as f:
                first = f.readline(200)
        except OSError:
            continue
        if first.startswith(b"#!") and b"node" in first:
            return True
    return False
