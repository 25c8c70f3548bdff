"""DBOS behind a small door: the only file that knows it. Why and at what cost: docs/decisions/0002.

DBOS lives in a thread of its own with an event loop of its own; its bookkeeping never runs on the
hub's loop, and nothing of ours runs on its loop. A flow's body and steps are called on the hub's
loop; only strings (JSON) cross the border. One host per process, because DBOS is a singleton.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from thopter.model.errors import Conflict, StorageError, ThopterError
from thopter.store import sqlite

if TYPE_CHECKING:
    import sqlalchemy
    from dbos import WorkflowStatus

log = logging.getLogger(__name__)
T = TypeVar("T")

_NAME = "thopter-flows"  # the application, to DBOS
_KIND = "flow"  # its one workflow; which flow it is, is the first argument
_VERSION = "1"  # fixed: an update of thopter goes on with the flows of the version before
_EXECUTOR = "hub"
_LIVES = 100  # a flow taken up this often without an end is given up: it may be what kills the hub
_CONNECTIONS = 2
_THREADS = 8
_MEND_S = 1.0  # how often flows that lost their storage are looked after until they go on
_LAST_WORDS_S = 5.0  # for what has ended to be written off before the engine stops
_LISTED = ["PENDING", "ENQUEUED"]
_ENDED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]

_one_host = threading.Lock()


class Parked(BaseException):
    """This execution of a flow ends here, unrecorded; the flow itself goes on later.

    Raised when a step could not be recorded (disk full) or the engine stops. No ``Exception``, so
    that a flow's own ``except`` can't take it for a failure and undo work."""


class Diverged(ThopterError):
    """The code asks for another step than the record of this flow holds at this place."""

    code = "flow_diverged"


class Scope(Struct, frozen=True):
    """One execution of one flow: its id and the context in which DBOS counts its steps."""

    flow: str
    context: contextvars.Context


class FlowRow(Struct, frozen=True, kw_only=True):
    """A flow as recorded. ``state``: running, ended, dead (given up after too many crashes)."""

    id: str
    kind: str
    payload: str
    state: str
    output: str = ""
    error: str = ""
    cancelled: bool = False


Body = Callable[[Scope, str, str], Coroutine[Any, Any, str]]


class Host:
    """Runs flow bodies durably. Made on the hub's loop; all methods are for that loop."""

    def __init__(self, path: Path, body: Body) -> None:
        self.path = path
        self._body = body
        self._hub = asyncio.get_running_loop()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._trouble: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._dbos: Any = None
        self._engine: sqlalchemy.Engine | None = None
        self._workflow: Callable[..., Any] | None = None
        self._running: set[str] = set()
        self._ending: set[asyncio.Task[Any]] = set()  # bodies are over, DBOS writes its last word

    # ---------------------------------------------------------------------------- life

    async def start(self) -> None:
        """Import and launch DBOS in its thread; flows that were under way are called again soon.

        Raises StorageError, StorageFull, Refused; Conflict when this process has a host already."""
        if not _one_host.acquire(blocking=False):
            raise Conflict("this process runs a flow engine already")
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._main(started)), name="flows", daemon=True
        )
        self._thread.start()
        try:
            await asyncio.wrap_future(started)
        except Exception as e:
            await asyncio.to_thread(self._thread.join)
            if isinstance(e, sqlite.dbapi.Error):
                raise sqlite.explain(e, self.path) from e
            raise

    async def stop(self) -> None:
        """End every execution where it stands (unrecorded steps run again later) and let go."""
        if self._loop is not None and self._stopping is not None and self._thread is not None:
            loop, stopping = self._loop, self._stopping
            loop.call_soon_threadsafe(stopping.set)
            await asyncio.to_thread(self._thread.join)
            self._loop = None

    async def _main(self, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping, self._trouble = asyncio.Event(), asyncio.Event()
        try:
            try:
                self._launch()
            except Exception as e:  # noqa: BLE001 - handed to who waits for the start
                # SQLAlchemy wraps the driver's errors, which are what the caller understands.
                started.set_exception(getattr(e, "orig", None) or e)
                return
            started.set_result(None)
            await self._mend_until_stopped(self._stopping, self._trouble)
        finally:
            await self._let_go()
            _one_host.release()

    def _launch(self) -> None:
        sqlite.check_library()
        sqlite.create_private(self.path)
        for name in [n for n in os.environ if n.startswith("DBOS_")]:
            del os.environ[name]  # these would turn on its cloud, its telemetry or another database
        logger = logging.getLogger("dbos")
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())  # else it installs one that writes to stderr

        from dbos import DBOS

        from thopter.flow.serial import JsonText

        self._engine = self._connect()
        self._dbos = DBOS
        # The library prints and phones nowhere unless told to: no conductor, no OTLP, no admin port.
        DBOS(
            config={
                "name": _NAME,
                "system_database_engine": self._engine,
                "application_version": _VERSION,
                "executor_id": _EXECUTOR,
                "enable_otlp": False,
                "log_level": "WARNING",
                "serializer": JsonText(),
                "max_executor_threads": _THREADS,
                "use_listen_notify": False,
            }
        )

        async def run(kind: str, payload: str) -> str:
            return await self._run_flow(kind, payload)

        self._workflow = DBOS.workflow(name=_KIND, max_recovery_attempts=_LIVES)(run)
        # Launched inside this running loop, so that DBOS runs everything here.
        DBOS.launch()

    def _connect(self) -> sqlalchemy.Engine:
        import sqlalchemy

        engine = sqlalchemy.create_engine(
            sqlalchemy.URL.create("sqlite+pysqlite", database=os.fspath(self.path)),
            module=sqlite.dbapi,
            pool_size=_CONNECTIONS,
            max_overflow=0,
            pool_timeout=60,
            connect_args={"check_same_thread": False},
        )

        @sqlalchemy.event.listens_for(engine, "connect")
        def set_up(conn: Any, _record: Any) -> None:
            conn.isolation_level = "IMMEDIATE"
            sqlite.set_up(conn)

        @sqlalchemy.event.listens_for(engine, "handle_error")
        def noticed(context: sqlalchemy.ExceptionContext) -> None:
            if isinstance(context.original_exception, sqlite.dbapi.OperationalError):
                self._notice_trouble()

        return engine

    async def _let_go(self) -> None:
        logging.getLogger("dbos").setLevel(logging.CRITICAL)  # it warns of every task that we end
        if self._ending:
            await asyncio.wait(self._ending, timeout=_LAST_WORDS_S)
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._dbos is not None:
            self._dbos.destroy(destroy_registry=True)
        if self._engine is not None:
            self._engine.dispose()

    # ----------------------------------------------------- storage that failed and came back

    def _notice_trouble(self) -> None:
        loop, trouble = self._loop, self._trouble
        if loop is not None and trouble is not None and not loop.is_closed():
            loop.call_soon_threadsafe(trouble.set)

    async def _mend_until_stopped(self, stopping: asyncio.Event, trouble: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            mender = group.create_task(self._mend(trouble))
            await stopping.wait()
            mender.cancel()

    async def _mend(self, trouble: asyncio.Event) -> None:
        """After an error of the database, run again the flows whose execution was parked.

        A flow counts as parked when it was seen twice as under way in the record and nowhere in this
        process; that rules out one that is just being started."""
        while True:
            await trouble.wait()
            trouble.clear()
            before: set[str] = set()
            while True:
                await asyncio.sleep(_MEND_S)
                try:
                    found = await self._dbos.list_workflows_async(
                        status="PENDING", load_input=False, load_output=False
                    )
                    parked = {w.workflow_id for w in found} - self._running
                    again = parked & before
                    if again:
                        log.warning("%d flows go on after trouble with the disk", len(again))
                        await self._dbos.resume_workflows_async(sorted(again))
                except Exception as e:  # noqa: BLE001 - whatever it was, it is tried again
                    log.warning("flows can't go on yet: %s", e)
                    continue
                before = parked - again
                if not before:
                    break

    # ---------------------------------------------------------------- on the flows' loop

    async def _run_flow(self, kind: str, payload: str) -> str:
        """The one DBOS workflow."""
        scope = Scope(self._dbos.workflow_id, contextvars.copy_context())
        self._running.add(scope.flow)
        try:
            return await self._on_hub(lambda: self._body(scope, kind, payload))
        finally:
            self._running.discard(scope.flow)
            task = asyncio.current_task()
            if task is not None:
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)

    async def _on_hub(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self._hub.is_closed():
            raise Parked("the hub's loop is gone")
        coro = make()
        # An empty context: what runs on the hub must not look to DBOS like a part of this flow.
        try:
            future = contextvars.Context().run(asyncio.run_coroutine_threadsafe, coro, self._hub)
        except RuntimeError:
            coro.close()
            raise Parked("the hub's loop is gone") from None
        return await asyncio.wrap_future(future)

    # ------------------------------------------------------------------ on the hub's loop

    async def run_step(self, scope: Scope, name: str, fn: Callable[[], Coroutine[Any, Any, str]]) -> str:
        """Run ``fn`` on the hub's loop and record what it returns, or return what was recorded.

        ``fn`` raises nothing but cancellation. Raises Diverged, or Parked when it can't be recorded.
        """

        async def runner() -> str:
            return await self._on_hub(fn)

        async def step() -> str:
            done: str = await self._dbos.run_step_async({"name": name}, runner)
            return done

        try:
            return await self._call(step, scope.context)
        except Exception as e:
            if type(e).__name__ in ("DBOSUnexpectedStepError", "DBOSStepNondeterminismError"):
                raise Diverged(
                    f"the flow {scope.flow} was recorded by code with other steps",
                    hint="what it made is left for reconciliation: see 'thopter doctor --leaks'",
                    step=name,
                ) from e
            log.warning("flow %s: step %r could not be recorded: %s", scope.flow, name, e)
            self._notice_trouble()
            raise Parked(str(e)) from e

    async def submit(self, flow: str, kind: str, payload: str) -> None:
        """Record a flow and start it; one with this id that exists already is left alone."""

        async def start() -> None:
            from dbos import SetWorkflowID

            assert self._workflow is not None
            with SetWorkflowID(flow):
                await self._dbos.start_workflow_async(self._workflow, kind, payload)

        await self._asked(start)

    async def row(self, flow: str) -> FlowRow | None:
        """The record of a flow."""
        found = await self._asked(lambda: self._dbos.get_workflow_status_async(flow))
        return None if found is None else _row(found)

    async def under_way(self) -> list[FlowRow]:
        """Every flow that has not ended."""
        found = await self._asked(lambda: self._dbos.list_workflows_async(status=_LISTED, load_output=False))
        return [_row(w) for w in found]

    async def steps(self, flow: str) -> list[tuple[str, str]]:
        """``(name, record)`` of each recorded step, in order."""
        found = await self._asked(lambda: self._dbos.list_workflow_steps_async(flow))
        return [(s["function_name"], s["output"]) for s in found if isinstance(s["output"], str)]

    async def mark_cancelled(self, flow: str) -> None:
        """Record that somebody called the flow off."""
        await self._asked(
            lambda: self._dbos.update_workflow_attributes_async(flow, {"cancelled": True}, merge=True)
        )

    async def prune(self, before: str) -> int:
        """Forget flows that ended before an ISO 8601 time; return how many."""
        ended = await self._asked(
            lambda: self._dbos.list_workflows_async(
                status=_ENDED, completed_before=before, load_input=False, load_output=False
            )
        )
        ids = [w.workflow_id for w in ended]
        for i in range(0, len(ids), 200):
            part = ids[i : i + 200]
            await self._asked(lambda part=part: self._dbos.delete_workflows_async(part))  # type: ignore[misc]
        return len(ids)

    async def _asked(self, make: Callable[[], Awaitable[T]]) -> T:
        """Call on the flows' loop; the database's errors become ours."""
        from sqlalchemy.exc import DBAPIError

        try:
            return await self._call(make, contextvars.Context())
        except DBAPIError as e:
            raise sqlite.explain(e.orig or e, self.path) from e

    async def _call(self, make: Callable[[], Awaitable[T]], context: contextvars.Context) -> T:
        loop = self._loop
        if loop is None or loop.is_closed():
            raise StorageError("the flow engine is stopped", hint="the hub is stopping; try again")

        async def there() -> T:
            return await make()

        coro = there()
        try:
            future = context.run(asyncio.run_coroutine_threadsafe, coro, loop)
        except RuntimeError:
            coro.close()
            raise StorageError("the flow engine is stopped", hint="the hub is stopping; try again") from None
        return await asyncio.wrap_future(future)


def _row(found: WorkflowStatus) -> FlowRow:
    args = found.input["args"] if found.input else ("", "{}")
    dead = found.status in ("CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
    return FlowRow(
        id=found.workflow_id,
        kind=str(args[0]),
        payload=str(args[1]),
        state="dead" if dead else "running" if found.status in _LISTED else "ended",
        output=found.output if isinstance(found.output, str) else "",
        error=str(found.error) if found.error else "",
        cancelled=bool((found.attributes or {}).get("cancelled")),
    )
