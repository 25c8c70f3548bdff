"""Helpers bound to a block: its own error comes out plainly, theirs as a group, none outlives it."""

from __future__ import annotations

import asyncio

import pytest
from boxd_support import run

from thopter.kit.tasks import Background


async def forever(ended: list[str]) -> None:
    try:
        await asyncio.sleep(1000)
    finally:
        ended.append("ended")


def test_the_blocks_error_is_plain_and_helpers_are_ended() -> None:
    ended: list[str] = []

    async def go() -> None:
        async with Background() as background:
            background.spawn(forever(ended))
            await asyncio.sleep(0)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(go())
    assert ended == ["ended"]


def test_a_block_that_ends_well_ends_its_helpers() -> None:
    ended: list[str] = []

    async def go() -> str:
        async with Background() as background:
            background.spawn(forever(ended))
            await asyncio.sleep(0)
        return "done"

    assert run(go()) == "done" and ended == ["ended"]


def test_a_helpers_error_ends_the_block_and_comes_as_a_group() -> None:
    async def fails() -> None:
        raise KeyError("helper")

    async def go() -> None:
        async with Background() as background:
            background.spawn(fails())
            await asyncio.sleep(1000)

    with pytest.raises(ExceptionGroup) as e:
        run(go())
    assert isinstance(e.value.exceptions[0], KeyError)


def test_cancelling_the_owner_is_a_plain_cancellation() -> None:
    ended: list[str] = []

    async def go() -> None:
        async with Background() as background:
            background.spawn(forever(ended))
            await asyncio.sleep(1000)

    async def outer() -> None:
        async with asyncio.timeout(0.05):
            await go()

    with pytest.raises(TimeoutError):
        run(outer())
    assert ended == ["ended"]
