"""Which of some processes run in a box, and what can be seen of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thopter.kit.channel import BoxLink

MOST = 64


async def programs(link: BoxLink, pids: Sequence[int]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Of these processes (the first :data:`MOST`) those that run: ``{pid, ppid, started, tty, pane, cwd,
    args, of}`` each, whose ``pid`` is one that was asked for, once, and ``started`` a number of ticks; and
    the processes that runs' agents are, by run. The errors are the link's."""
    asked = list(pids)[:MOST]
    answer = await link.call("programs", pids=asked)
    found, runs = answer.get("programs"), answer.get("runs")
    listed: dict[int, dict[str, Any]] = {}
    for one in found if isinstance(found, list) else ():
        pid, started = (one.get("pid"), one.get("started")) if isinstance(one, dict) else (None, None)
        if _is_number(pid) and pid in asked and _is_number(started):
            listed.setdefault(pid, one)
    named = runs.items() if isinstance(runs, dict) else ()
    return list(listed.values()), {k: v for k, v in named if _is_number(v)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 63
