"""One flow at a time on a box: those that end, begin or replace its processes wait for one another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from thopter.fleet.facts import boxes_in
from thopter.flow.engine import FlowEngine
from thopter.model.errors import NotFound, NotNow, TimedOut

_PATIENCE_S = 60.0
# What must not meet on one box. Saving and forking only read it; the provider keeps those apart.
KINDS = frozenset({"stop", "wake", "restart", "rewind", "destroy"})


class Turnstile:
    """One per hub. Flows left by an earlier hub count like this one's."""

    def __init__(self, engine: FlowEngine) -> None:
        self._engine = engine
        self._locks: dict[str, asyncio.Lock] = {}

    @contextlib.asynccontextmanager
    async def through(self, box: str, name: str, joins: str = "") -> AsyncIterator[None]:
        """Inside, no flow of :data:`KINDS` is under way on the box (but of kind ``joins``), and none is
        accepted. Waits for those that are; NotNow when one takes over a minute."""
        lock = self._locks.setdefault(box, asyncio.Lock())
        async with lock:
            for flow, args in (await self._engine.pending()).items():
                if box in boxes_in(args):
                    await self._wait(flow, name, joins)
            yield

    async def _wait(self, flow: str, name: str, joins: str) -> None:
        try:
            kind = (await self._engine.status(flow)).kind
            if kind in KINDS and kind != joins:
                await self._engine.wait(flow, _PATIENCE_S)
        except NotFound:
            return  # it has ended and is forgotten
        except TimedOut:
            raise NotNow(
                f"something else is being done with {name} ({kind})", hint=f"see 'thopter status {name}'"
            ) from None


__all__ = ["KINDS", "Turnstile"]
