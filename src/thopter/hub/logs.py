"""The hub's own log: JSON lines in ``hub.log``, five files of 2 MB, no secret in any of them."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import queue
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from thopter.kit.redact import Redactor

_BYTES = 2_000_000
_FILES = 5
_LONGEST = 8_000
_CONSOLE_LINES = 2_000
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

redact = Redactor()


class JsonLines(logging.Formatter):
    """One record, one line: ``{"at","level","part","text","error"?,…}``.

    Text of others stays inside JSON strings, so it can't forge a line; what is too long is cut in
    the middle. Extra fields come from ``extra={"data": {…}}``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "at": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "part": record.name.removeprefix("thopter."),
            "text": _short(redact(record.getMessage())),
        }
        data = getattr(record, "data", None)
        if isinstance(data, dict):
            line["data"] = {str(k): _plain(v) for k, v in data.items()}
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = _short(redact("".join(traceback.format_exception(record.exc_info[1]))))
        return json.dumps(line, ensure_ascii=True)


class HumanLines(logging.Formatter):
    """What ``--foreground`` shows on stderr."""

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        text = _short(redact(record.getMessage()))
        data = getattr(record, "data", None)
        if isinstance(data, dict):
            text += "  " + " ".join(f"{key}={_plain(value)}" for key, value in data.items())
        if record.exc_info and record.exc_info[1] is not None:
            text += "\n" + redact("".join(traceback.format_exception(record.exc_info[1])))
        return f"{at} {record.levelname.lower():7} {_printable(text)}"


class Console(logging.Handler):
    """stderr, written by a thread of its own: a terminal that is held up (Ctrl-S, a pager) must not
    hold up the hub. What does not fit the queue is counted and told; the file has all of it."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: queue.Queue[str] = queue.Queue(_CONSOLE_LINES)
        self._lost = 0
        threading.Thread(target=self._write, name="console", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._lost += 1

    def drain(self, seconds: float) -> None:
        """Wait until everything is written, for ``seconds`` at most."""
        until = time.monotonic() + seconds
        while self._lines.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.005)

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            lost, self._lost = self._lost, 0
            if lost:
                line += f"\n({lost} lines are only in the log file)"
            with contextlib.suppress(OSError):  # nobody reads it any more
                # Not by sys.stderr: its lock, held here, would hold up the end of the process.
                os.write(2, line.encode() + b"\n")
            self._lines.task_done()


class RotatingLog(logging.Handler):
    """The rotated file, 0600. When it can't be written (disk full), records are counted, and the
    count is written as soon as that is possible again: a log never stops the hub and never lies."""

    def __init__(self, path: Path, file_bytes: int = _BYTES, files: int = _FILES) -> None:
        super().__init__()
        self._path = path
        self._file_bytes = file_bytes
        self._files = files
        self.lost = 0
        self._fd, self._size = self._open()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, after the news of lost ones if there are any."""
        try:
            if self.lost:
                self._write(self.format(_lost_record(self.lost)))
                self.lost = 0
            self._write(self.format(record))
        except OSError:
            self.lost += 1

    def close(self) -> None:
        """Close the file; nothing is buffered."""
        super().close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> tuple[int, int]:
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.fchmod(fd, 0o600)
        return fd, os.fstat(fd).st_size

    def _write(self, text: str) -> None:
        line = text.encode() + b"\n"
        if self._size and self._size + len(line) > self._file_bytes:
            self._rotate()
        written = os.write(self._fd, line)
        if written < len(line):
            os.ftruncate(self._fd, self._size)  # no torn line stays
            raise OSError(errno.ENOSPC, "no room for the log")
        self._size += written

    def _rotate(self) -> None:
        names = [self._path, *(Path(f"{self._path}.{n}") for n in range(1, self._files))]
        for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
            if newer.exists():
                newer.replace(older)
        os.close(self._fd)
        self._fd, self._size = self._open()


def _lost_record(count: int) -> logging.LogRecord:
    text = f"{count} records could not be written here"
    return logging.LogRecord("thopter.hub.logs", logging.ERROR, __file__, 0, text, None, None)


def set_up(path: Path, level: str, foreground: bool) -> None:
    """Send everything to ``path`` (made 0600 under the caller's umask) and, in the foreground, to
    stderr as well. Libraries speak only when something is wrong."""
    root = logging.getLogger()
    handlers: list[logging.Handler] = [RotatingLog(path)]
    handlers[0].setFormatter(JsonLines())
    if foreground:
        handlers.append(Console())
        handlers[1].setFormatter(HumanLines())
    for old in list(root.handlers):
        root.removeHandler(old)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    set_level(level)


def drain() -> None:
    """Before the process ends: let the console catch up."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Console):
            handler.drain(1.0)


def set_level(level: str) -> None:
    """Change how much our own parts log (setting ``hub.log_level``)."""
    logging.getLogger("thopter").setLevel(_LEVELS[level])


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    return _short(redact(str(value)))


def _short(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]} …[{len(text) - _LONGEST} characters cut]… {text[-half:]}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
