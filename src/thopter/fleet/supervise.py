"""Structured concurrency for things that live as long as the hub: named children, logged failures.

A child that fails is logged with its name and does not take its siblings with it; all children end
(cancelled, awaited) when the nursery closes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from thopter.kit.caller import HUB, caller

log = logging.getLogger(__name__)


class Nursery:
    """A TaskGroup that outlives single calls: ``async with Nursery() as n: n.spawn(...)``."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._count = 0

    async def __aenter__(self) -> Nursery:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        for task in list(self._tasks.values()):
            task.cancel()
        await self._group.__aexit__(None, None, None)

    def spawn(self, name: str, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[None]:
        """Run ``coro`` as a child; its failure is logged, never raised here."""
        self._count += 1
        key = f"{name}#{self._count}"
        task = self._group.create_task(_guarded(name, coro), name=name)
        self._tasks[key] = task
        task.add_done_callback(lambda _t: self._tasks.pop(key, None))
        return task


async def _guarded(name: str, coro: Coroutine[Any, Any, Any]) -> None:
    caller.set(HUB)  # whoever asked for something meanwhile, what goes on here is not their doing
    try:
        await coro
    except asyncio.CancelledError:
        raise
    except Exception:
        log.exception("%s failed", name)
