"""Durable flows: what a step costs, alone and with many flows at once, beside one durable commit."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from msgspec import Struct

from bench.rows import Row, ms_of_async, p50, p99
from thopter.flow.engine import FlowContext, FlowEngine
from thopter.store import sqlite


class _Args(Struct, frozen=True):
    steps: int


async def _walk(ctx: FlowContext, args: _Args) -> None:
    async def step() -> dict[str, int]:
        return {"n": 1}

    for n in range(args.steps):
        await ctx.step(f"step {n}", step)


def measure() -> list[Row]:
    """All rows of this case."""
    with tempfile.TemporaryDirectory(prefix="thopter-bench-", dir=Path.home()) as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[Row]:
    commit = _commit_ms(folder)
    flows = FlowEngine(folder / "flows.db")
    flows.register("walk", _walk)
    began = time.perf_counter()
    await flows.start()
    start = (time.perf_counter() - began) * 1000
    await flows.recover()

    async def run(steps: int) -> None:
        await flows.wait(await flows.submit("walk", _Args(steps)), 120)

    ten = await ms_of_async(lambda: run(10), 15)
    began = time.perf_counter()
    await asyncio.gather(*(run(10) for _ in range(50)))
    rate = 500 / (time.perf_counter() - began)
    cpu = time.process_time()
    await asyncio.sleep(5)
    idle = (time.process_time() - cpu) / 5 * 1000
    await flows.stop()
    return [
        Row(name="flow engine start, import included", value=start, unit="ms", n=1),
        Row(name="flow of ten durable steps", value=p50(ten), p99=p99(ten), unit="ms", n=15,
            anchor="one commit at FULL", anchor_value=commit),
        Row(name="steps of fifty flows at once", value=rate, unit="steps/s", n=500),
        Row(name="flow engine idle", value=idle, unit="ms CPU/s", n=1),
    ]  # fmt: skip


def _commit_ms(folder: Path) -> float:
    raw = sqlite.connect(folder / "raw.db")
    raw.execute("CREATE TABLE e (n INTEGER)")
    samples = []
    for n in range(200):
        began = time.perf_counter()
        raw.execute("INSERT INTO e VALUES (?)", (n,))
        samples.append((time.perf_counter() - began) * 1000)
    raw.close()
    return p50(samples)
