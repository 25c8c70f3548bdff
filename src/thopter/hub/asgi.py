"""The ASGI vocabulary, and waiting for the first of several things."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def headers_named(scope: Scope, name: bytes) -> list[bytes]:
    """All values of a header (``name`` in lower case), in order."""
    return [value for key, value in scope["headers"] if key == name]


async def first_of(*work: Coroutine[Any, Any, None]) -> None:
    """Run all; when the first one ends, cancel the others and wait for them. Raises what one of
    them raised (one error, not a group), cancellation apart."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def gone(receive: Receive) -> None:
    """Return when the HTTP client has gone away; what it still sends is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass
