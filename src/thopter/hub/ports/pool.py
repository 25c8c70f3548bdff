"""What the shell needs of the warm pool."""

from __future__ import annotations

import builtins
from typing import Protocol

from thopter.model.api.pool import PoolRequest, PoolView


class PoolPort(Protocol):
    """See :class:`thopter.fleet.pool.WarmPool`."""

    async def set(self, req: PoolRequest) -> PoolView:
        """Keep so many boxes ready; durable when this returns, filled in the background. Idempotent."""

    async def list(self) -> list[PoolView]:
        """What is kept ready."""

    async def clear(self, snapshot: str) -> builtins.list[PoolView]:
        """Keep none ready any more (of ``snapshot``, empty: at all). Returns what was cleared."""
