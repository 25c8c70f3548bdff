"""Where the conformance suite of providers makes its boxes, and how it talks to them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Protocol

import msgspec

from thopter.kit.channel import BoxLink
from thopter.model.nouns import Isolation
from thopter.model.sockets import BoxSpec, Provider

PATIENCE = 60.0


class Place(Protocol):
    """Where a suite makes its boxes. Everything in it is gone when the fixture ends."""

    golden: str

    def open(self) -> contextlib.AbstractAsyncContextManager[Provider]:
        """A new, started provider object over the same place, as after a restart of the hub."""


def new_spec(place: Place, **changes: Any) -> BoxSpec:
    """A spec for a box nobody has yet."""
    key = "box_" + secrets.token_hex(6)
    return msgspec.structs.replace(BoxSpec(key=key, name="b" + key[4:], golden=place.golden), **changes)


@contextlib.asynccontextmanager
async def linked(provider: Provider, key: str) -> AsyncIterator[BoxLink]:
    """A connection to the box's boxd."""
    reader, writer = await provider.channel(key)
    async with BoxLink.connect(reader, writer, timeout=PATIENCE) as link:
        yield link


async def sh(provider: Provider, key: str, script: str) -> str:
    """Run a shell script in the box; its output; a non-zero exit fails the test."""
    async with linked(provider, key) as link:
        done = await link.exec(["sh", "-c", script], timeout=PATIENCE)
    said = done.stdout.decode("utf-8", "replace")
    assert done.exit == 0, f"{script!r}: {done.exit} {said} {done.stderr!r}"
    return said.strip()


async def apart(provider: Provider) -> bool:
    """True when boxes have files, processes and a host name of their own."""
    return (await provider.caps()).isolation is not Isolation.NONE


async def no_leaks(provider: Provider, known: frozenset[str]) -> None:
    """Fail, naming them, when there are leaks."""
    found = await provider.leaks(known)
    assert not found, "\n".join(f"{leak.kind} {leak.what} {leak.key}" for leak in found)


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run one check, bounded."""

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE * 2):
            await work

    asyncio.run(bounded())
