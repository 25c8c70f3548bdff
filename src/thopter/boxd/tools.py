"""Running a helper program (tmux) to its end and collecting what it says."""

from __future__ import annotations

import os
from collections import deque
from typing import Callable, Deque, Dict, List, NamedTuple, Optional

from thopter.boxd import spawn
from thopter.boxd.loop import GONE, READ, WRITE, Loop
from thopter.boxd.task import Promise

_CAP = 8 << 20  # of output that is kept: the last part


class ToolResult(NamedTuple):
    """How a helper ended: ``code`` is its exit code, or minus the signal number."""

    code: int
    out: bytes
    err: bytes


class _Collect:
    def __init__(self, loop: Loop, fd: int, done: Callable[[], None]) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.chunks: Deque[bytes] = deque()
        self._size = 0
        self._loop, self._done = loop, done
        loop.watch(fd, READ, self._ready)

    def _ready(self, _events: int) -> None:
        try:
            chunk = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self.close()
            self._done()
            return
        self.chunks.append(chunk)
        self._size += len(chunk)
        while self._size > _CAP:
            self._size -= len(self.chunks.popleft())

    def close(self) -> None:
        if self.fd >= 0:
            self._loop.forget(self.fd)
            os.close(self.fd)
            self.fd = -1


class Tool:
    """One helper under way; ``promise`` is kept with its result. It may be killed at any time."""

    def __init__(
        self,
        loop: Loop,
        ledger: spawn.Ledger,
        argv: List[bytes],
        env: Dict[bytes, bytes],
        stdin: bytes = b"",
    ) -> None:
        self.promise: Promise[ToolResult] = Promise()
        self._loop = loop
        self._status: Optional[int] = None
        self._stdin = memoryview(stdin)
        read_in, self._write_in = os.pipe2(os.O_CLOEXEC)
        read_out, write_out = os.pipe2(os.O_CLOEXEC)
        read_err, write_err = os.pipe2(os.O_CLOEXEC)
        try:
            pid = spawn.start(argv, env, b"/", (read_in, write_out, write_err))
        except BaseException:
            for fd in (self._write_in, read_out, read_err):
                os.close(fd)
            raise
        finally:
            for fd in (read_in, write_out, write_err):
                os.close(fd)
        os.set_blocking(self._write_in, False)
        loop.watch(self._write_in, WRITE, self._feed)
        self._out = _Collect(loop, read_out, self._check)
        self._err = _Collect(loop, read_err, self._check)
        self._child = spawn.Child(loop, ledger, pid, self._ended)

    def kill(self) -> None:
        """End it now; the promise is not kept any more by output that somebody else holds open."""
        self._child.kill()
        self._close()

    def _feed(self, events: int) -> None:
        try:
            if self._stdin and not events & GONE:
                self._stdin = self._stdin[os.write(self._write_in, self._stdin) :]
                if self._stdin:
                    return
        except BlockingIOError:
            return
        except OSError:
            pass  # it does not want its input; its exit code will say why
        self._close_in()

    def _close_in(self) -> None:
        if self._write_in >= 0:
            self._loop.forget(self._write_in)
            os.close(self._write_in)
            self._write_in = -1

    def _ended(self, status: int) -> None:
        self._status = status
        self._close_in()
        self._check()

    def _check(self) -> None:
        if self._status is not None and self._out.fd < 0 and self._err.fd < 0:
            how = spawn.outcome(self._status)
            code = how["exit"] if "exit" in how else -how["signal"]
            self.promise.keep(ToolResult(code, b"".join(self._out.chunks), b"".join(self._err.chunks)))

    def _close(self) -> None:
        self._close_in()
        self._out.close()
        self._err.close()
