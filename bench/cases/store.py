"""Durable events: group commit beside raw SQLite committing one by one."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from bench.rows import Row
from thopter.model.events import Event
from thopter.store import sqlite
from thopter.store.store import Store

_WRITERS, _EACH = 50, 200


def measure() -> list[Row]:
    """All rows of this case."""
    with tempfile.TemporaryDirectory(prefix="thopter-bench-", dir=Path.home()) as folder:
        ours = asyncio.run(_ours(Path(folder) / "plain", "note"))
        audited = asyncio.run(_ours(Path(folder) / "audited", "egress.denied"))
        raw = _raw(Path(folder))
    return [
        Row(name="events committed durably, 50 writers", value=ours, unit="events/s", n=_WRITERS * _EACH,
            budget="≥ 5,000/s", anchor="raw sqlite3 FULL, one by one", anchor_value=raw),
        Row(name="events committed with their audit, 50 writers", value=audited, unit="events/s",
            n=_WRITERS * _EACH, budget="≥ 5,000/s", anchor="the same without", anchor_value=ours),
    ]  # fmt: skip


async def _ours(folder: Path, kind: str) -> float:
    folder.mkdir()
    store = await Store.open(folder / "hub.db")

    async def writer(n: int) -> None:
        for i in range(_EACH):
            await store.events.append([Event(kind=kind, at_ms=i, box=f"b{n}", data={"text": "x" * 120})])

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for n in range(_WRITERS):
            group.create_task(writer(n))
    rate = _WRITERS * _EACH / (time.perf_counter() - began)
    await store.close()
    return rate


def _raw(folder: Path) -> float:
    raw = sqlite.connect(folder / "raw.db")
    raw.execute("CREATE TABLE e (seq INTEGER PRIMARY KEY, data TEXT)")
    count = 2000
    began = time.perf_counter()
    for _ in range(count):
        raw.execute("INSERT INTO e (data) VALUES (?)", ("x" * 200,))
    rate = count / (time.perf_counter() - began)
    raw.close()
    return rate
