"""Real parts for the gateway tests: a raw upstream that can misbehave, a canary, and gateway processes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from thopter.gateway.client import GatewayClient, Pong

BOUND = 60.0


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test in a loop of its own, bounded."""

    @functools.wraps(test)
    def run(*args: Any, **kw: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(110):
                await test(*args, **kw)

        asyncio.run(bounded())

    return run


async def eventually(what: Callable[[], Any], seconds: float = BOUND) -> Any:
    """Wait in the loop for a condition (which may be a coroutine function)."""
    async with asyncio.timeout(seconds):
        while True:
            found = what()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.02)


def listener() -> socket.socket:
    """A listening loopback socket, as a provider opens one inside a box."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(128)
    return sock


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def until(what: Callable[[], Any], seconds: float = BOUND) -> Any:
    """Wait for a condition; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def kill(pid: int) -> None:
    """Kill -9 and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid))


class Home:
    """A state folder and a runtime folder of one test, with the gateways started for it."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="thopter-gw-"))
        self.state = self.root / "state"
        self.run = self.root / "run"
        self.pids: list[int] = []

    def client(self, name: str, **kw: Any) -> GatewayClient:
        return GatewayClient(f"thopter.gateway.{name}", self.run / f"{name}.sock", self.state, **kw)

    async def start(self, name: str, **kw: Any) -> tuple[GatewayClient, Pong]:
        client = self.client(name, **kw)
        pong = await client.ensure()
        self.pids.append(pong.pid)
        return client, pong

    def close(self) -> None:
        for pid in self.pids:
            kill(pid)
        for name in ("model", "git", "egress"):  # one that a supervisor started meanwhile
            with contextlib.suppress(OSError, ValueError):
                pong = self._ping(name)
                kill(pong)
        shutil.rmtree(self.root, ignore_errors=True)

    def _ping(self, name: str) -> int:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.run / f"{name}.sock"))
            sock.sendall(b'{"op":"ping"}\n')
            return int(json.loads(sock.makefile().readline())["ok"]["pid"])


@contextlib.contextmanager
def home() -> Iterator[Home]:
    found = Home()
    try:
        yield found
    finally:
        found.close()


class Ask:
    """One request as the upstream got it."""

    def __init__(self, head: bytes, body: bytes, reader: asyncio.StreamReader) -> None:
        self.raw = head
        self._reader = reader
        self.body = body
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = lines[0].split(" ", 2)
        self.headers = [
            (n.lower(), v.strip()) for n, _, v in (line.partition(":") for line in lines[1:] if line)
        ]

    async def until_gone(self) -> None:
        """Say nothing until the other end closes the connection."""
        await self._reader.read()

    def header(self, name: str) -> str | None:
        found = [v for n, v in self.headers if n == name]
        assert len(found) < 2, f"{name} came twice"
        return found[0] if found else None


Answer = Callable[[Ask, asyncio.StreamWriter], Awaitable[None]]


