"""A fleet in memory for tests of the hub's shell: thopters are records, commands are real processes
of this machine, files are real files below a folder. Events and keys are in the real store."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
import termios
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from fcntl import ioctl
from pathlib import Path
from typing import Literal

from memory_approvals import MemoryApprovals, MemoryUsage
from memory_audit import MemoryAudit
from memory_budgets import MemoryBudgets
from memory_dials import MemoryDials
from memory_egress import MemoryEgress
from memory_logs import MemoryLogs
from memory_notes import MemoryNotes
from memory_pool import MemoryPool
from memory_pushes import MemoryPushes
from memory_secrets import MemorySecrets
from memory_snapshots import MemorySleep, MemorySnapshots
from memory_talk import MemoryTalk
from memory_variables import MemoryVariables
from msgspec import Struct

from thopter.fleet.changes import name_of
from thopter.fleet.page_sessions import PageSessions
from thopter.fleet.tokens import Tokens
from thopter.kit.clock import SystemClock
from thopter.kit.paths import Paths
from thopter.kit.settings import Settings
from thopter.model.api import (
    Accepted,
    Check,
    CheckResult,
    CreateRequest,
    DiffResult,
    FlowView,
    PullInfo,
    RunRequest,
    Step,
    TellRequest,
    TellResult,
    ThopterDetail,
    ThopterView,
    TranscriptPage,
)
from thopter.model.api.changes import ChangeList, FileDiff
from thopter.model.errors import Conflict, NotFound, TimedOut
from thopter.model.events import Event
from thopter.model.ids import check_name, new_id
from thopter.model.nouns import Entry, Leak, Role
from thopter.store.store import Store

MARK: ContextVar[tuple[str, bool]] = ContextVar("mark", default=("", False))


class Session:
    """A real process; see ``thopter.hub.ports.ExecSession``."""

    def __init__(self, process: asyncio.subprocess.Process, master: int | None, stdin: bool) -> None:
        self.process = process
        self.master = master
        self.stdin = stdin
        self.out: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue(2)

    async def read(self) -> None:
        """Bring both outputs into one bounded queue."""
        async with asyncio.TaskGroup() as group:
            if self.master is not None:
                group.create_task(self._read_terminal(self.master))
            else:
                assert self.process.stdout is not None and self.process.stderr is not None
                group.create_task(self._read_pipe(1, self.process.stdout))
                group.create_task(self._read_pipe(2, self.process.stderr))
        await self.out.put(None)

    async def _read_pipe(self, stream: int, pipe: asyncio.StreamReader) -> None:
        while data := await pipe.read(65536):
            await self.out.put((stream, data))

    async def _read_terminal(self, master: int) -> None:
        while True:
            try:
                data = await asyncio.to_thread(os.read, master, 65536)
            except OSError:  # EIO: nobody holds the other end any more
                return
            if not data:
                return
            await self.out.put((1, data))

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        while (item := await self.out.get()) is not None:
            yield item

    async def write(self, data: bytes) -> None:
        if self.master is not None:
            await asyncio.to_thread(os.write, self.master, data)
        elif self.stdin:
            pipe = self.process.stdin
            assert pipe is not None
            with contextlib.suppress(ConnectionError):
                if not pipe.is_closing():
                    pipe.write(data)
                    await pipe.drain()

    async def eof(self) -> None:
        if self.master is None and self.stdin:
            assert self.process.stdin is not None
            self.process.stdin.close()

    async def resize(self, rows: int, cols: int) -> None:
        if self.master is not None:
            ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    async def signal(self, name: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.Signals["SIG" + name])

    async def wait(self) -> tuple[Literal["exit", "signal"], int]:
        code = await self.process.wait()
        return ("exit", code) if code >= 0 else ("signal", -code)


class MemoryInfo(Struct, frozen=True):
    """See ``thopter.hub.ports.FleetInfo``."""

    boxes: int
    problem: str
    warm: int = 0


class MemoryFleet:
    """See ``thopter.hub.ports.FleetPort``."""

    def __init__(self, store: Store, files: Path) -> None:
        self.store = store
        self.files = files
        self.ready = False
        self.told: list[str] = []
        self.thopters: dict[str, ThopterView] = {}
        self.dials = MemoryDials(self._find)
        self.notes = MemoryNotes()
        self.egress = MemoryEgress()
        self.secrets = MemorySecrets()
        self.tokens = Tokens(lambda: store, SystemClock())
        self.page_sessions = PageSessions(lambda: store, SystemClock())
        self.pushes = MemoryPushes(self._find)
        self.talk = MemoryTalk(self._find)
        self.approvals = MemoryApprovals(self._find)
        self.usage = MemoryUsage(self._find)
        self.audit = MemoryAudit()
        self.budgets = MemoryBudgets(self._find)
        self.logs = MemoryLogs(self._find)
        self.pool = MemoryPool()
        self.snapshots = MemorySnapshots(self._find)
        self.sleep = MemorySleep(self._find)
        self.variables = MemoryVariables()

    def _find(self, name: str) -> ThopterView:
        found = [view for key, view in self.thopters.items() if key.startswith(name)]
        exact = self.thopters.get(name)
        if exact is not None or len(found) == 1:
            return exact or found[0]
        if found:
            raise Conflict(f"{name!r} is not unique", matches=[view.name for view in found])
        raise NotFound(f"there is no thopter {name!r}", hint="see 'thopter list'")

    def _file(self, name: str, path: str) -> Path:
        self._find(name)
        return self.files / path.replace("/", "_")[-200:]

    async def info(self) -> MemoryInfo:
        return MemoryInfo(len(self.thopters), "")

    async def start_run(self, req: RunRequest) -> Accepted:
        if req.prompt == "explode":
            raise RuntimeError("secret sk-ant-api03-abcdefghijklmnopqrstuvwxyz in a message")
        if req.prompt == "slow":
            await asyncio.sleep(1)
        if req.prompt == "note":
            await self.store.events.append([Event(kind="note", at_ms=1, data={"text": req.repo})])
        if req.prompt == "stuck" and not MARK.get()[1]:
            await self.store.events.append([Event(kind="note", at_ms=1, data={"stuck": req.name})])
            await asyncio.sleep(600)
        return await self.add(req.name, req.prompt)

    async def create(self, req: CreateRequest) -> Accepted:
        return await self.add(req.name, "")

    async def add(self, name: str, task: str) -> Accepted:
        name = check_name(name or f"box-{len(self.thopters)}")
        if name in self.thopters:
            raise Conflict(f"{name} exists already")
        box = new_id("box")
        self.thopters[name] = ThopterView(
            name=name, id=box, owner="me", provider="memory", box_state="ready", state="working", task=task
        )
        flow = new_id("flow")
        token, again = MARK.get()
        data = {"name": name, "token": token, "again": again}
        await self.store.events.append([Event(kind="box.created", at_ms=1, box=box, flow=flow, data=data)])
        return Accepted(flow=flow, name=name, box=box)

    async def destroy(self, name: str) -> Accepted:
        view = self._find(name)
        del self.thopters[view.name]
        data = {"name": view.name}
        await self.store.events.append([Event(kind="box.destroyed", at_ms=1, box=view.id, data=data)])
        return Accepted(flow=new_id("flow"), name=view.name, box=view.id)

    async def views(self, include_gone: bool = False) -> list[ThopterView]:
        return list(self.thopters.values())

    async def detail(self, name: str) -> ThopterDetail:
        return ThopterDetail(view=self._find(name))

    async def tell(self, name: str, req: TellRequest) -> TellResult:
        self._find(name)
        if req.receipt_timeout_ms == 0:
            raise TimedOut("no receipt came")
        self.told.append(req.text)
        return TellResult(receipt="taken", evidence=str(len(self.told)))

    async def interrupt(self, name: str) -> None:
        self._find(name)

    async def freeze(self, name: str) -> None:
        self._find(name)

    async def thaw(self, name: str) -> None:
        self._find(name)

    async def transcript(self, name: str, after: int, limit: int, last: int) -> TranscriptPage:
        self._find(name)
        texts = [f"{n} \ud800 <b>\x1b[31m" for n in range(after, after + min(limit, 3))]
        entries = [Entry(session="s", key=t, at_ms=1, role=Role.USER, summary=t) for t in texts]
        return TranscriptPage(entries=entries, next=after + len(entries), total=last)

    async def check(self, name: str) -> CheckResult:
        self._find(name)
        return CheckResult(tmux=True, agent=True, box=True)

    async def screen(self, name: str) -> str:
        return self._find(name).name

    @property
    def works(self) -> MemoryFleet:
        """The part of the port that is about work: here, too."""
        return self

    async def diff(self, name: str, checkout: str) -> DiffResult:
        self._find(name)
        return DiffResult(diff="", stat="", commits=0, dirty=0)

    async def changes(self, name: str, checkout: str) -> ChangeList:
        self._find(name)
        return ChangeList(files=[], commits=0, dirty=0)

    async def change(self, name: str, checkout: str, file: str, context: int) -> FileDiff:
        self._find(name)
        return FileDiff(id=file, path=name_of(file).decode("utf-8", "replace"), diff="")

    async def pull(self, name: str, wip: bool, checkout: str) -> PullInfo:
        view = self._find(name)
        return PullInfo(branch=f"thopter/{view.name}", head="h", base="b", commits=1, dirty=0, wip=wip)

    async def bundle(self, name: str, checkout: str) -> AsyncIterator[bytes]:
        self._find(name)
        for n in range(20):
            yield bytes([n]) * 1000

    @asynccontextmanager
    async def exec(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None,
        cwd: str | None,
        pty: tuple[int, int] | None,
        stdin: bool,
    ) -> AsyncIterator[Session]:
        self._find(name)
        master, slave = os.openpty() if pty else (None, None)
        piped = slave if slave is not None else asyncio.subprocess.PIPE
        if master is not None and pty is not None:
            ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", *pty, 0, 0))
        given = piped if stdin or slave is not None else asyncio.subprocess.DEVNULL
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=given, stdout=piped, stderr=piped, env=env, cwd=cwd, start_new_session=True
            )
        except OSError as e:
            raise NotFound(f"{argv[0]!r} can't be run: {e.strerror}") from None
        finally:
            if slave is not None:
                os.close(slave)
        session = Session(process, master, stdin)
        try:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(session.read())
                try:
                    yield session
                finally:
                    await session.signal("KILL")
                    reading.cancel()
        finally:
            await process.wait()
            if master is not None:
                os.close(master)

    async def put(self, name: str, path: str, body: AsyncIterator[bytes]) -> int:
        target = self._file(name, path)
        new = target.with_suffix(".new")
        size = 0
        with new.open("wb") as file:
            async for chunk in body:
                size += file.write(chunk)
        new.replace(target)
        return size

    async def fetch(self, name: str, path: str) -> AsyncIterator[bytes]:
        target = self._file(name, path)
        if not target.exists():
            raise NotFound(f"there is no file {path!r}")
        with target.open("rb") as file:
            while data := file.read(1 << 20):
                yield data
                if path.endswith("broken"):
                    raise NotFound("it vanished in the middle")

    async def flow(self, flow_id: str) -> FlowView:
        if not flow_id.startswith("flow_"):
            raise NotFound(f"there is no flow {flow_id!r}")
        return FlowView(id=flow_id, kind="fly", status="done", steps=[Step(name="a", status="done")])

    async def doctor(self) -> list[Check]:
        return [Check(name="memory", level="ok", text="it is all in memory")]

    async def leaks(self) -> list[Leak]:
        return [Leak(kind="process", what="none really")]

    async def sweep(self) -> list[Leak]:
        return []


class MemoryInside:
    """See ``thopter.hub.ports.Composition``. ``TEST_*`` in the environment slow it down or break it."""

    def __init__(self, paths: Paths, settings: Settings) -> None:
        self._paths = paths
        self.reloaded: list[str] = []

    async def start(self) -> None:
        if os.environ.get("TEST_FAIL"):
            raise Conflict("the database is of a newer version", hint="update thopter")
        if os.environ.get("TEST_BUG"):
            raise KeyError("sk-ant-api03-abcdefghijklmnopqrstuvwxyz")
        await asyncio.sleep(float(os.environ.get("TEST_START_SECONDS", "0")))
        self.store = await Store.open(self._paths.state / "hub.db")
        self.events = self.store.events
        self.idempotency = self.store.idempotency
        files = self._paths.state / "files"
        files.mkdir(exist_ok=True)
        self.fleet = MemoryFleet(self.store, files)
        recovery = float(os.environ.get("TEST_READY_SECONDS", "0"))
        asyncio.get_running_loop().call_later(recovery, setattr, self.fleet, "ready", True)
        for n in range(int(os.environ.get("TEST_THOPTERS", "0"))):
            await self.fleet.add(f"thopter-{n:03}", "fix the login bug " * 4)

    async def stop(self) -> None:
        await self.store.close()

    async def reload(self, settings: Settings) -> None:
        level = settings.get("hub.log_level")
        await self.events.append([Event(kind="note", at_ms=1, data={"log_level": level})])

    @contextlib.contextmanager
    def mark(self, token: str, again: bool):
        before = MARK.set((token, again))
        try:
            yield
        finally:
            MARK.reset(before)
