"""The hub's end of a gateway's control socket: find the process or start it, and change what it serves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import site
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, convert, field

from thopter.gateway.wire import PROTOCOL, check_peer, decode, encode, receive_line, send_line
from thopter.kit.paths import Paths, private_dir
from thopter.model.errors import ThopterError, TimedOut, from_dict

log = logging.getLogger(__name__)

_START_SECONDS = 30.0
_ANSWER_MAX = 64 << 20


class GatewayDown(ThopterError):
    """No gateway process answers at the socket (or it ended in the middle of a request)."""

    code = "gateway_down"
    http_status = 503
    default_hint = "the hub starts it again by itself; see 'thopter doctor'"


class Pong(Struct, frozen=True, kw_only=True):
    """Who answers. ``boot`` changes with every process: a new one has nothing attached."""

    name: str
    protocol: int
    version: str
    pid: int
    boot: str
    started_ms: int
    attached: list[str] = field(default_factory=list)
    confined: list[str] = field(default_factory=list)


class GatewayClient:
    """One gateway process, by its control socket. Every call is one short connection; nothing is kept,
    so a hub that restarts just makes a new one. Calls raise GatewayDown, TimedOut, or the gateway's own
    error. ``state`` is the hub's state folder (logs go to its ``gateway/``, mirrors are in ``mirrors/``).
    ``env`` adds variables to the process (``PATH`` and TLS trust only; never secrets)."""

    def __init__(
        self,
        module: str,
        control: Path,
        state: Path,
        *,
        idle_exit: float = 0.0,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.module = module
        self.control = control
        self._state = state
        self._idle_exit = idle_exit
        self._env = dict(env or {})
        self._starting = asyncio.Lock()

    async def call(
        self, request: Mapping[str, Any], *, sock: socket.socket | None = None, seconds: float = 20.0
    ) -> dict[str, Any]:
        """Send one request (``sock`` goes along as a duplicate) and return what it answers."""
        try:
            async with asyncio.timeout(seconds), self._connection() as connection:
                await send_line(connection, encode(request), None if sock is None else sock.fileno())
                return _answer(await receive_line(connection, _ANSWER_MAX))
        except TimeoutError:
            raise TimedOut(f"the gateway at {self.control} did not answer in {seconds:g} s") from None

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[socket.socket]:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, str(self.control))
            check_peer(connection)
            yield connection
        except OSError as e:
            raise GatewayDown(f"no gateway answers at {self.control}: {e.strerror or e}") from None
        finally:
            connection.close()

    async def ping(self) -> Pong:
        """Say who runs; GatewayDown when nobody does."""
        return convert(await self.call({"op": "ping"}), Pong)

    async def ensure(self) -> Pong:
        """Return the running gateway, starting it when there is none (or one of another protocol)."""
        async with self._starting:
            try:
                pong = await self.ping()
            except GatewayDown:
                await self._start()
                return await self.ping()
            if pong.protocol != PROTOCOL:
                await self.stop()
                await self._start()
                pong = await self.ping()
            return pong

    async def attach(self, box: str, sock: socket.socket | None, **fields: Any) -> bool:
        """Serve ``box`` on ``sock`` (None: keep its present socket); True when it replaced an attachment."""
        answer = await self.call({"op": "attach", "box": box, **fields}, sock=sock)
        return bool(answer["replaced"])

    async def detach(self, box: str) -> bool:
        """Stop serving ``box`` and end its connections; False when it was not attached."""
        return bool((await self.call({"op": "detach", "box": box}))["was_attached"])

    async def list(self) -> dict[str, dict[str, Any]]:
        """What is attached, by box."""
        return dict((await self.call({"op": "list"}))["attached"])

    async def usage(self, box: str) -> dict[str, Any]:
        """Counters of ``box`` since the process of the answer's ``boot`` began."""
        return await self.call({"op": "usage", "box": box})

    async def log(
        self, after: int = 0, *, box: str = "", limit: int = 500, wait_ms: int = 0
    ) -> dict[str, Any]:
        """Request records above ``after``: ``{boot, records, next, dropped}``; waits up to ``wait_ms``."""
        request = {"op": "log", "after": after, "box": box, "limit": limit, "wait_ms": wait_ms}
        return await self.call(request, seconds=20.0 + wait_ms / 1000)

    async def books(self) -> tuple[str, ...]:
        """The model gateway's books of calls, oldest first."""
        return tuple((await self.call({"op": "books"}))["books"])

    async def book(self, name: str, after: int, limit: int = 1000) -> dict[str, Any]:
        """Lines of a book after a number: ``{lines, next, current, lost}``."""
        return await self.call({"op": "book", "name": name, "after": after, "limit": limit})

    async def forget_book(self, name: str) -> None:
        """Remove a book that has been counted."""
        await self.call({"op": "forget_book", "name": name})

    async def stop(self, seconds: float = 10.0) -> None:
        """End the process and wait until it is gone. Not running = success."""
        try:
            async with asyncio.timeout(seconds), self._connection() as watch:
                await send_line(watch, encode({"op": "watch"}))
                await receive_line(watch, _ANSWER_MAX)
                await self.call({"op": "stop"})
                await _until_closed(watch)
        except GatewayDown:
            return
        except TimeoutError:
            raise TimedOut(f"the gateway at {self.control} does not end") from None

    async def supervise(self, on_boot: Callable[[Pong], Awaitable[None]], pause: float = 1.0) -> None:
        """Keep the gateway running for ever: start it when it is down, and call ``on_boot`` (which
        attaches what must be attached) for every new process, the first included. Notices its death at
        once. An error of ``on_boot`` ends this; an error in starting is logged (once, while it stays the
        same) and tried again, after ``pause`` and then ever more seldom, at least every 30 s."""
        boot, problem, wait = "", "", pause
        while True:
            try:
                pong = await self.ensure()
            except ThopterError as e:
                if e.message != problem:
                    problem = e.message
                    log.error("%s can't be had: %s", self.module, problem)
                await asyncio.sleep(wait)
                wait = min(wait * 2, 30.0)
                continue
            problem, wait = "", pause
            if pong.boot != boot:
                await on_boot(pong)
                boot = pong.boot
            await self._watch(pong.boot, pause)

    async def _watch(self, boot: str, pause: float) -> None:
        """Return when process ``boot`` has ended."""
        try:
            async with self._connection() as connection:
                await send_line(connection, encode({"op": "watch"}))
                found = _answer(await receive_line(connection, _ANSWER_MAX))
                if found.get("boot") == boot:
                    await _until_closed(connection)
        except GatewayDown:
            await asyncio.sleep(min(pause, 0.05))

    async def _start(self) -> None:
        private_dir(self.control.parent)
        argv = [sys.executable, "-P", "-m", self.module]  # no module comes from the folder it starts in
        argv += ["--socket", str(self.control), "--state", str(self._state)]
        if self._idle_exit:
            argv += ["--idle-exit", str(self._idle_exit)]
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_environment(self._env),
                cwd="/",
                close_fds=True,
                start_new_session=True,
            )
        except OSError as e:
            raise GatewayDown(f"{self.module} can't be started: {e.strerror}") from None
        said = await asyncio.to_thread(_first_words, process)
        try:
            word = json.loads(said)
        except ValueError:
            raise GatewayDown(
                f"{self.module} did not start: {said.decode(errors='replace')[-400:]}"
            ) from None
        if "error" in word:
            raise from_dict(word["error"])


