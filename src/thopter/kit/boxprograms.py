"""Which of some processes run in a box, and what can be seen of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thopter.kit.channel import BoxLink

MOST = 64


async def programs(link: BoxLink, pids: Sequence[int]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Of these processes (the first :data:`MOST`) those that run: ``{pid, ppid, started, tty, pane, cwd,
    args, of}`` each; and the processes that runs' agents are, by run. The errors are the link's."""
    answer = await link.call("programs", pids=list(pids)[:MOST])
    found, runs = answer.get("programs"), answer.get("runs")
    listed = [p for p in found if isinstance(p, dict)] if isinstance(found, list) else []
    named = runs.items() if isinstance(runs, dict) else ()
    return listed, {k: v for k, v in named if isinstance(v, int)}
