"""Durable flows: ``submit`` is durable when it returns, every step is recorded, failure undoes.

Killed at any point and started again, every flow ends exactly once: recorded steps are not run
again, the one that was under way is. Flow functions run on the hub's own event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from thopter.flow.context import FlowContext, Sink, UndoPolicy
from thopter.flow.host import Diverged, FlowRow, Host, Parked, Scope
from thopter.flow.record import OUTCOME, UNDO, Outcome, StepRecord, dump, error_of, load
from thopter.flow.registry import Registry
from thopter.kit import failpoint
from thopter.model.api import FlowView, Step
from thopter.model.errors import Conflict, NotFound, StorageError, ThopterError, TimedOut
from thopter.model.ids import FlowId, new_id

log = logging.getLogger(__name__)

__all__ = ["FlowContext", "FlowEngine", "Registry", "UndoPolicy"]

_LOOK_S = 0.2  # how often a wait looks for a flow that has not been taken up yet
DoneSink = Callable[[str, FlowView], Awaitable[None]]


class _Live:
    """A flow that this process runs."""

    def __init__(self, flow: str, kind: str, name: str) -> None:
        self.view = FlowView(id=flow, kind=kind, status="running", name=name)
        self.ended = asyncio.Event()
        self.on_record = False
        self.context: FlowContext | None = None
        self.cancelled = False


class FlowEngine:
    """One per hub. ``start``, then (when flows may run) ``recover``; ``stop`` lets go.

    ``on_step(flow_id, step)`` is told what people see: at least once for every step that runs, and
    not for steps whose record is only replayed. ``on_done(flow_id, view)`` once the outcome is
    durable, at least once. Both may be told the same thing twice (after a crash); what they raise
    is logged and changes nothing.
    """

    def __init__(
        self,
        path: Path,
        registry: Registry | None = None,
        *,
        on_step: Sink | None = None,
        on_done: DoneSink | None = None,
        undo_policy: UndoPolicy | None = None,
    ) -> None:
        self.path = path
        self.registry = registry or Registry()
        self._on_step = on_step
        self._on_done = on_done
        self._policy = undo_policy or UndoPolicy()
        self._host: Host | None = None
        self._open = asyncio.Event()
        self._live: dict[str, _Live] = {}
        self._mine: set[str] = set()  # submitted in this life: nothing of them is on record yet
        self._idle = asyncio.Event()
        self._idle.set()
        self._bodies = 0

    # ------------------------------------------------------------------------------ life

    def register(self, name: str, fn: Callable[..., Awaitable[Any]], args: Any = None) -> None:
        """See :meth:`Registry.add`. Register every flow before :meth:`recover`."""
        self.registry.add(name, fn, args)

    async def start(self) -> None:
        """Open the record. Flows may be submitted from now on; none runs before :meth:`recover`.

        Raises StorageError, StorageFull or Refused; Conflict when this process has an engine."""
        self._host = Host(self.path, self._body)
        await self._host.start()

    async def recover(self) -> list[FlowId]:
        """Let flows run, those of earlier lives first; returns the ids of these."""
        found = await self._started().under_way()
        self._open.set()
        return [FlowId(row.id) for row in found if row.id not in self._mine]

    async def stop(self) -> None:
        """End every execution where it stands and close the record; a later engine goes on there."""
        if self._host is None:
            return
        host, self._host = self._host, None
        await host.stop()
        await self._idle.wait()

    # ------------------------------------------------------------------------------- use

    async def submit(self, kind: str, args: Any, *, flow_id: str | None = None) -> FlowId:
        """Record a flow and start it; durable when this returns.

        The same id again is the same flow, whatever became of it: nothing is started, args are not
        compared; Conflict when it is of another kind. NotFound: no such kind. BadInput: wrong args.
        """
        host = self._started()
        payload = self.registry.get(kind).encode(args)
        flow = flow_id or new_id("flow")
        live = self._live.get(flow)
        if live is not None and live.on_record:
            had = live.view.kind
        else:
            row = await host.row(flow) if flow_id else None
            if row is None:
                await self._begin(host, flow, kind, payload)
                return FlowId(flow)
            had = row.kind
        if had != kind:
            raise Conflict(f"{flow} is a flow {had!r}, not {kind!r}")
        return FlowId(flow)

    async def _begin(self, host: Host, flow: str, kind: str, payload: str) -> None:
        self._mine.add(flow)
        live = self._live.setdefault(flow, _Live(flow, kind, _name(payload)))
        try:
            await host.submit(flow, kind, payload)  # twice at once is once, by the record's own key
            live.on_record = True
        except BaseException:
            if not live.on_record:  # else it is running all the same
                self._live.pop(flow, None)
                self._mine.discard(flow)
            raise

    async def knows(self, flow_id: str) -> bool:
        """True when this flow was ever submitted (and not pruned)."""
        live = self._live.get(flow_id)
        return (live is not None and live.on_record) or await self._started().row(flow_id) is not None

    async def pending(self) -> dict[str, dict[str, Any]]:
        """Every flow that has not ended: its arguments by its id."""
        rows = await self._started().under_way()
        return {row.id: msgspec.json.decode(row.payload) for row in rows}

    async def status(self, flow_id: str) -> FlowView:
        """How a flow is doing. NotFound."""
        live = self._live.get(flow_id)
        if live is not None and live.on_record:
            return _copy(live.view)
        row = await self._started().row(flow_id)
        if row is None:
            raise NotFound(f"there is no flow {flow_id}")
        return _view(row, await self._started().steps(flow_id))

    async def wait(self, flow_id: str, timeout: float) -> FlowView:
        """Wait until a flow has ended. TimedOut after ``timeout`` seconds (it goes on); NotFound."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    live = self._live.get(flow_id)
                    if live is not None and live.on_record:
                        await live.ended.wait()
                    view = await self.status(flow_id)
                    if view.status != "running":
                        return view
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise TimedOut(
                f"flow {flow_id} is still running after {timeout:g} s", hint="it goes on by itself"
            ) from None

    async def cancel(self, flow_id: str) -> FlowView:
        """Call a flow off: its present step fails with Cancelled and what was done is undone.

        Durable when this returns, also for a flow that is not running yet. A flow that has ended is
        left as it is. Returns the view at this moment; ``wait`` for the end. NotFound."""
        view = await self.status(flow_id)
        if view.status == "running":
            await self._started().mark_cancelled(flow_id)
            live = self._live.get(flow_id)
            if live is not None:
                live.cancelled = True
                if live.context is not None:
                    live.context.cancel()
        return view

    async def prune(self, before_ms: int) -> int:
        """Forget flows that ended before this time; returns how many."""
        before = datetime.fromtimestamp(before_ms / 1000, UTC).isoformat()
        return await self._started().prune(before)

    # ---------------------------------------------------------------------------- inside

    def _started(self) -> Host:
        if self._host is None:
            raise StorageError("the flow engine is not running", hint="the hub is starting or stopping")
        return self._host

    async def _body(self, scope: Scope, kind: str, payload: str) -> str:
        """One execution of one flow, from its beginning; returns its outcome, encoded."""
        live = self._live.setdefault(scope.flow, _Live(scope.flow, kind, _name(payload)))
        live.on_record = True
        self._bodies += 1
        self._idle.clear()
        try:
            await self._open.wait()
            host = self._started_or_parked()
            context = live.context = FlowContext(host, scope, live.view, self._on_step, self._policy)
            if scope.flow not in self._mine:
                row = await host.row(scope.flow)
                live.cancelled |= row is not None and row.cancelled
            if live.cancelled:
                context.cancel()
            outcome = await self._run(context, kind, payload)
            encoded = dump(outcome)
            with contextlib.suppress(Diverged):  # then only DBOS' own record of the end is written
                encoded = await host.run_step(scope, OUTCOME, lambda: _said(encoded))
            failpoint.hit("flow.outcome.recorded")
            _finish(live.view, load(encoded, Outcome))
            await self._tell_done(live.view)
            return encoded
        finally:
            # Gone from here before anybody waiting looks again: what they read then is the record.
            self._live.pop(scope.flow, None)
            self._mine.discard(scope.flow)
            live.ended.set()
            self._bodies -= 1
            if not self._bodies:
                self._idle.set()

    def _started_or_parked(self) -> Host:
        if self._host is None:
            raise Parked("the engine stops")
        return self._host

    async def _run(self, context: FlowContext, kind: str, payload: str) -> Outcome:
        try:
            found = self.registry.get(kind)
            result = await found.fn(context, found.decode(payload))
            return Outcome(status="done", result=_result(kind, result))
        except ThopterError as e:
            error = e
        except Exception as e:  # a defect in a flow must end it, with undo, and be seen
            log.exception("flow %s (%s) failed unexpectedly", context.flow_id, kind)
            error = ThopterError(
                f"{type(e).__name__}: {e}", hint="this is a defect of thopter; see 'thopter hub logs'"
            )
        problems = await context.unwind()
        return Outcome(status="failed", error=error_of(error), problems=problems)

    async def _tell_done(self, view: FlowView) -> None:
        if self._on_done is None:
            return
        try:
            await self._on_done(view.id, _copy(view))
        except Exception:  # the outcome is on record already
            log.exception("the end of flow %s could not be told", view.id)


