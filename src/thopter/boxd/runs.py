"""Runs: an agent's process in the box's tmux, from its start to its recorded end.

Facts live in files below ``<run_dir>/runs/<run>/`` written by the launcher, and in the journal; a
new boxd adopts what it finds there. ``run.started`` and ``run.exited`` are journaled exactly once
each: a marker file says that it was done, and where a boxd died in between, the journal itself.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
from typing import Any, Dict, List, Optional, Set

from thopter.boxd import fields, procfs, spawn, tmux, wire
from thopter.boxd.box import Box
from thopter.boxd.conn import Call, Channel, Handler
from thopter.boxd.fields import OpError, Request, bad
from thopter.boxd.heir import WAS
from thopter.boxd.launcher import run_script, write_script
from thopter.boxd.loop import describe, log
from thopter.boxd.task import Lock, Promise, Task, sleep

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_APPEAR = 15.0  # seconds for the agent's process to appear
_NOTED = 3.0  # seconds for the launcher to note the end after the process is gone
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 8
_INFO = struct.Struct("<QQ11Ii")


class Run:
    """One run known to this boxd."""

    def __init__(self, name: str, folder: str) -> None:
        self.name = name
        self.folder = folder
        self.session = ""
        self.pid = 0
        self.observed = False
        self.started = 0  # ticks since boot: tells a reused pid apart
        self.end: Optional[Dict[str, Any]] = None  # exit | signal | lost
        self._waiting: List[Promise[None]] = []

    def file(self, name: str) -> str:
        """A path in its folder."""
        return f"{self.folder}/{name}"

    def read(self, name: str) -> bytes:
        """A small file of its folder, whole lines only; empty when it is not there (yet)."""
        try:
            content = procfs.read_small(self.file(name))
        except OSError:
            return b""
        return content if content.endswith(b"\n") else b""

    def mark(self, name: str) -> None:
        """Make a marker file."""
        os.close(os.open(self.file(name), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def marked(self, name: str) -> bool:
        """True when the marker file is there."""
        return os.path.exists(self.file(name))

    def finish(self, end: Dict[str, Any]) -> None:
        """Set how it ended and wake who waits for that."""
        self.end = end
        waiting, self._waiting = self._waiting, []
        for promise in waiting:
            promise.keep(None)

    async def ended(self, box: Box, seconds: float) -> bool:
        """Wait for the end; False when it did not come in time."""
        if self.end is None:
            promise: Promise[None] = Promise()
            self._waiting.append(promise)
            timer = box.loop.later(seconds, lambda: promise.keep(None))
            try:
                await promise
            finally:
                timer.cancel()
        return self.end is not None


class Runs:
    """All runs of the box."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._folder = box.config.run_dir + "/runs"
        self._runs: Dict[str, Run] = {}
        self._lock = Lock()
        os.makedirs(self._folder, mode=0o700, exist_ok=True)

    def adopt(self) -> None:
        """Take over what an earlier boxd left: running agents, and ends nobody has journaled."""
        started: Dict[str, Any] = {}
        exited: Set[str] = set()
        for record in self._box.journal.scan("run."):
            if record["kind"] == "run.started":
                started[str(record.get("run"))] = record.get("pid")
            elif record["kind"] == "run.exited":
                exited.add(str(record.get("run")))
        for name in sorted(os.listdir(self._folder)):
            run = Run(name, f"{self._folder}/{name}")
            if not _NAME.fullmatch(name) or not os.path.isdir(run.folder) or os.path.islink(run.folder):
                continue
            self._runs[name] = run
            run.session = run.read("session").decode("ascii", "replace").strip()
            if name in started and not run.marked("started"):
                run.mark("started")
            if name in exited and not run.marked("exited"):
                run.mark("exited")
            if self._appeared(run):
                self._observe(run)
            elif run.marked("once"):
                self._background(self._await_pid(run))
        for name, pid in started.items():
            if name not in exited and name not in self._runs:
                # Its folder is gone: the box was started anew, and nothing of it can be alive.
                self._box.journal.append("run.exited", run=name, pid=pid, lost=True)

    @property
    def folder(self) -> str:
        """Where the folders of runs are."""
        return self._folder

    def agents(self) -> Dict[int, int]:
        """The agents of runs that go on: pid -> started."""
        return {r.pid: r.started for r in self._runs.values() if r.pid and r.end is None}

    def named(self) -> Dict[int, str]:
        """The same with the names of their runs."""
        return {r.pid: r.name for r in self._runs.values() if r.pid and r.end is None}

    def terminals(self) -> Set[int]:
        """The sessions (of processes) that runs were started in, also those whose agent has ended."""
        noted = [procfs.parse_stat(r.read("stat")) for r in self._runs.values()]
        return {found.session for found in noted if found is not None}

    def checked(self, name: str) -> str:
        """``name`` when it can be a run's; raises OpError."""
        if not _NAME.fullmatch(name):
            raise bad("run must be 1 to 128 of letters, digits, '_', '.' and '-'")
        return name

    def get_or_make(self, name: str) -> Run:
        """The run ``name``, known or not."""
        return self._runs.get(name) or Run(name, f"{self._folder}/{name}")

    def takes(self, run: Run) -> bool:
        """Watch a run whose process is there already; False when it is not."""
        if not self._appeared(run):
            return False
        self._runs[run.name] = run
        self._observe(run)
        return True

    def open_start(self, channel: Channel, request: Request) -> Handler:
        """Serve ``run.start``."""
        name, session = self.checked(fields.string(request, "run")), tmux.session_name(request, "agent")
        argv, (cols, rows) = fields.argv(request), tmux.size(request)
        env = {**fields.environment(request, self._box.env)}
        cwd = fields.folder(request, "cwd", self._box.home)
        settle = fields.integer(request, "settle_ms", 300, 0, 60_000) / 1000
        env.setdefault(b"THOPTER_RUN", name.encode("ascii"))

        async def work() -> Dict[str, Any]:
            await self._lock.acquire()
            try:
                run = self._runs.get(name) or Run(name, f"{self._folder}/{name}")
                if not run.pid:
                    run.session = run.session or session
                    await self._launch(run, run_script(run.folder, argv, env, cwd), cwd, cols, rows)
            finally:
                self._lock.release()
            await run.ended(self._box, settle)
            return await self._report(run)

        return Call(channel, work())

    def open_stop(self, channel: Channel, request: Request) -> Handler:
        """Serve ``run.stop``: TERM, then KILL after ``grace_ms``, then whatever it left behind."""
        name = self.checked(fields.string(request, "run"))
        grace = fields.integer(request, "grace_ms", 5000, 0, 600_000) / 1000
        run = self._runs.get(name)
        if run is None or not run.pid:
            raise OpError("not_found", f"there is no run {name} here")
        return Call(channel, self._stop(run, grace))

    async def _stop(self, run: Run, grace: float) -> Dict[str, Any]:
        family: Dict[int, int] = {}
        if run.end is None:
            family = self._family(run)
            if procfs.alive(run.pid, run.started):
                procfs.kill([run.pid], signal.SIGTERM)
            if not await run.ended(self._box, grace):
                family.update(self._family(run))
                if procfs.alive(run.pid, run.started):
                    procfs.kill([run.pid], signal.SIGKILL)
                await run.ended(self._box, _NOTED + 5)
        family.update(self._family(run))
        procfs.kill([p for p, since in family.items() if procfs.alive(p, since)], signal.SIGKILL)
        if run.end is None:
            raise OpError(
                "not_now", f"the agent of run {run.name} can't be killed (frozen, or stuck in the kernel)"
            )
        return dict(run.end)

    def _family(self, run: Run) -> Dict[int, int]:
        """What the agent started, by parentage and by the variable that marks it: pid → start.

        Only among the descendants of our init: without a pid namespace others' processes are seen.
        """
        names = [run.name.encode("ascii"), *run.read(WAS).split()]
        marked = {pid for name in names for pid in procfs.with_variable(b"THOPTER_RUN=" + name)}
        marked &= procfs.descendants([os.getppid()])
        pids = (procfs.descendants([run.pid]) | marked) - {run.pid}
        return {s.pid: s.started for s in (procfs.stat(pid) for pid in pids) if s is not None}

    async def _launch(self, run: Run, script: bytes, cwd: bytes, cols: int, rows: int) -> None:
        self._runs[run.name] = run
        os.makedirs(run.folder, mode=0o700, exist_ok=True)
        if not run.marked("once") and not await self._launched_already(run):
            for other in self._runs.values():
                if other is not run and other.session == run.session and other.pid and other.end is None:
                    del self._runs[run.name]
                    raise OpError("conflict", f"run {other.name} is at work in session {run.session}")
            write_script(run.file("launch.sh"), script)
            with open(run.file("session"), "w", encoding="ascii") as file:
                file.write(run.session + "\n")
            await self._start_pane(run, wire.to_text(cwd), cols, rows)
        if not await self._await_pid(run):
            screen = await self._screen(run)
            raise OpError("failed", "the agent's process did not appear", screen=screen)
        await self._await_exec(run)

    async def _start_pane(self, run: Run, cwd: str, cols: int, rows: int) -> None:
        server, script = self._box.tmux, run.file("launch.sh")
        if (await server.run("has-session", "-t", "=" + run.session)).code != 0:
            await server.new_session(run.session, script, cwd, cols, rows)
        else:  # what is there is the shell that an earlier run left
            target = tmux.pane(run.session)
            await server.must("respawn-pane", "-k", "-t", target, "-c", cwd, "--", "/bin/sh", script)

    async def _launched_already(self, run: Run) -> bool:
        """True when an earlier boxd died between asking tmux and seeing the process."""
        if not run.marked("launch.sh"):
            return False
        target = tmux.pane(run.session)
        result = await self._box.tmux.run("list-panes", "-t", target, "-F", "#{pane_start_command}")
        return result.code == 0 and wire.to_bytes(run.folder + "/launch.sh") in result.out

    async def _await_pid(self, run: Run) -> bool:
        pause, waited = 0.002, 0.0
        while not self._appeared(run):
            if waited > _APPEAR:
                return False
            await sleep(self._box.loop, pause)
            waited += pause
            pause = min(0.1, pause * 1.2)
        self._observe(run)
        return True

    async def _await_exec(self, run: Run) -> None:
        """Wait until the process is the agent, not the shell that becomes it."""
        pause = 0.001
        while run.end is None and procfs.alive(run.pid, run.started) and pause < 1:
            try:
                now = procfs.read_small(f"/proc/{run.pid}/cmdline", 64)
            except OSError:
                return
            if not now.startswith((b"/bin/sh\0-c\0read -r", b"env\0-i\0--\0")):
                return
            await sleep(self._box.loop, pause)
            pause *= 1.5

    def _appeared(self, run: Run) -> bool:
        pid = run.read("pid").strip()
        noted = procfs.parse_stat(run.read("stat"))
        if not pid.isdigit() or noted is None or noted.pid != int(pid):
            return False
        run.pid, run.started = noted.pid, noted.started
        return True

    def _observe(self, run: Run) -> None:
        """Journal its start if nobody has, and its end when that comes."""
        if run.observed:
            return
        run.observed = True
        if not run.marked("started"):
            self._box.journal.append("run.started", run=run.name, pid=run.pid)
            run.mark("started")
        watch: Optional[spawn.Watch] = None
        gone = False

        def ended() -> None:
            nonlocal gone
            gone = True
            fd = os.dup(watch.fd) if watch is not None and watch.fd >= 0 else -1
            self._background(self._record_end(run, fd))

        watch = spawn.Watch(self._box.loop, run.pid, ended, lambda: not procfs.alive(run.pid, run.started))
        now = procfs.stat(run.pid)
        if not gone and (now is None or now.started != run.started):
            watch.cancel()  # the number may belong to another process by now
            self._background(self._record_end(run, -1))

    async def _record_end(self, run: Run, pidfd: int) -> None:
        try:
            end = await self._find_end(run, pidfd)
        finally:
            if pidfd >= 0:
                os.close(pidfd)
        if not run.marked("exited"):
            self._box.journal.append("run.exited", run=run.name, pid=run.pid, **end)
            run.mark("exited")
        run.finish(end)

    async def _find_end(self, run: Run, pidfd: int) -> Dict[str, Any]:
        pause, waited = 0.002, 0.0
        while waited < _NOTED:
            status = _exit_status(pidfd)
            if status is not None:
                return dict(spawn.outcome(status))
            noted = run.read("exit").strip()
            if noted.isdigit():
                return _from_shell(int(noted))
            await sleep(self._box.loop, pause)
            waited += pause
            pause = min(0.1, pause * 1.5)
        return {"lost": True}

    async def _report(self, run: Run) -> Dict[str, Any]:
        if run.end is None:
            return {"pid": run.pid}
        how = (
            f"exit code {run.end['exit']}" if "exit" in run.end
            else f"signal {run.end['signal']}" if "signal" in run.end
            else "an end nobody saw"
        )  # fmt: skip
        raise OpError(
            "failed",
            f"the agent has ended with {how}",
            pid=run.pid,
            screen=await self._screen(run),
            **run.end,
        )

    async def _screen(self, run: Run) -> str:
        return fields.clip(await self._box.tmux.screen(tmux.pane(run.session)), 64 << 10, keep_end=True)[0]

    def _background(self, work: Any) -> None:
        Task(work, _note_defect)


def _note_defect(_value: Any, error: Optional[Exception]) -> None:
    if error is not None:
        log("defect: " + describe(error))


def _exit_status(pidfd: int) -> Optional[int]:
    """The wait status of a reaped process that is not our child (Linux 6.15 and newer)."""
    if pidfd < 0:
        return None
    info = bytearray(_INFO.pack(_PIDFD_INFO_EXIT, *([0] * 13)))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info, True)
    except OSError:
        return None
    values = _INFO.unpack(info)
    return int(values[-1]) if values[0] & _PIDFD_INFO_EXIT else None


def _from_shell(code: int) -> Dict[str, Any]:
    """A shell says 128 + n for signal n; a program that itself exits with such a code can't be
    told apart without the kernel's help (:func:`_exit_status`)."""
    if 128 < code < 128 + signal.NSIG:
        return {"signal": code - 128}
    return {"exit": code}
