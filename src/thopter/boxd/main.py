"""boxd itself: serves a listening socket until its process is ended.

Everything is imported up front, encodings included: in a box made by the zygote the standard
library is not reachable any more once the box's root is in place.
"""

from __future__ import annotations

import codecs
import gc
import os
import signal
import socket
import time
from functools import partial
from typing import Any, Callable, Dict, Mapping, Optional, Set

from thopter.boxd import execs, files, heir, hooks, journal_op, procs, relay, speakers, tail, tmux, wire
from thopter.boxd.accept import Acceptor
from thopter.boxd.box import Box
from thopter.boxd.config import Config
from thopter.boxd.conn import Channel, Connection, Handler, Immediate, Opener
from thopter.boxd.fields import OpError, Request
from thopter.boxd.loop import log
from thopter.boxd.runs import Runs
from thopter.boxd.said import Said

VERSION = "1"
for _name in ("utf-8", "ascii", "latin-1", "idna"):
    codecs.lookup(_name)

_OPS: Dict[str, Callable[[Box, Channel, Request], Handler]] = {
    "exec": execs.open_exec,
    "put": files.Put,
    "fetch": files.Fetch,
    "stat": files.open_stat,
    "read_files": files.ReadFiles,
    "tmux.start": tmux.open_start,
    "tmux.keys": tmux.open_keys,
    "tmux.capture": tmux.open_capture,
    "tmux.list": tmux.open_list,
    "journal": journal_op.Follow,
    "tail": tail.Tail,
    "hook.answer": hooks.open_answer,
    "listen": relay.Listen,
    "dial": relay.Dial,
    "procs": procs.open_procs,
    "programs": speakers.open_programs,
}


class Server:
    """All connections of one boxd and the ops they can ask for."""

    def __init__(
        self, listener: socket.socket, config: Config, hook_listener: Optional[socket.socket] = None
    ) -> None:
        """Take over what an earlier boxd left: end its processes, adopt its runs."""
        self.box = box = Box(config)
        killed = box.ledger.sweep()
        if killed:
            log(f"ended {killed} process(es) that an earlier boxd left running")
        box.journal.append("boot", boot=box.boot, pid=os.getpid())
        box.tmux = tmux.Tmux(box)
        box.runs = Runs(box)
        box.said = Said(box)
        box.speakers = speakers.Speakers(box)
        box.hooks = hooks.Hooks(box, hook_listener)
        self._connections: Set[Connection] = set()
        self._ops: Dict[str, Opener] = {name: partial(opener, box) for name, opener in _OPS.items()}
        self._ops["run.start"] = box.runs.open_start
        self._ops["run.stop"] = box.runs.open_stop
        self._ops["run.inherit"] = partial(heir.open_inherit, box.runs)
        self._immediate: Dict[str, Immediate] = {"hello": self._hello, "ping": _ping}
        self._acceptor = Acceptor(box.loop, listener, self._take)
        box.loop.soon(box.runs.adopt)

    def run(self) -> None:
        """Serve until the loop is stopped."""
        self.box.loop.run()

    def _take(self, sock: socket.socket) -> None:
        self._connections.add(
            Connection(self.box.loop, sock, self._ops, self._immediate, self._connections.discard)
        )

    def _hello(self, request: Request) -> Dict[str, Any]:
        if request.get("protocol") != wire.PROTOCOL:
            raise OpError("unsupported", f"this boxd speaks protocol {wire.PROTOCOL} only")
        return {
            "protocol": wire.PROTOCOL,
            "version": VERSION,
            "time_ms": time.time_ns() // 1_000_000,
            "ops": sorted([*self._ops, *self._immediate]),
            **self.box.facts(),
        }


def _ping(_request: Request) -> Dict[str, Any]:
    return {"time_ms": time.time_ns() // 1_000_000}


def own_descriptors() -> None:
    """Make 0, 1, 2 exist and all others close on exec: children get nothing of ours."""
    while True:
        fd = os.open("/dev/null", os.O_RDWR)
        if fd > 2:
            os.close(fd)
            break
        os.set_inheritable(fd, True)
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2:
            try:
                os.set_inheritable(fd, False)
            except OSError:
                continue  # the one that listed them


def own_signals() -> None:
    """Forget what the parent set up: default handlers, nothing blocked, no wake-up descriptor.
    SIGPIPE is ignored, so that writing to somebody who has gone is an error, not death."""
    signal.set_wakeup_fd(-1)
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGCHLD,
        signal.SIGUSR1,
        signal.SIGUSR2,
    ):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def serve(
    listener: socket.socket, config: Mapping[str, Any], hook_listener: Optional[socket.socket] = None
) -> None:
    """Serve ``listener`` (a listening stream socket) in this process, which it takes over
    (descriptors, signals, umask, folder); does not return.

    Raises ValueError for a bad configuration, OSError when the folders can't be made.
    """
    checked = Config(config)
    own_descriptors()
    os.umask(0o022)
    os.chdir("/")
    own_signals()
    gc.collect()
    gc.freeze()  # what is shared with the parent stays shared: collections don't touch it
    Server(listener, checked, hook_listener).run()
