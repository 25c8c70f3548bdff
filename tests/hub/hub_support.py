"""Starting real hub processes for tests, and talking to them over their real sockets."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2

from thopter.hub.lock import holder

HERE = Path(__file__).parent
SRC = HERE.parent.parent / "src"
BOUND = 60.0


def wait_for(what: Callable[[], Any], bound: float = BOUND) -> Any:
    """Wait until ``what()`` is true and return it."""
    deadline = time.monotonic() + bound
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"did not come true within {bound} s: {what}")


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A new folder whose path leaves room for a socket's name (pytest's own are too long)."""
    with tempfile.TemporaryDirectory(prefix="hub-", dir="/tmp") as path:
        yield Path(path)


class HubProcess:
    """One hub in its own process and folders."""

    def __init__(self, root: Path, **env: str) -> None:
        self.state = root / "state"
        self.socket = self.state / "run" / "hub.sock"
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(root),
            "PYTHONPATH": f"{SRC}:{HERE}",
            "THOPTER_STATE_DIR": str(self.state),
            "XDG_CONFIG_HOME": str(root / "config"),
            **env,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def spawn(
        self, *args: str, foreground: bool = True, before: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """Start the program (``before``: by way of another one); does not wait."""
        argv = [*before, sys.executable, str(HERE / "memory_hub.py"), *args]
        argv += ["--foreground"] if foreground else []
        with open(os.devnull, "rb") as null:
            self.process = subprocess.Popen(
                argv, env=self.env, stdin=null, stdout=subprocess.PIPE, stderr=subprocess.PIPE, umask=0
            )
        return self.process

    def start(self, *args: str) -> HubProcess:
        """Start and wait until it is ready."""
        process = self.spawn(*args)
        wait_for(lambda: self.is_ready() or self.died(process))
        return self

    def died(self, process: subprocess.Popen[bytes]) -> bool:
        """False, or an error when it has ended by itself."""
        if process.poll() is not None:
            raise AssertionError(f"the hub died: {process.communicate()}")
        return False

    def is_ready(self) -> bool:
        with contextlib.suppress(httpx2.TransportError):
            return bool(self.get("/v1/hub").json()["ready"])
        return False

    def answers(self) -> bool:
        with contextlib.suppress(httpx2.TransportError):
            return self.get("/v1/hub").status_code == 200
        return False

    def client(self) -> httpx2.Client:
        """An HTTP client on the unix socket."""
        return httpx2.Client(
            transport=httpx2.HTTPTransport(uds=str(self.socket), verify=False),
            base_url="http://thopter",
            timeout=BOUND,
        )

    def request(self, method: str, path: str, **kw: Any) -> httpx2.Response:
        with self.client() as client:
            return client.request(method, path, **kw)

    def get(self, path: str, **kw: Any) -> httpx2.Response:
        return self.request("GET", path, **kw)

    def post(self, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        return self.request("POST", path, json={} if body is None else body, headers=headers)

    @functools.cached_property
    def tcp(self) -> str:
        """URL of the TCP door, e.g. ``http://127.0.0.1:40123``."""
        listeners: list[str] = self.get("/v1/hub").json()["listeners"]
        return next(each for each in listeners if each.startswith("http"))

    @property
    def tcp_port(self) -> int:
        return int(self.tcp.rpartition(":")[2])

    @property
    def token(self) -> str:
        return (self.state / "token").read_text().strip()

    def pid(self) -> int:
        return int(self.get("/v1/hub").json()["pid"])

    def log(self) -> list[dict[str, Any]]:
        """The records of the hub's log."""
        return [json.loads(line) for line in (self.state / "hub.log").read_text().splitlines()]

    def end(self) -> None:
        """End it however it is, also one in the background."""
        if self.process is None:
            return
        background = holder(self.state / "hub.lock")
        if background not in (None, self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(background, signal.SIGKILL)
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.communicate(timeout=20)
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        self.process = None


class Raw:
    """A raw connection: bytes out, bytes in."""

    def __init__(self, where: Path | tuple[str, int]) -> None:
        family = socket.AF_UNIX if isinstance(where, Path) else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(BOUND)
        self.sock.connect(str(where) if isinstance(where, Path) else where)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> Raw:
        self.sock.sendall(data)
        return self

    def rest(self) -> bytes:
        """Everything until the other side closes."""
        parts = []
        with contextlib.suppress(ConnectionResetError):
            while data := self.sock.recv(65536):
                parts.append(data)
        return b"".join(parts)

    def head(self) -> bytes:
        """One answer's head."""
        found = b""
        while b"\r\n\r\n" not in found:
            data = self.sock.recv(1)
            if not data:
                break
            found += data
        return found


def hung_up(sock: socket.socket) -> bool:
    """True when the other side has closed, without taking what it sent."""
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLRDHUP | select.POLLHUP)
    return bool(poll.poll(0))


def rss_kib(pid: int) -> int:
    """Resident memory of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1])


@contextlib.contextmanager
def hub_process(root: Path, *args: str, **env: str) -> Iterator[HubProcess]:
    """A ready hub that is ended afterwards."""
    hub = HubProcess(root, **env)
    try:
        yield hub.start(*args)
    finally:
        hub.end()
