"""Run by tests: append events for ever, printing each number once it is acknowledged."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from thopter.model.events import Event
from thopter.store.store import Store


async def main(path: Path, tasks: int, each: int, kind: str = "note") -> None:
    """``each`` events by each of ``tasks`` tasks (0: for ever); then stay, without closing."""
    store = await Store.open(path)

    async def write(k: int) -> None:
        n = 0
        while not each or n < each:
            n += 1
            [seq] = await store.events.append(
                [Event(kind=kind, at_ms=n, run=f"r{k}", data={"pad": "x" * 200})]
            )
            os.write(1, b"%d\n" % seq)

    async with asyncio.TaskGroup() as group:
        for k in range(tasks):
            group.create_task(write(k))
    os.write(1, b"all\n")
    await asyncio.Event().wait()


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]))
