"""The exec op: a process with its streams, or with a terminal of its own, on one channel."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios
from typing import Any, Dict, List, Optional

from thopter.boxd import fields, procfs, spawn
from thopter.boxd.box import Box
from thopter.boxd.conn import Channel, Handler
from thopter.boxd.fields import Request, bad
from thopter.boxd.loop import Timer
from thopter.boxd.pump import Sink, Source
from thopter.boxd.wire import STDERR, STDIN, STDOUT

_PTY_LINGER = 0.3  # seconds for a terminal's last output when somebody still holds it open
_EOT = b"\x04"


def open_exec(box: Box, channel: Channel, request: Request) -> Handler:
    """Serve ``exec``; see docs/reference/wire.md for its fields and messages."""
    return Exec(box, channel, request)


class Exec(Handler):
    """One process from its start to its end.

    The end comes when the process itself has ended and all it wrote is sent; what it left running
    in the background goes on (as with docker exec), unless the timeout, a cancel or the loss of
    the connection ended it: these kill the whole session.
    """

    def __init__(self, box: Box, channel: Channel, request: Request) -> None:
        self._box, self._channel = box, channel
        self._sources: List[Source] = []
        self._stdin: Optional[Sink] = None
        self._master = -1
        self._status: Optional[int] = None
        self._notes: Dict[str, Any] = {}
        self._timer: Optional[Timer] = None
        argv = fields.argv(request)
        env = fields.environment(request, box.env)
        cwd = fields.path(request, "cwd") if request.get("cwd") else box.home
        timeout = fields.integer(request, "timeout_ms", 0, 0, 1 << 40)
        size = _size(request.get("pty"))
        pid = self._start_tty(argv, env, cwd, size) if size else self._start_pipes(argv, env, cwd, request)
        self._child = spawn.Child(box.loop, box.ledger, pid, self._ended)
        channel.send({"started": {"pid": pid}})
        if timeout:
            self._timer = box.loop.later(timeout / 1000, self._time_over)

    def _start_pipes(self, argv: List[bytes], env: Dict[bytes, bytes], cwd: bytes, request: Request) -> int:
        merge, has_stdin = fields.flag(request, "merge", False), fields.flag(request, "stdin", True)
        theirs: List[int] = []
        ours: List[int] = []
        try:
            if has_stdin:
                there, here = os.pipe2(os.O_CLOEXEC)
                ours.append(here)
            else:
                there = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            theirs.append(there)
            for _ in range(1 if merge else 2):
                here, there = os.pipe2(os.O_CLOEXEC)
                ours.append(here)
                theirs.append(there)
            pid = spawn.start(argv, env, cwd, (theirs[0], theirs[1], theirs[-1]))
        except BaseException:
            _close(ours)
            raise
        finally:
            _close(theirs)
        loop, channel = self._box.loop, self._channel
        if has_stdin:
            self._stdin = Sink(loop, ours.pop(0), channel, STDIN, _nothing)
        for stream, fd in zip((STDOUT, STDERR), ours):
            self._sources.append(Source(loop, fd, channel, stream, self._source_ended))
        return pid

    def _start_tty(self, argv: List[bytes], env: Dict[bytes, bytes], cwd: bytes, size: bytes) -> int:
        master, slave = os.openpty()
        try:
            fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
            pid = spawn.start(argv, env, cwd, None, os.ttyname(slave))
        except BaseException:
            os.close(master)
            raise
        finally:
            os.close(slave)
        loop, channel = self._box.loop, self._channel
        self._master = master
        keyboard = fcntl.fcntl(master, fcntl.F_DUPFD_CLOEXEC, 3)
        self._stdin = Sink(loop, keyboard, channel, STDIN, _nothing)
        self._sources.append(Source(loop, master, channel, STDOUT, self._source_ended))
        return pid

    def on_message(self, body: Request) -> None:
        """``eof``, ``signal`` and ``resize``; anything else is ignored."""
        if body.get("eof") == 0 and self._stdin is not None:
            if self._master >= 0:
                self._stdin.feed(_EOT)
            else:
                self._stdin.end()
        elif "signal" in body:
            self._signal(_signal_number(body["signal"]))
        elif "resize" in body and self._tty_open():
            size = body["resize"]
            if isinstance(size, list) and len(size) == 2:
                packed = _size({"rows": size[0], "cols": size[1]})
                if packed:
                    fcntl.ioctl(self._master, termios.TIOCSWINSZ, packed)

    def on_data(self, channel: Channel, stream: int, data: bytes) -> None:
        """Input for the process; without stdin it is discarded."""
        if stream == STDIN and self._stdin is not None:
            self._stdin.feed(data)
        else:
            channel.consumed(stream, len(data))

    def on_room(self) -> None:
        """See :class:`Handler`."""
        for source in self._sources:
            source.resume()

    def on_cancel(self) -> None:
        """Kill the session; the end says ``cancelled``."""
        self._notes["cancelled"] = True
        if self._status is None:
            self._child.kill()
        else:
            self._finish()

    def on_lost(self) -> None:
        """Kill the session: nobody is left who could see or stop it."""
        if self._status is None:
            self._child.kill()
        self._release()

    def _tty_open(self) -> bool:
        return self._master >= 0 and self._sources[0].open

    def _signal(self, number: int) -> None:
        group = 0
        if self._tty_open():
            try:
                group = os.tcgetpgrp(self._master)
            except OSError:
                group = 0
        if group > 0 and self._status is None:
            procfs.signal_group(group, number)
        else:
            self._child.signal(number)

    def _time_over(self) -> None:
        if self._status is None:
            self._notes["timeout"] = True
            self._child.kill()

    def _ended(self, status: int) -> None:
        self._status = status
        if self._timer is not None:
            self._timer.cancel()
        if not self._channel.open or self._notes.get("cancelled"):
            self._finish()
        elif self._master >= 0:
            # A terminal delivers late: its end is the hang-up, which others may delay.
            self._timer = self._box.loop.later(_PTY_LINGER, self._linger_over)
            self._source_ended()
        else:
            for source in self._sources:
                source.finish()
            self._source_ended()

    def _linger_over(self) -> None:
        for source in self._sources:
            source.finish()

    def _source_ended(self) -> None:
        if self._status is not None and not any(s.open for s in self._sources):
            self._finish()

    def _finish(self) -> None:
        self._release()
        if self._channel.open:
            assert self._status is not None
            self._channel.end({**spawn.outcome(self._status), **self._notes})

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for source in self._sources:
            source.close()
        if self._stdin is not None:
            self._stdin.close()


def _nothing() -> None:
    return None


def _close(fds: List[int]) -> None:
    for fd in fds:
        os.close(fd)


def _size(pty: Any) -> bytes:
    if pty is None:
        return b""
    if not isinstance(pty, dict):
        raise bad("pty must be null or {rows, cols}")
    rows = fields.integer(pty, "rows", 24, 1, 4096)
    cols = fields.integer(pty, "cols", 80, 1, 4096)
    return struct.pack("HHHH", rows, cols, 0, 0)


def _signal_number(name: Any) -> int:
    if isinstance(name, int) and not isinstance(name, bool) and 1 <= name < signal.NSIG:
        return name
    if isinstance(name, str):
        full = name if name.startswith("SIG") else "SIG" + name
        number = getattr(signal, full, None)
        if isinstance(number, signal.Signals):
            return int(number)
    raise bad("signal must be a name like TERM or a number")
