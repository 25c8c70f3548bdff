"""Which agent of the box speaks: the process behind a hook, and what can be seen of such processes.

Several agents report through the same hooks. A hook that is a command names its own process, and the
agent is the nearest one above it that is no shell. One that comes by HTTP is traced to the process that
holds the other end of the connection; only when there are several it could be, as that costs a look at
their open files.
"""

from __future__ import annotations

import os
import socket
from typing import Any, Dict, List, Optional

from thopter.boxd import fields, procfs
from thopter.boxd.box import Box
from thopter.boxd.conn import Call, Channel, Handler
from thopter.boxd.fields import Request, bad
from thopter.boxd.loop import log
from thopter.boxd.procfs import Stat
from thopter.boxd.wire import to_text

_SHELLS = frozenset((b"sh", b"bash", b"dash", b"ash", b"ksh", b"zsh", b"busybox"))
_ABOVE = 8  # processes looked at from a hook's command upwards
_KNOWN = 32  # agents that are remembered
_ASKED = 64
_PANES = "#{pane_tty}\t#{session_name}:#{window_index}.#{pane_index}"


class Speakers:
    """The processes that have introduced themselves, kept in a file over restarts of boxd."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._path = box.config.run_dir + "/speakers"
        self._known: Dict[int, int] = {}  # pid -> started
        try:
            lines = procfs.read_small(self._path).decode("ascii", "replace").splitlines()
        except OSError:
            return  # nobody has spoken yet
        for line in lines[:_KNOWN]:
            pid, _, started = line.partition(" ")
            if pid.isdigit() and started.isdigit() and procfs.alive(int(pid), int(started)):
                self._known[int(pid)] = int(started)

    def introduced(self, pid: int) -> Dict[str, Any]:
        """What a hook's record says of the agent that ran the command ``pid``; ``here``: it is in the
        terminal of a run."""
        found = _agent_above(pid)
        if found is None:
            return {}
        if self._known.get(found.pid) != found.started:
            self._known[found.pid] = found.started
            self._keep()
        here = found.session in self._box.runs.terminals()
        return {"pid": found.pid, "started": found.started, "here": here}

    def at_the_other_end(self, sock: socket.socket) -> Dict[str, Any]:
        """The same for a connection; nothing when only one agent is there, or it can't be told."""
        known = {**self._known, **self._box.runs.agents()}
        if len(known) < 2 or sum(procfs.alive(pid, since) for pid, since in known.items()) < 2:
            return {}
        try:
            port = sock.getpeername()[1]
            inode = _socket_of(port, sock.getsockname()[1])
        except OSError:
            return {}
        wanted = b"socket:[%d]" % inode
        for pid, started in known.items():
            if inode and _holds(pid, wanted):
                return {"pid": pid, "started": started}
        return {}

    def _keep(self) -> None:
        living = {p: s for p, s in self._known.items() if procfs.alive(p, s)}
        self._known = dict(list(living.items())[-_KNOWN:])
        text = "".join(f"{pid} {started}\n" for pid, started in self._known.items())
        try:
            with open(self._path + ".new", "w", encoding="ascii") as file:
                file.write(text)
            os.rename(self._path + ".new", self._path)
        except OSError as e:
            log(f"who speaks will not be known after a restart: {e.strerror}")


def _agent_above(pid: int) -> Optional[Stat]:
    for _ in range(_ABOVE):
        found = procfs.stat(pid)
        if found is None or found.pid <= 1:
            return None
        try:
            program = procfs.read_small(f"/proc/{pid}/cmdline", 4096).split(b"\0", 1)[0]
        except OSError:
            return None
        if program.rsplit(b"/", 1)[-1].lstrip(b"-") not in _SHELLS:
            return found
        pid = found.ppid
    return None


def _socket_of(local: int, remote: int) -> int:
    """The inode of the loopback socket with these ports, 0 when it is not there."""
    ours, theirs = b"0100007F:%04X" % local, b"0100007F:%04X" % remote
    with open("/proc/net/tcp", "rb") as table:  # the kernel gives a page of it at a time
        for line in table:
            if ours in line:
                parts = line.split()
                if len(parts) > 9 and parts[1] == ours and parts[2] == theirs:
                    return int(parts[9])
    return 0


def _holds(pid: int, wanted: bytes) -> bool:
    folder = b"/proc/%d/fd" % pid
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    for name in names:
        try:
            if os.readlink(folder + b"/" + name) == wanted:
                return True
        except OSError:
            continue  # closed meanwhile
    return False


def open_programs(box: Box, channel: Channel, request: Request) -> Handler:
    """Serve ``programs``: of the given ``pids`` those that run, each with when it started, its parent,
    folder, command, terminal and tmux pane, and the run (``of``) whose agent it was started by; and the
    processes that runs' agents are (``runs``)."""
    pids = request.get("pids")
    if not isinstance(pids, list) or len(pids) > _ASKED or not all(_is_pid(p) for p in pids):
        raise bad(f"pids must be a list of at most {_ASKED} numbers of processes")

    async def work() -> Dict[str, Any]:
        found = [s for s in (procfs.stat(pid) for pid in pids) if s is not None and s.state not in "ZX"]
        panes: Dict[str, str] = {}
        if any(s.tty for s in found):
            listed = await box.tmux.run("list-panes", "-a", "-F", _PANES)
            if listed.code == 0:
                lines = listed.out.decode("utf-8", "replace").splitlines()
                panes = dict(line.split("\t", 1) for line in lines if "\t" in line)
        below = {name: procfs.descendants([pid]) for pid, name in box.runs.named().items()}
        runs = {name: pid for pid, name in box.runs.named().items()}
        return {"programs": [_shown(s, panes, below) for s in found], "runs": runs}

    return Call(channel, work())


def _is_pid(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 < value < 1 << 31


def _shown(one: Stat, panes: Dict[str, str], below: Dict[str, Any]) -> Dict[str, Any]:
    try:
        args = procfs.read_small(f"/proc/{one.pid}/cmdline", 4096).rstrip(b"\0").replace(b"\0", b" ")
        cwd = os.readlink(b"/proc/%d/cwd" % one.pid)
    except OSError:
        args, cwd = b"", b""
    tty = _terminal(one.tty)
    of = [name for name, pids in below.items() if one.pid in pids] or _marked(one.pid)
    return {
        "pid": one.pid, "ppid": one.ppid, "started": one.started, "tty": tty,
        "pane": panes.get(tty, "")[:256], "of": of[0] if of else "",
        "cwd": fields.clip(to_text(cwd), 4096)[0], "args": fields.clip(to_text(args), 4096)[0],
    }  # fmt: skip


def _marked(pid: int) -> List[str]:
    """The run that an agent's program passed on to what it started, also to what outlived it."""
    try:
        environment = procfs.read_small(f"/proc/{pid}/environ", 1 << 20)
    except OSError:
        return []
    mark = b"THOPTER_RUN="
    return [to_text(e[len(mark) :])[:128] for e in environment.split(b"\0") if e.startswith(mark)]


def _terminal(number: int) -> str:
    """``/dev/pts/3`` for the device number of a pseudo terminal; empty for others and none."""
    major, minor = (number >> 8) & 0xFFF, (number & 0xFF) | ((number >> 12) & 0xFFF00)
    return f"/dev/pts/{minor + ((major - 136) << 8)}" if 136 <= major <= 143 else ""
