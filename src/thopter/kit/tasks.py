"""Background tasks bound to a block, whose own error comes out as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any


class Background:
    """A TaskGroup for helpers of a block: they are cancelled and awaited when the block ends, and
    an error of the block is raised plainly, not as a group. An error of a helper ends the block
    and comes out as a group, as from a TaskGroup."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a helper."""
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def __aenter__(self) -> Background:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        for task in list(self._tasks):
            task.cancel()
        # The group must not see the block's error: it would wrap it. Its own errors come first.
        await self._group.__aexit__(None, None, None)
        return False
