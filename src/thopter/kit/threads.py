"""Blocking work in a thread that is over when the await is over, also when that was cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def finish(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``function`` in a thread and wait for its end, come what may.

    ``asyncio.to_thread`` leaves the thread running when it is cancelled, so that what cleans up
    would race with what it cleans up. Here the cancellation waits for the thread; a result that
    nobody gets then is closed if it can be, an error of the thread is dropped for the cancellation.
    """
    future = asyncio.get_running_loop().run_in_executor(None, partial(function, *args, **kwargs))
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as e:
            cancelled = e
    if cancelled is None:
        return future.result()
    if future.exception() is None:
        result: Any = future.result()
        if hasattr(result, "close"):
            result.close()
    raise cancelled
