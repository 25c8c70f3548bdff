"""Joins a command in a box to this process: input, output, size, Ctrl-C, and how it ended."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from thopter.kit.sanitize import Sanitizer
from thopter.kit.terminal import RESET, TerminalFilter, raw_mode, size
from thopter.model.errors import HubUnreachable

if TYPE_CHECKING:
    from thopter.mesh.execs import Exec

Sink = Callable[[bytes], None]
_READ = 64 << 10


class Bridge:
    """Runs one :class:`Exec` to its end with this process's standard streams.

    ``screen``: the command has a terminal; ours goes raw when it is one, and is put back on every
    way out. Otherwise the first Ctrl-C is sent to the command, the second one ends us.
    ``stdin`` False: its input was empty from the start.
    """

    def __init__(self, command: Exec, *, screen: bool, stdin: bool) -> None:
        self._command = command
        self._screen = screen
        self._raw = screen and os.isatty(0)
        self._stdin = stdin
        self._escape = Escape() if self._raw else None
        self._sinks = {1: sink(1, screen), 2: sink(2, screen)}
        self._trouble: BaseException | None = None
        self._interrupts = 0
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    def run(self) -> int:
        """Return the command's exit status (128 + signal); raises what went wrong instead."""
        reader = threading.Thread(target=self._read_output, name="output", daemon=True)
        try:
            with self._signals(), raw_mode(0) if self._raw else contextlib.nullcontext():
                reader.start()
                try:
                    left = self._feed_input()
                finally:
                    self._command.abort()
                    reader.join(5.0)
            if left:
                return 0
        finally:
            os.close(self._wake_read)
            os.close(self._wake_write)
        if self._trouble is not None:
            if self._raw and isinstance(self._trouble, HubUnreachable):
                os.write(1, RESET.encode())  # what drew the screen can't tidy it any more
            raise self._trouble
        assert self._command.ended is not None
        return self._command.ended.status

    def _read_output(self) -> None:
        try:
            for stream, data in self._command:
                self._sinks[stream](data)
        except BaseException as e:  # noqa: BLE001 - carried to the main thread, which raises it
            self._trouble = e
        finally:
            self._command.abort()  # the main thread may be waiting to send input that nobody wants
            self._wake(b"e")

    def _feed_input(self) -> bool:
        """Pass input and news on until the command has ended; True when the person left with ``~.``"""
        watched = [self._wake_read, 0] if self._stdin else [self._wake_read]
        while True:
            ready, _, _ = select.select(watched, [], [])
            if self._wake_read in ready:
                for news in os.read(self._wake_read, 64):
                    if news == ord("e"):
                        return False
                    self._pass_on(news)
            if 0 in ready:
                data = os.read(0, _READ)
                if not data:
                    watched.remove(0)
                    self._command.eof()
                    continue
                if self._escape is not None:
                    data, leave = self._escape.feed(data)
                    if leave:
                        return True
                if data:
                    self._command.write(data)

    def _pass_on(self, news: int) -> None:
        if news == ord("w"):
            self._command.resize(*size(0))
        elif news == ord("i"):
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