class Upstream:
    """A raw HTTP/1.1 server. ``answer`` writes whatever it likes; returning leaves the connection open."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asks: list[Ask] = []
        self.connections = 0
        self.lost = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await self._body(reader, head.lower())
                ask = Ask(head[:-4], body, reader)
                self.asks.append(ask)
                await self.answer(ask, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self.lost.set()
            writer.close()

    async def _body(self, reader: asyncio.StreamReader, head: bytes) -> bytes:
        for line in head.split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return await reader.readexactly(int(line[15:]))
            if line.startswith(b"transfer-encoding:"):
                return await self._chunks(reader)
        return b""

    async def _chunks(self, reader: asyncio.StreamReader) -> bytes:
        parts = []
        while True:
            size = int((await reader.readuntil(b"\r\n"))[:-2], 16)
            parts.append((await reader.readexactly(size + 2))[:-2])
            if not size:
                return b"".join(parts)


@contextlib.asynccontextmanager
async def upstream(answer: Answer, ssl: Any = None) -> AsyncIterator[tuple[Upstream, int]]:
    """Run an Upstream on loopback; yields it and its port."""
    found = Upstream(answer)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=ssl, limit=1 << 20)
    try:
        yield found, port_of(server.sockets[0])
    finally:
        server.close()
        for task in list(found._tasks):
            task.cancel()
        await asyncio.sleep(0)


def plain(body: bytes, status: str = "200 OK", *headers: str, kind: str = "application/json") -> Answer:
    """An upstream that always answers the same."""

    async def answer(ask: Ask, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(body)}", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if ask.method == "HEAD" else body))

    return answer


def sse(*events: dict[str, Any]) -> list[bytes]:
    return [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events]


def streaming(events: list[bytes], pause: float = 0.0) -> Answer:
    """An upstream that streams ``events`` as chunks."""

    async def answer(ask: Ask, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for event in events:
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
            await asyncio.sleep(pause)
        writer.write(b"0\r\n\r\n")

    return answer


class Reply:
    """A response as a client read it."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes, whole: bool) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.whole = whole

    def json(self) -> Any:
        return json.loads(self.body)


def request(
    method: str, target: str, body: bytes | None = None, headers: tuple[str, ...] = (), host: str = "box"
) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"host: {host}", *headers]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


async def read_reply(reader: asyncio.StreamReader, head_only: bool = False) -> Reply:
    """Read one response; ``whole`` is False when the connection ended before the body did."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ")[1])
    if status == 100:
        return await read_reply(reader, head_only)
    headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines[1:] if line)}
    if head_only or status in (204, 304):
        return Reply(status, headers, b"", True)
    try:
        if "content-length" in headers:
            return Reply(status, headers, await reader.readexactly(int(headers["content-length"])), True)
        body = b""
        while True:
            size = int((await reader.readuntil(b"\r\n"))[:-2], 16)
            body += (await reader.readexactly(size + 2))[:-2]
            if not size:
                return Reply(status, headers, body, True)
    except (asyncio.IncompleteReadError, ConnectionError):
        return Reply(status, headers, b"", False)


async def ask(port: int, raw: bytes, head_only: bool = False) -> Reply:
    """Send raw bytes on a fresh connection and read one response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        async with asyncio.timeout(BOUND):
            return await read_reply(reader, head_only)
    finally:
        writer.close()


def git(
    *argv: str, cwd: Path | None = None, env: dict[str, str] | None = None, ok: bool | None = True, **kw: Any
) -> str:
    """Run real git as a client; returns stdout, stderr too unless it must work (``ok`` None: may fail)."""
    clean = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@t",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@t",
        "GIT_TERMINAL_PROMPT": "0",
    }
    done = subprocess.run(
        ["git", *argv],
        cwd=cwd,
        env=clean | (env or {}),
        capture_output=True,
        timeout=BOUND * 2,
        check=False,
        **kw,
    )
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    if ok is None:
        return out + err
    if ok:
        assert done.returncode == 0, f"git {' '.join(argv)}: {err}"
        return out
    assert done.returncode != 0, f"git {' '.join(argv)} was expected to fail: {out}{err}"
    return out + err


async def agit(*argv: str, **kw: Any) -> str:
    """``git`` without blocking the loop."""
    return await asyncio.to_thread(functools.partial(git, *argv, **kw))


def make_repo(path: Path, files: dict[str, str] | None = None, branch: str = "main") -> str:
    """A real repository with one commit; returns its id."""
    git("init", "-q", "-b", branch, str(path))
    for name, text in (files or {"a.txt": "one\n"}).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return commit(path, "first")


def commit(path: Path, message: str, **files: str) -> str:
    """Write ``files``, commit all; returns the commit's id."""
    for name, text in files.items():
        (path / name).write_text(text)
    git("add", "-A", cwd=path)
    git("commit", "-q", "--allow-empty", "-m", message, cwd=path)
    return git("rev-parse", "HEAD", cwd=path).strip()
