"""One flow under way: its steps, what has to be undone, and what people see of it.

A step runs at least once: killed before its record was written, it runs again after the restart; so
it must be safe to repeat. Recorded, it never runs again, and its recorded value is returned.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

import msgspec
from msgspec import Struct

from thopter.flow.host import Diverged, Host, Parked, Scope
from thopter.flow.record import UNDO, StepRecord, dump, error_from, error_of, load, value_of
from thopter.kit import failpoint
from thopter.model.api import FlowView, Step
from thopter.model.errors import Cancelled, ThopterError, TimedOut

log = logging.getLogger(__name__)
T = TypeVar("T")

Sink = Callable[[str, Step], Awaitable[None]]
Fn = Callable[[], Awaitable[Any]]
Undo = Callable[[Any], Awaitable[Any]]


class UndoPolicy(Struct, frozen=True):
    """How hard an undo is tried: attempts, seconds before the second one (then doubled), seconds
    that one attempt may take."""

    attempts: int = 5
    pause_s: float = 0.2
    limit_s: float = 300.0


class _Done(Struct, frozen=True):
    name: str
    title: str
    undo: Undo
    value: Any


class FlowContext:
    """What a flow function gets besides its arguments. Made by the engine."""

    def __init__(
        self, host: Host, scope: Scope, view: FlowView, sink: Sink | None, policy: UndoPolicy
    ) -> None:
        self.flow_id = scope.flow
        self._host = host
        self._scope = scope
        self._view = view
        self._sink = sink
        self._policy = policy
        self._done: list[_Done] = []
        self._busy = ""
        self._title = ""
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False
        self._unwinding = False
        self._words: str | None = None
        self._speaker: Any = None

    # ------------------------------------------------------------------ for flow functions

    @overload
    async def step(
        self, name: str, fn: Fn, *, undo: Undo | None = None, undo_partial: bool = False, title: str = ""
    ) -> Any: ...

    @overload
    async def step(
        self,
        name: str,
        fn: Fn,
        *,
        returns: type[T],
        undo: Undo | None = None,
        undo_partial: bool = False,
        title: str = "",
    ) -> T: ...

    async def step(
        self,
        name: str,
        fn: Fn,
        *,
        undo: Undo | None = None,
        undo_partial: bool = False,
        title: str = "",
        returns: Any = None,
    ) -> Any:
        """Run ``fn`` once it is not recorded yet, record its value (JSON), return the value.

        The value comes back as plain JSON, or as ``returns``, the same on the first run and after a
        restart. ``undo(value)`` is called when the flow fails later. ``undo_partial``: also when
        this very step fails (with ``None``), for work that may be half done; a step that was
        cancelled in the middle is always undone so. A failure is recorded too: it raises the same
        ThopterError now and after a restart. One step at a time in one flow.
        """
        record = await self._record(name, title, fn)
        value = msgspec.json.decode(record.value, type=returns or Any)
        if record.ok:
            if undo is not None:
                self._done.append(_Done(name, title, undo, value))
            return value
        if undo is not None and (undo_partial or record.unsure):
            self._done.append(_Done(name, title, undo, None))
        raise error_from(record.error)

    def say(self, words: str) -> None:
        """Show a line of progress of the step that runs now. Only the newest matters: a flood is
        thinned out, and nothing is said again after a restart."""
        self._words = words
        if self._sink is not None and self._busy and (self._speaker is None or self._speaker.done()):
            loop = asyncio.get_running_loop()
            self._speaker = asyncio.run_coroutine_threadsafe(self._speak(self._busy), loop)

    # ------------------------------------------------------------------------ for the engine

    def cancel(self) -> None:
        """Make the step that runs now, or the next one, fail with :class:`Cancelled`."""
        self._cancelled = True
        if self._task is not None and not self._unwinding:
            self._task.cancel()

    async def unwind(self) -> list[dict[str, Any]]:
        """Undo every done step, last one first. Returns what could not be undone; never raises
        anything but Parked and cancellation."""
        self._unwinding = True
        problems: list[dict[str, Any]] = []
        while self._done:
            step = self._done.pop()
            try:
                record = await self._record(UNDO + step.name, step.title, self._undoing(step))
            except Diverged as e:
                record = StepRecord(ok=False, error=error_of(e))
            if not record.ok:
                problems.append({"step": step.name, "error": record.error})
        return problems

    # ---------------------------------------------------------------------------- inside

    async def _record(self, name: str, title: str, fn: Fn) -> StepRecord:
        if self._busy:
            raise RuntimeError(f"step {name!r} while {self._busy!r} runs: a flow does one step at a time")
        self._busy, self._title = name, title
        ran = False

        async def run() -> str:
            nonlocal ran
            ran = True
            return dump(await self._attempt(name, title, fn))

        try:
            record = load(await self._host.run_step(self._scope, name, run), StepRecord)
        finally:
            self._busy = ""
        if ran:
            failpoint.hit(f"flow.{name}.recorded")
        else:
            self._show(_seen(name, title, record))
        return record

    async def _attempt(self, name: str, title: str, fn: Fn) -> StepRecord:
        failpoint.hit(f"flow.{name}.before")
        if self._cancelled and not self._unwinding:
            record = _failed(title, 0.0, Cancelled("it was called off"))
        else:
            await self._tell(Step(name=name.removeprefix(UNDO), status="started", title=title))
            record = await self._timed(name, title, fn)
        await self._quiet()
        failpoint.hit(f"flow.{name}.after")
        # Told before it is recorded: a crash in between tells it twice, never not at all.
        await self._tell(_seen(name, title, record))
        return record

    async def _timed(self, name: str, title: str, fn: Fn) -> StepRecord:
        began = time.monotonic()

        def ms() -> float:
            return round((time.monotonic() - began) * 1000, 3)

        self._task = asyncio.current_task()
        try:
            value = await fn()
        except ThopterError as e:
            return _failed(title, ms(), e)
        except asyncio.CancelledError:
            if not self._cancelled or self._unwinding or self._task is None:
                raise  # the hub stops
            self._task.uncancel()
            return _failed(title, ms(), Cancelled("it was called off"), unsure=True)
        except Exception as e:  # a defect in a step must end as a failed flow, with undo
            log.exception("flow %s: step %r failed unexpectedly", self.flow_id, name)
            return _failed(title, ms(), _defect(e))
        finally:
            self._task = None
        try:
            return StepRecord(ok=True, title=title, ms=ms(), value=value_of(value))
        except ThopterError as e:
            return _failed(title, ms(), e, unsure=True)

    def _undoing(self, step: _Done) -> Fn:
        async def attempts() -> None:
            pause = self._policy.pause_s
            for left in range(self._policy.attempts - 1, -1, -1):
                try:
                    async with asyncio.timeout(self._policy.limit_s):
                        await step.undo(step.value)
                    return
                except TimeoutError as e:
                    error: Exception = TimedOut(f"undoing {step.name} took over {self._policy.limit_s:.0f} s")
                    error.__cause__ = e
                except Exception as e:  # noqa: BLE001 - whatever it was, it is tried again and reported
                    error = e
                if not left:
                    raise error
                log.warning("flow %s: undo of %r is tried again: %s", self.flow_id, step.name, error)
                await asyncio.sleep(pause)
                pause *= 2

        return attempts

    async def _tell(self, step: Step) -> None:
        self._show(step)
        if self._sink is None:
            return
        try:
            await self._sink(self.flow_id, step)
        except Exception:  # progress is not the record: a flow goes on without it
            log.exception("flow %s: progress of %r could not be told", self.flow_id, step.name)

    def _show(self, step: Step) -> None:
        """Keep the view: one line a step, replaced as it goes on."""
        if step.status == "progress":
            return
        steps = self._view.steps
        at = next((i for i, s in enumerate(steps) if s.name == step.name), None)
        if step.status == "started" and self._unwinding:
            return
        if at is None:
            steps.append(step)
        else:
            steps[at] = step

    async def _speak(self, name: str) -> None:
        while self._words is not None and self._busy == name:
            words, self._words = self._words, None
            await self._tell(Step(name=name, status="progress", title=words))

    async def _quiet(self) -> None:
        self._words = None
        if self._speaker is not None:
            await asyncio.wrap_future(self._speaker)
            self._speaker = None


def _defect(e: Exception) -> ThopterError:
    return ThopterError(
        f"{type(e).__name__}: {e}", hint="this is a defect of thopter; see 'thopter hub logs' and report it"
    )


def _failed(title: str, ms: float, error: ThopterError, *, unsure: bool = False) -> StepRecord:
    return StepRecord(ok=False, title=title, ms=ms, error=error_of(error), unsure=unsure)


def _seen(name: str, title: str, record: StepRecord) -> Step:
    """The record as people see it; an undo is seen as its step, undone."""
    undone = record.ok and name.startswith(UNDO)
    status = "undone" if undone else "done" if record.ok else "failed"
    return Step(
        name=name.removeprefix(UNDO), status=status, title=title or record.title, ms=record.ms,
        error=record.error,
    )  # fmt: skip


__all__ = ["FlowContext", "Parked", "Sink", "UndoPolicy"]