async def _said(text: str) -> str:
    failpoint.hit("flow.outcome.before")
    return text


def _result(kind: str, result: Any) -> dict[str, Any]:
    if result is None:
        return {}
    plain = msgspec.to_builtins(result)
    if not isinstance(plain, dict):
        raise ThopterError(f"the flow {kind} returned no object but {type(plain).__name__}")
    return plain


class _Named(Struct):
    name: str = ""


def _name(payload: str) -> str:
    try:
        return msgspec.json.decode(payload, type=_Named).name
    except msgspec.DecodeError:
        return ""


def _copy(view: FlowView) -> FlowView:
    return msgspec.structs.replace(view, steps=list(view.steps), result=dict(view.result))


def _finish(view: FlowView, outcome: Outcome) -> None:
    view.status, view.error, view.result = outcome.status, outcome.error, outcome.shown()
    view.name = str(outcome.result.get("name") or view.name)


def _view(row: FlowRow, steps: list[tuple[str, str]]) -> FlowView:
    """A flow as people see it, from its record alone."""
    view = FlowView(id=row.id, kind=row.kind, status="running", name=_name(row.payload))
    seen: dict[str, Step] = {}
    outcome = load(row.output, Outcome) if row.output else None
    for name, text in steps:
        if name == OUTCOME:
            outcome = load(text, Outcome)
            continue
        record = load(text, StepRecord)
        plain = name.removeprefix(UNDO)
        undone = record.ok and plain != name
        status = "undone" if undone else "done" if record.ok else "failed"
        seen[plain] = Step(name=plain, status=status, title=record.title, ms=record.ms, error=record.error)
    view.steps = list(seen.values())
    if outcome is not None:
        _finish(view, outcome)
    elif row.state != "running":
        said = row.error or "it was given up: the hub ended again and again while it ran this flow"
        error = ThopterError(said, hint="what it made is left for reconciliation: 'thopter doctor --leaks'")
        view.status, view.error = "failed", error.to_dict()
    return view
