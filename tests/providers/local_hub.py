"""A hub's worth of provider in a process of its own, to be killed: make (and destroy) one box."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from local_ways import settings

from thopter.kit import failpoint
from thopter.kit.paths import Paths
from thopter.model.sockets import BoxSpec
from thopter.providers.local import LocalProvider


async def _stdin() -> AsyncIterator[bytes]:
    while piece := sys.stdin.buffer.read(1 << 16):
        yield piece


async def main(state: Path, runtime: Path, what: str, key: str) -> None:
    """``what``: ``ensure``, or what is done to a box made before."""
    provider = LocalProvider(Paths(state, runtime, state), settings())
    dies_at = os.environ.pop(failpoint.ENV, "")  # not in the box that is made to find out how
    await provider.start()
    await provider.caps()
    os.environ[failpoint.ENV] = dies_at
    spec = BoxSpec(key=key, name="victim", golden="base", ports=(8401,))
    if what == "ensure":
        await provider.ensure(spec)
    elif what == "snapshot":
        await provider.snapshot(key, "snap_victim", {})
    elif what == "build":
        async for line in provider.build_snapshot(key, "debian:trixie", (), {}):
            print(line, flush=True)
    elif what == "import":
        await provider.import_snapshot("snap_victim", _stdin(), {})
    elif what == "stop":
        await provider.stop(key)
    elif what == "revive":
        await provider.revive(spec)
    else:
        await provider.destroy(key)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
