"""Real boxds on this machine, each in its own folder, ended with all they started."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from thopter.boxd import procfs
from thopter.kit.channel import BoxLink

SRC = str(Path(__file__).resolve().parents[2] / "src")
BOUND = 45.0  # seconds that anything may take on a busy machine
_START = """
import sys
sys.path.insert(0, {src!r})
from thopter.boxd.__main__ import main
{prelude}
main({args!r})
"""


def wait_for(what: Callable[[], Any], bound: float = BOUND) -> Any:
    """Return the first true value of ``what()``; fail when none comes in time."""
    end = time.monotonic() + bound
    while not (value := what()):
        if time.monotonic() > end:
            raise AssertionError("waited in vain")
        time.sleep(0.01)
    return value


async def until(what: Callable[[], Any], bound: float = BOUND) -> Any:
    """Like :func:`wait_for`, letting others run."""
    end = time.monotonic() + bound
    while not (value := what()):
        if time.monotonic() > end:
            raise AssertionError("waited in vain")
        await asyncio.sleep(0.01)
    return value


class BoxdProcess:
    """An init with its boxd, as on a machine without namespaces."""

    def __init__(
        self,
        folder: Path,
        python: str = sys.executable,
        pyz: str = "",
        prelude: str = "",
        wrapper: tuple[str, ...] = (),
        **config: Any,
    ) -> None:
        """``prelude`` is run after all imports, ``wrapper`` is a command that runs the rest of its
        words; ``config`` goes to boxd."""
        self.folder = folder
        self.socket = str(folder / "s")
        self.token = "box-token"
        self.config = {
            "run_dir": str(folder / "run"), "var_dir": str(folder / "var"), "home": str(folder / "home"),
            "hook_port": 0, "hook_token": self.token, "name": "test-box", **config,
        }  # fmt: skip
        self._hook_port = 0
        self._wrapped = bool(wrapper)
        (folder / "home").mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        args = ["serve", "--socket", self.socket, "--config", str(folder / "config.json")]
        start = [pyz, *args] if pyz else ["-c", _START.format(src=SRC, args=args, prelude=prelude)]
        self.log = folder / "log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*wrapper, python, "-S", "-E", "-I", *start], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_for(self._listens)

    def _listens(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"boxd did not start: {self.log.read_text()}")
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(self.socket) == 0

    @contextlib.asynccontextmanager
    async def link(self) -> AsyncIterator[BoxLink]:
        """A connection of the hub's client."""
        reader, writer = await asyncio.open_unix_connection(self.socket)
        async with BoxLink.connect(reader, writer, timeout=BOUND) as link:
            yield link

    @property
    def init_pid(self) -> int:
        """The pid of the init (below the wrapper, when there is one)."""
        if not self._wrapped:
            return self.process.pid
        return int(
            wait_for(lambda: next((p.pid for p in procfs.everything() if p.ppid == self.process.pid), 0))
        )

    def boxd_pid(self) -> int:
        """The pid of the boxd that init keeps (the child that is a copy of init)."""
        init = self.init_pid
        mine = procfs.read_small(f"/proc/{init}/cmdline")

        def find() -> int:
            for one in procfs.everything():
                if one.ppid == init and one.state not in "ZX":
                    with contextlib.suppress(OSError):
                        if procfs.read_small(f"/proc/{one.pid}/cmdline") == mine:
                            return one.pid
            return 0

        return int(wait_for(find))

    def tmux(self, *words: str) -> str:
        """Ask the box's tmux server directly."""
        base = ["tmux", "-S", f"{self.config['run_dir']}/tmux.sock"]
        return subprocess.run([*base, *words], capture_output=True, text=True, timeout=BOUND).stdout

    def hook(
        self, event: str, body: bytes = b"{}", query: str = "?run=r", **headers: str
    ) -> tuple[int, bytes]:
        """POST a hook as an agent does; return status and body."""
        client = http.client.HTTPConnection("127.0.0.1", self.hook_port, timeout=BOUND)
        try:
            given = {"Authorization": f"Bearer {self.token}", **headers}
            client.request("POST", f"/hook/{event}{query}", body, given)
            answer = client.getresponse()
            return answer.status, answer.read()
        finally:
            client.close()

    @property
    def hook_port(self) -> int:
        """The port that hooks are heard on."""

        async def ask() -> int:
            async with self.link() as link:
                return int(link.facts["hook_port"])

        if not self._hook_port:
            self._hook_port = asyncio.run(ask())
        return self._hook_port

    def stop(self) -> None:
        """End it with everything it started."""
        if self.process.poll() is None:
            os.kill(self.init_pid, signal.SIGTERM)
            try:
                self.process.wait(BOUND)
            except subprocess.TimeoutExpired:
                procfs.kill(procfs.descendants([self.process.pid]), signal.SIGKILL)
                self.process.kill()
                self.process.wait()
                raise


def small_disk(path: Path, size: str) -> str:
    """A prelude that gives a boxd (and only it) a file system of ``size`` at ``path``."""
    path.mkdir()
    return f"""
import ctypes
libc = ctypes.CDLL(None)
assert libc.unshare(0x20000) == 0
assert libc.mount(b"none", b"/", None, 0x44000, None) == 0
assert libc.mount(b"tmpfs", {bytes(path)!r}, b"tmpfs", 0, {b"size=" + size.encode()!r}) == 0
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path (unix sockets), removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix="boxd-t-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., BoxdProcess]]:
    """Start boxds; all are ended afterwards."""
    started: list[BoxdProcess] = []

    def make(**options: Any) -> BoxdProcess:
        started.append(BoxdProcess(folder, **options))
        return started[-1]

    try:
        yield make
    finally:
        for boxd in started:
            boxd.stop()


@pytest.fixture
def boxd(start: Callable[..., BoxdProcess]) -> BoxdProcess:
    """A running boxd."""
    return start()


def run(work: Any) -> Any:
    """Run a coroutine to its end within a bound."""

    async def bounded() -> Any:
        async with asyncio.timeout(90):
            return await work

    return asyncio.run(bounded())
