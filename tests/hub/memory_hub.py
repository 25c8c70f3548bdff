"""The real hub program with a fleet in memory: ``python memory_hub.py --foreground …``."""

from __future__ import annotations

import sys

from thopter.hub.main import main
from thopter.hub.ports import Compose


def load() -> Compose:
    """Import late, as the real one does."""
    from memory_fleet import MemoryInside

    return MemoryInside


if __name__ == "__main__":
    sys.exit(main(load=load))
