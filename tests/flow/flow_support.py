"""A flow that leaves a trace of everything it does, for tests that kill it."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from thopter.flow.engine import FlowContext, FlowEngine, UndoPolicy
from thopter.model.errors import Refused

STEPS = ("one", "two", "three")
QUICK = UndoPolicy(attempts=3, pause_s=0.01, limit_s=5)


class TripArgs(Struct, frozen=True, kw_only=True):
    """``fail``: the step that refuses, if any. ``hold``: the step that waits for a file ``go``."""

    name: str
    log: str
    fail: str = ""
    hold: str = ""


class Trace:
    """Effects in a file, one line each, written at once (O_APPEND), so that a kill loses none."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def add(self, *words: str) -> None:
        """Append one line."""
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, (" ".join(words) + "\n").encode())
        finally:
            os.close(fd)

    def lines(self, flow: str = "") -> list[str]:
        """What was done, of one flow or of all, in order and without the flow's id."""
        if not self.path.exists():
            return []
        found = [line.split(" ", 1) for line in self.path.read_text().splitlines()]
        return [rest for who, rest in found if not flow or who == flow]

    def count(self, flow: str = "") -> Counter[str]:
        """How often each thing was done."""
        return Counter(self.lines(flow))


async def until(test: Callable[[], bool]) -> None:
    """Wait for something that happens outside of this process or loop."""
    while not test():  # noqa: ASYNC110 - no event can tell
        await asyncio.sleep(0.02)


async def trip(ctx: FlowContext, args: TripArgs) -> dict[str, Any]:
    """Three steps, each undone when a later one fails."""
    trace = Trace(args.log)

    async def do(step: str) -> dict[str, Any]:
        trace.add(ctx.flow_id, "do", step)
        if step == args.hold:
            await until(Path(args.log).with_name("go").exists)
        if step == args.fail:
            raise Refused(f"{step} is refused", hint="ask again", step=step)
        return {"made": step, "by": args.name}

    async def undo(made: dict[str, Any]) -> None:
        trace.add(ctx.flow_id, "undo", made["made"], made["by"])

    made = [await ctx.step(s, lambda s=s: do(s), undo=undo, title=f"step {s}") for s in STEPS]
    trace.add(ctx.flow_id, "end")
    return {"name": args.name, "made": [m["made"] for m in made]}


def engine(folder: Path, trace: Trace | None = None, policy: UndoPolicy = QUICK) -> FlowEngine:
    """An engine in ``folder`` with the flow ``trip``; progress goes to ``trace``."""

    async def on_step(flow: str, step: Any) -> None:
        if trace is not None:
            trace.add(flow, step.status, step.name)

    async def on_done(flow: str, view: Any) -> None:
        if trace is not None:
            trace.add(flow, "told", view.status)

    made = FlowEngine(folder / "flows.db", on_step=on_step, on_done=on_done, undo_policy=policy)
    made.register("trip", trip)
    return made


Body = Callable[[FlowEngine], Awaitable[Any]]


class N(Struct, frozen=True):
    """A number and what goes with it."""

    n: int = 0
    words: tuple[str, ...] = ()
    name: str = ""


def use(folder: Path, body: Body, *flows: Callable[..., Awaitable[Any]], trace: Trace | None = None) -> Any:
    """Run ``body`` with an engine that has ``trip`` and these flows, under their functions' names."""

    async def whole() -> Any:
        made = engine(folder, trace)
        for fn in flows:
            made.register(fn.__name__, fn)
        await made.start()
        await made.recover()
        try:
            async with asyncio.timeout(100):
                return await body(made)
        finally:
            await made.stop()

    return asyncio.run(whole())


async def nothing() -> None:
    """A step with no value."""


async def value(value: Any) -> Any:
    """A step that makes ``value``."""
    return value
