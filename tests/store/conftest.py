"""A store of one's own for each test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from store_support import Use

from thopter.store.store import Store


@pytest.fixture
def use(tmp_path: Path) -> Use:
    """Run an async function with an open store; the same database every time in one test."""

    def run(fn: Callable[[Store], Awaitable[Any]]) -> Any:
        async def whole() -> Any:
            store = await Store.open(tmp_path / "hub.db")
            try:
                async with asyncio.timeout(60):
                    return await fn(store)
            finally:
                await store.close()

        return asyncio.run(whole())

    return run
