"""Events per second and the cost of a durable step, each beside its anchor, measured in one run.

``python bench/store_flow.py`` prints one JSON object a row: name, value, unit, beside, beside_value.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from thopter.flow.engine import FlowContext, FlowEngine
from thopter.model.events import Event
from thopter.store import sqlite
from thopter.store.store import Store

Row = dict[str, Any]
_EVENT = Event(
    kind="run.state", at_ms=1, box="box_1", run="run_1", data={"name": "amber", "state": "working"}
)


def _row(name: str, value: float, unit: str, beside: str = "", beside_value: float = 0.0) -> Row:
    row: Row = {"name": name, "value": round(value, 2), "unit": unit}
    if beside:
        row |= {"beside": beside, "beside_value": round(beside_value, 2)}
    return row


def _raw_per_second(folder: Path, count: int = 3000) -> float:
    """The anchor: the driver alone, one commit an event, waiting for the disk each time."""
    conn = sqlite.connect(folder / "raw.db")
    conn.execute("CREATE TABLE e (seq INTEGER PRIMARY KEY, kind TEXT, at_ms INTEGER, box TEXT, data TEXT)")
    began = time.perf_counter()
    for n in range(count):
        conn.execute(
            "INSERT INTO e VALUES (NULL, ?, ?, ?, ?)", ("run.state", n, "box_1", '{"state":"working"}')
        )
    took = time.perf_counter() - began
    conn.close()
    return count / took


async def _events(folder: Path, raw: float) -> list[Row]:
    store = await Store.open(folder / "hub.db")
    rows: list[Row] = []
    for tasks, each in ((1, 1000), (50, 400), (500, 40)):
        waits: list[float] = []

        async def write(each: int = each, waits: list[float] = waits) -> None:
            for _ in range(each):
                began = time.perf_counter()
                await store.events.append([_EVENT])
                waits.append(time.perf_counter() - began)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(write())
        rate = tasks * each / (time.perf_counter() - began)
        waits.sort()
        name = f"events committed durably, {tasks} writers"
        rows.append(_row(name, rate, "per s", "sqlite3, FULL, one by one", raw))
        rows.append(_row(f"{name}: p50", waits[len(waits) // 2] * 1e3, "ms"))
        rows.append(_row(f"{name}: p99", waits[int(len(waits) * 0.99)] * 1e3, "ms"))
    await store.close()
    return rows


class _Args(Struct, frozen=True):
    steps: int


async def _walk(ctx: FlowContext, args: _Args) -> None:
    async def step() -> dict[str, int]:
        return {"n": 1}

    for n in range(args.steps):
        await ctx.step(f"step {n}", step)


async def _median(fn: Callable[[], Awaitable[Any]], times: int = 15) -> float:
    took: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        await fn()
        took.append(time.perf_counter() - began)
    return sorted(took)[times // 2] * 1e3


def _memory_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


async def _flows(folder: Path) -> list[Row]:
    memory, began = _memory_mb(), time.perf_counter()
    flows = FlowEngine(folder / "flows.db")
    flows.register("walk", _walk)
    await flows.start()
    rows = [_row("flow engine: start, its import included", (time.perf_counter() - began) * 1e3, "ms")]
    rows.append(_row("flow engine: memory it adds", _memory_mb() - memory, "MB"))
    await flows.recover()

    async def run(steps: int) -> None:
        await flows.wait(await flows.submit("walk", _Args(steps)), 60)

    await run(1)
    alone = {steps: await _median(lambda steps=steps: run(steps)) for steps in (0, 1, 10)}  # type: ignore[misc]
    rows += [_row(f"flow of {steps} steps", ms, "ms") for steps, ms in alone.items()]
    cpu, wall = time.process_time(), time.perf_counter()
    await run(100)
    rows.append(_row("one step: wall", (time.perf_counter() - wall) * 10, "ms"))
    rows.append(_row("one step: processor", (time.process_time() - cpu) * 10, "ms"))
    for many in (50, 100):
        began = time.perf_counter()
        await asyncio.gather(*(run(10) for _ in range(many)))
        rows.append(
            _row(f"{many} flows of 10 steps at once", many * 10 / (time.perf_counter() - began), "steps/s")
        )
    cpu = time.process_time()
    await asyncio.sleep(5)
    rows.append(_row("flow engine: processor when idle", (time.process_time() - cpu) / 5 * 1e3, "ms/s"))
    began = time.perf_counter()
    await flows.stop()
    rows.append(_row("flow engine: stop", (time.perf_counter() - began) * 1e3, "ms"))
    return rows


def _import_ms() -> float:
    code = "import time; t = time.process_time(); import dbos; print((time.process_time() - t) * 1e3)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True) for _ in range(3)]
    return min(float(r.stdout) for r in runs)


def rows() -> list[Row]:
    """Measure everything; takes about half a minute."""
    with tempfile.TemporaryDirectory(prefix="store-flow-bench-") as name:
        folder = Path(name)
        found = asyncio.run(_events(folder, _raw_per_second(folder)))
        return [*found, *asyncio.run(_flows(folder)), _row("import dbos: processor", _import_ms(), "ms")]


if __name__ == "__main__":
    for found_row in rows():
        print(json.dumps(found_row))
