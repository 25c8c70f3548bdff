"""boxd itself: serves a listening socket until told to stop.

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
from typing import Any, Dict, Mapping, Set

from thopter.boxd import execs, files, wire
from thopter.boxd.box import Box
from thopter.boxd.config import Config
from thopter.boxd.conn import Connection, Immediate, Opener
from thopter.boxd.fields import OpError, Request
from thopter.boxd.loop import READ, log

VERSION = "1"
for _name in ("utf-8", "ascii", "latin-1", "idna"):
    codecs.lookup(_name)


class Server:
    """All connections of one boxd and the ops they can ask for."""

    def __init__(self, listener: socket.socket, config: Config) -> None:
        self.box = Box(config)
        self._listener = listener
        self._connections: Set[Connection] = set()
        self._ops: Dict[str, Opener] = {
            name: partial(opener, self.box)
            for name, opener in (
                ("exec", execs.open_exec),
                ("put", files.Put),
                ("fetch", files.Fetch),
                ("stat", files.open_stat),
                ("read_files", files.ReadFiles),
            )
        }
        self._immediate: Dict[str, Immediate] = {"hello": self._hello, "ping": _ping}

    def run(self) -> None:
        """Serve until the loop is stopped."""
        killed = self.box.ledger.sweep()
        if killed:
            log(f"ended {killed} process(es) that an earlier boxd left running")
        self._listener.setblocking(False)
        self.box.loop.watch(self._listener.fileno(), READ, self._accept)
        self.box.loop.run()

    def _accept(self, _events: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        connection = Connection(self.box.loop, sock, self._ops, self._immediate, self._connections.discard)
        self._connections.add(connection)

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


def _own_descriptors() -> None:
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


def serve(listener: socket.socket, config: Mapping[str, Any]) -> None:
    """Serve ``listener`` (a listening stream socket) in this process; returns only on SIGTERM.

    Raises ValueError for a bad configuration, OSError when the folders can't be made.
    """
    _own_descriptors()
    os.umask(0o022)
    os.chdir("/")
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    gc.collect()
    gc.freeze()  # what is shared with the parent stays shared: collections don't touch it
    server = Server(listener, Config(config))
    server.run()
