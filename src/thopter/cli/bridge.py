"""Joins a command in a box to this process: input, output, size, Ctrl-C, and how it ended."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from thopter.kit.sanitize import Sanitizer
from thopter.kit.terminal import RESET, TerminalFilter, raw_mode, size
from thopter.mesh.execs import Exec
from thopter.model.errors import HubUnreachable

Sink = Callable[[bytes], None]
_READ = 64 << 10


class Bridge:
    """Runs one :class:`Exec` to its end with this process's standard streams.

    ``screen``: the command has a terminal; ours goes raw when it is one, and is put back on every
    way out. Otherwise the first Ctrl-C is sent to the command, the second one ends us.
    ``stdin`` False: its input was empty from the start. ``as_it_is``: our terminal reads the output as
    a protocol (tmux's control mode), so nothing is taken out of it.
    """

    def __init__(self, command: Exec, *, screen: bool, stdin: bool, as_it_is: bool = False) -> None:
        self._command = command
        self._screen = screen
        self._raw = screen and os.isatty(0)
        self._stdin = stdin
        self._escape = Escape() if self._raw else None
        self._sinks: dict[int, Sink] = {1: sink(1, screen), 2: sink(2, screen)}
        if as_it_is:
            self._sinks[1] = lambda data: write_all(1, data)
        self._interrupts = 0
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    def run(self) -> int:
        """Return the command's exit status (128 + signal); raises what went wrong instead."""
        try:
            with self._signals(), raw_mode(0) if self._raw else contextlib.nullcontext():
                left = self._move()
        except HubUnreachable:
            if self._raw:
                os.write(1, RESET.encode())  # what drew the screen can't tidy it any more
            raise
        finally:
            os.close(self._wake_read)
            os.close(self._wake_write)
        if left:
            os.write(1, RESET.encode())
            return 0
        assert self._command.ended is not None
        return self._command.ended.status

    def _move(self) -> bool:
        """Pass everything on until the command has ended; True when the person left with ``~.``"""
        command = self._command
        while True:
            while command.output:
                stream, data = command.output.popleft()
                self._sinks[stream](data)
            if command.ended is not None:
                return False
            reading: list[int] = [self._wake_read, command.fileno()]
            if self._stdin and command.room:
                reading.append(0)
            ready, _, _ = select.select(reading, [command.fileno()] if command.pending else [], [])
            if self._wake_read in ready:
                self._pass_on(os.read(self._wake_read, 64))
            if 0 in ready and self._typed():
                return True
            command.move()

    def _typed(self) -> bool:
        """Pass input on; True when it was the way out."""
        data = os.read(0, min(_READ, self._command.room))
        if not data:
            self._stdin = False
            self._command.eof()
            return False
        leave = False
        if self._escape is not None:
            data, leave = self._escape.feed(data)
        if data:
            self._command.give(data)
        return leave

    def _pass_on(self, news: bytes) -> None:
        if b"w" in news:
            self._command.resize(*size(0))
        if b"i" in news:
            self._command.signal("INT")

    def _wake(self, news: bytes) -> None:
        with contextlib.suppress(OSError):  # full: it is awake anyway
            os.write(self._wake_write, news)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def window(number: int, frame: FrameType | None) -> None:
            self._wake(b"w")

        def interrupt(number: int, frame: FrameType | None) -> None:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
            self._wake(b"i")

        old = {signal.SIGWINCH: signal.signal(signal.SIGWINCH, window)} if self._screen else {}
        if not self._raw:
            old[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


class Escape:
    """Finds ``~.`` at the beginning of a line of typed input, as ssh has it: the way out of a box
    that takes no input any more (frozen, hung). ``~~`` types one ``~``."""

    def __init__(self) -> None:
        self._fresh = True  # at the beginning of a line
        self._held = False  # a "~" there, not passed on yet

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return what to pass on, and whether to leave."""
        if not self._held and not (self._fresh or b"\r" in data or b"\n" in data):
            return data, False
        out = bytearray()
        for byte in data:
            if self._held:
                self._held = False
                if byte == ord("."):
                    return bytes(out), True
                if byte != ord("~"):
                    out.append(ord("~"))
            elif self._fresh and byte == ord("~"):
                self._held, self._fresh = True, False
                continue
            out.append(byte)
            self._fresh = byte in b"\r\n"
        return bytes(out), False


def sink(fd: int, screen: bool) -> Sink:
    """Where output goes: untouched into files and pipes; a terminal gets what is safe for it."""
    if not os.isatty(fd):
        return lambda data: write_all(fd, data)
    if screen:
        screen_filter = TerminalFilter()
        return lambda data: write_all(fd, screen_filter.feed(data))
    decode = codecs.getincrementaldecoder("utf-8")("replace")
    sanitizer = Sanitizer(sgr=True)
    return lambda data: write_all(fd, sanitizer.feed(decode.decode(data)).encode())


def write_all(fd: int, data: bytes) -> None:
    """Write everything, also to a descriptor that somebody made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [], 1.0)
