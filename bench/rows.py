"""What a benchmark gives: rows of a table, each with its anchor measured beside it."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

SECONDS = "THOPTER_BENCH_SECONDS"  # how long a case may take, for those that can do more or less


def seconds_left(default: float) -> float:
    """How long this case may take from its start on."""
    return float(os.environ.get(SECONDS, default))


class Row(Struct, frozen=True, kw_only=True):
    """One figure. ``value`` and ``anchor`` have the same ``unit``; ``ratio`` is value over anchor
    (for rates: how much of the anchor's rate we reach). ``n`` is how many samples. ``failed``: this
    stands for rows that could not be measured, and why."""

    name: str
    value: float
    unit: str
    n: int
    p99: float | None = None
    budget: str = ""
    anchor: str = ""
    anchor_value: float | None = None
    note: str = ""
    failed: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the anchor's."""
        return self.value / self.anchor_value if self.anchor_value else None


def p50(samples: Sequence[float]) -> float:
    """The median."""
    return statistics.median(samples)


def p99(samples: Sequence[float]) -> float:
    """The 99th percentile (the largest of fewer than a hundred)."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def ms_of(fn: Callable[[], object], n: int, warm: int = 1) -> list[float]:
    """Milliseconds of each of ``n`` calls, after ``warm`` calls that don't count."""
    found = []
    for i in range(n + warm):
        began = time.perf_counter()
        fn()
        if i >= warm:
            found.append((time.perf_counter() - began) * 1000)
    return found


async def ms_of_async(fn: Callable[[], Awaitable[object]], n: int, warm: int = 1) -> list[float]:
    """The same for coroutines, one after another."""
    found = []
    for i in range(n + warm):
        began = time.perf_counter()
        await fn()
        if i >= warm:
            found.append((time.perf_counter() - began) * 1000)
    return found


def command_ms(argv: Sequence[str], n: int = 10, env: dict[str, str] | None = None) -> float | None:
    """Median wall time of a command, None when it is not here or fails."""

    def once() -> None:
        subprocess.run(argv, check=True, capture_output=True, env=env, timeout=60)

    try:
        return p50(ms_of(once, n))
    except (OSError, subprocess.SubprocessError):
        return None


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| what | p50 | p99 | budget | beside (same run) | ratio | n |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        if r.failed:
            why = " ".join(r.failed.replace("|", "/").split())
            lines.append(f"| {r.name}: **not measured** ({why}) | – | – | – | – | – | 0 |")
            continue
        cells = [
            r.name + (f" ({r.note})" if r.note else ""),
            f"{r.value:.4g} {r.unit}",
            "–" if r.p99 is None else f"{r.p99:.4g}",
            r.budget or "–",
            r.anchor or "–" if r.anchor_value is None else f"{r.anchor}: {r.anchor_value:.4g} {r.unit}",
            "–" if r.ratio is None else f"{r.ratio:.2f}",
            str(r.n),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
