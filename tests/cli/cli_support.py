"""Running the real command line in folders of its own, through pipes and in a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyte

BOUND = 60.0
THOPTER = [sys.executable, "-m", "thopter.cli.main"]


def wait_for(what: Callable[[], Any], bound: float = BOUND) -> Any:
    """Wait until ``what()`` is true and return it."""
    until = time.monotonic() + bound
    while time.monotonic() < until:
        found = what()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"did not come true within {bound:.0f} s")


@contextlib.contextmanager
def folders() -> Iterator[Path]:
    """A folder whose path is short enough for unix sockets; removed afterwards."""
    root = Path(tempfile.mkdtemp(prefix="thc-"))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


class Cli:
    """The command line with its own state, runtime and config folders, and no hub unless asked."""

    def __init__(self, root: Path, **env: str) -> None:
        self.root = root
        self.state = root / "s"
        self.config = root / "c"
        self.cwd = root / "w"
        self.cwd.mkdir()
        kept = ("PATH", "LANG", "LC_ALL", "PYTHONPATH")
        self.env = {k: v for k, v in os.environ.items() if k in kept} | {
            "HOME": str(root),
            "THOPTER_STATE_DIR": str(self.state),
            "THOPTER_CONFIG_DIR": str(self.config),
            "THOPTER_NO_START": "1",
            "TERM": "xterm-256color",
            **env,
        }

    @property
    def socket(self) -> Path:
        """Where its hub would listen."""
        return self.state / "run" / "hub.sock"

    def run(
        self,
        *args: str | bytes,
        input: bytes | str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = BOUND,
    ) -> Done:
        """Run a command to its end."""
        data = input.encode() if isinstance(input, str) else input
        done = subprocess.run(
            [*THOPTER, *args],
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            env=self.env | dict(env or {}),
            cwd=cwd or self.cwd,
            timeout=timeout,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def spawn(self, *args: str, **kw: Any) -> subprocess.Popen[bytes]:
        """Start a command with pipes."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*THOPTER, *args], env=self.env, cwd=self.cwd, **(pipes | kw))


class Done:
    """What a command left behind."""

    def __init__(self, code: int, out: bytes, err: bytes) -> None:
        self.code = code
        self.raw_out = out
        self.out = out.decode("utf-8", "surrogateescape")
        self.err = err.decode("utf-8", "surrogateescape")

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- out\n{self.out}\n--- err\n{self.err}"

    def json(self) -> Any:
        """Its standard output as JSON."""
        return json.loads(self.out)


class Terminal:
    """A command in a terminal of its own; what it shows is on :attr:`screen` (a real emulator)."""

    def __init__(
        self, cli: Cli, *args: str, rows: int = 24, cols: int = 100, env: Mapping[str, str] | None = None
    ):
        self.screen = pyte.Screen(cols, rows)
        self.replies: list[str] = []
        self.screen.write_process_input = self.replies.append  # type: ignore[method-assign]
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.master, slave = pty.openpty()
        self._slave = slave
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [*THOPTER, *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=cli.env | dict(env or {}),
            cwd=cli.cwd,
            preexec_fn=_own_terminal,
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.master)
        os.close(self._slave)

    def type(self, text: str | bytes) -> None:
        """Press keys."""
        os.write(self.master, text.encode() if isinstance(text, str) else text)

    def resize(self, rows: int, cols: int) -> None:
        """Change the window's size (the kernel sends SIGWINCH)."""
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def read(self, seconds: float = 0.05) -> None:
        """Take in what it has written."""
        while select.select([self.master], [], [], seconds)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return
            if not data:
                return
            self.raw += data
            self._stream.feed(data)
            seconds = 0.0

    @property
    def text(self) -> str:
        """The screen as lines."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def see(self, what: str, bound: float = BOUND) -> None:
        """Wait until ``what`` is on the screen."""

        def seen() -> bool:
            self.read()
            return what in self.text

        try:
            wait_for(seen, bound)
        except AssertionError:
            raise AssertionError(
                f"never saw {what!r}; the screen:\n{self.text}\nraw: {self.raw[-600:]!r}"
            ) from None

    def end(self, bound: float = BOUND) -> int:
        """Wait until it ends; its exit code."""

        def ended() -> bool:
            self.read(0.01)
            return self.process.poll() is not None

        wait_for(ended, bound)
        self.read()
        assert self.process.returncode is not None
        return self.process.returncode

    @property
    def restored(self) -> bool:
        """True when the terminal's modes are what they were."""
        return termios.tcgetattr(self._slave) == self.before


def _own_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