def _first_words(process: subprocess.Popen[bytes]) -> bytes:
    """Read what the process says until it has gone to the background; reaps the front process."""
    try:
        said, _ = process.communicate(timeout=_START_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return b"it did not say that it is ready in time"
    return said


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """A clean environment: nothing of the operator's reaches the gateway by it."""
    env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if name in os.environ:
            env[name] = os.environ[name]
    root = str(Path(__file__).resolve().parents[2])
    if root not in (os.path.realpath(p) for p in site.getsitepackages()):
        env["PYTHONPATH"] = root
    return env | dict(extra)


def _answer(received: tuple[bytes, list[int]]) -> dict[str, Any]:
    line, fds = received
    for fd in fds:
        os.close(fd)
    if not line.endswith(b"\n"):
        raise GatewayDown("the gateway ended in the middle of an answer")
    message = decode(line)
    if "error" in message:
        raise from_dict(message["error"])
    return dict(message["ok"])


async def _until_closed(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while await loop.sock_recv(connection, 4096):
        pass


def model_client(paths: Paths) -> GatewayClient:
    """The model gateway of the hub with these folders."""
    return GatewayClient("thopter.gateway.model", paths.runtime / "model.sock", paths.state)


def egress_client(paths: Paths) -> GatewayClient:
    """The egress gateway of the hub with these folders."""
    return GatewayClient("thopter.gateway.egress", paths.runtime / "egress.sock", paths.state)


def git_client(paths: Paths) -> GatewayClient:
    """The git gateway of the hub with these folders; it serves the mirrors in ``<state>/mirrors``."""
    return GatewayClient("thopter.gateway.git", paths.runtime / "git.sock", paths.state)
