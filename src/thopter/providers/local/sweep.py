"""Finding and removing what no recorded box accounts for."""

from __future__ import annotations

from collections.abc import Sequence

from thopter.model.sockets import Leak
from thopter.providers.local.maker import Maker


def find(maker: Maker, known: frozenset[str]) -> Sequence[Leak]:
    """List it."""
    found = []
    for key in set(maker.records.keys()) - known:
        found.append(Leak(kind="directory", what=str(maker.records.folder / key), key=key))
    for key in maker.pool.names() - known:
        found.append(Leak(kind="directory", what=str(maker.pool.folder / key), key=key))
    return found


def remove(maker: Maker, known: frozenset[str]) -> Sequence[Leak]:
    """Remove it."""
    found = find(maker, known)
    for key in {leak.key for leak in found}:
        maker.remove(key)
    return found
