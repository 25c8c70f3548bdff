"""The hub's side of the zygote: start it, adopt a living one, replace one of other code, ask it."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import hashlib
import json
import os
import secrets
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import thopter
from thopter.kit import failpoint
from thopter.model.errors import Ambiguous, NotNow, ProviderError, Throttled

_SOURCE = Path(thopter.__file__).parent.parent
_START_S = 30.0
_TALK_S = 60.0


def code_version() -> str:
    """A word for exactly this code: boxd, the zygote's own modules, and the interpreter."""
    digest = hashlib.sha256(sys.version.encode() + sys.executable.encode())
    here = _SOURCE / "thopter"
    for folder in ("boxd", "kit/linux", "providers/local"):
        for path in sorted((here / folder).glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


class Nursery:
    """Talks to the zygote behind ``socket_path``; each request is a connection of its own."""

    def __init__(self, socket_path: Path, home: Path, name: str) -> None:
        self._path = socket_path
        self._home = home
        self._name = name
        self._version = code_version()
        self._starting = asyncio.Lock()

    async def adopt(self) -> dict[str, Any]:
        """What the living zygote says of itself (``boxes``, ``spares``, ``pid``); empty without one.
        One of other code is replaced."""
        if not await self.ping():
            return {}
        await self.ready()
        return await self.ping()

    async def ready(self) -> list[dict[str, Any]]:
        """See to it that a zygote of this very code answers; returns what its spare
        builders were ordered with. Idempotent.

        One of other code hands over its listening sockets and ends; its boxes go on.
        """
        async with self._starting:
            old = await self.ping()
            if old and old["version"] == self._version:
                return list(old["spares"])
            held = await self._collect(old["boxes"]) if old else {}
            await self._spawn()
            for key, sockets in held.items():
                try:
                    fds = [s.fileno() for s in sockets.values()]
                    await self._talk({"op": "adopt", "key": key, "ports": list(sockets)}, fds)
                finally:
                    for s in sockets.values():
                        s.close()
        return []

    async def ping(self) -> dict[str, Any]:
        """What the living zygote says of itself; empty without one. Starts none.

        One that is there and does not answer is NotNow: a second one would take its place.
        """
        try:
            async with asyncio.timeout(_START_S):
                answer, _ = await self._talk({"op": "ping"})
        except TimeoutError:
            raise NotNow(f"the zygote does not answer within {_START_S:.0f} s") from None
        except (OSError, ProviderError):
            return {}
        return answer

    async def _collect(self, keys: Sequence[str]) -> dict[str, dict[int, socket.socket]]:
        """Take all listening sockets of the old zygote, then end it."""
        held: dict[str, dict[int, socket.socket]] = {}
        for key in keys:
            answer, fds = await self._talk({"op": "listen", "key": key, "ports": None})
            held[key] = {
                int(port): socket.socket(fileno=fd) for port, fd in zip(answer["ports"], fds, strict=True)
            }
        await self._talk({"op": "stop"})
        return held

    async def _spawn(self) -> None:
        server = listen_unix(self._path)
        try:
            env = {k: v for k, v in os.environ.items() if k == failpoint.ENV}
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-S", "-E", "-I", str(Path(__file__).with_name("seed.py")),
                str(_SOURCE), str(server.fileno()), self._version, self._name, str(self._home),
                env=env, pass_fds=(server.fileno(),), stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
        finally:
            server.close()
        try:
            async with asyncio.timeout(_START_S):
                _, said = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise NotNow("the zygote did not start within 30 s") from None
        if process.returncode != 0 or not await self.ping():
            words = said.decode("utf-8", "replace").strip().splitlines()
            raise ProviderError("the zygote did not start: " + (words[-1] if words else "it said nothing"))

    async def tell(self, body: dict[str, Any]) -> None:
        """Ask once, but start no zygote for it: without one NotNow."""
        try:
            await self._talk(body)
        except OSError as e:
            raise NotNow(f"the zygote does not answer: {e}") from None

    async def stop(self) -> None:
        """End the zygote, if there is one. Its boxes go on, their gateways' doors close."""
        with contextlib.suppress(OSError, ProviderError):
            await self._talk({"op": "stop"})
        self._path.unlink(missing_ok=True)

    async def ask(
        self, body: dict[str, Any], fds: Sequence[int] = ()
    ) -> tuple[dict[str, Any], list[socket.socket]]:
        """Ask once, starting a zygote first where none answers. Returns the answer and the
        sockets that came with it. Errors of the zygote become errors of model.errors; a
        connection that breaks half-way is Ambiguous."""
        try:
            sock = await self._connect()
        except OSError:
            await self.ready()
            try:
                sock = await self._connect()
            except OSError as e:
                raise NotNow(f"the zygote does not answer: {e}") from None
        with sock:
            answer, got = await self._converse(sock, body, fds)
        return answer, [socket.socket(fileno=fd) for fd in got]

    async def _talk(self, body: dict[str, Any], fds: Sequence[int] = ()) -> tuple[dict[str, Any], list[int]]:
        with await self._connect() as sock:
            return await self._converse(sock, body, fds)

    async def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, str(self._path))
        except BaseException:
            sock.close()
            raise
        return sock

    async def _converse(
        self, sock: socket.socket, body: dict[str, Any], fds: Sequence[int]
    ) -> tuple[dict[str, Any], list[int]]:
        raw = json.dumps(body).encode() + b"\n"
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        got: list[int] = []
        try:
            async with asyncio.timeout(_TALK_S):
                sent = sock.sendmsg([raw], rights)
                if sent < len(raw):
                    await asyncio.get_running_loop().sock_sendall(sock, raw[sent:])
                answer = await _read_line(sock, got)
        except BaseException as e:
            for fd in got:
                os.close(fd)
            if isinstance(e, ConnectionError | TimeoutError):
                raise Ambiguous(f"the zygote broke off: {e or 'no answer in time'}") from None
            raise
        if "error" in answer:
            raise _translate(str(answer["error"]), int(answer.get("errno") or 0))
        return answer, got


async def _read_line(sock: socket.socket, fds: list[int]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    data = b""
    while not data.endswith(b"\n"):
        try:
            more, new, _, _ = socket.recv_fds(sock, 65536, 64)
        except BlockingIOError:
            readable = asyncio.Event()
            loop.add_reader(sock, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(sock)
            continue
        fds += new
        if not more:
            raise ConnectionResetError("it closed the connection")
        data += more
    answer = json.loads(data)
    if not isinstance(answer, dict):
        raise ConnectionResetError("it answered nonsense")
    return answer


def _translate(text: str, number: int) -> ProviderError:
    if number in (errno.EAGAIN, errno.ENOMEM, errno.ENFILE, errno.EMFILE, errno.EUSERS):
        return Throttled(f"this machine can't make another box now: {text}", retry_after=5)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return ProviderError(f"no space left for a box: {text}", hint="free some disk space")
    return ProviderError(text)


def listen_unix(path: Path, backlog: int = 512) -> socket.socket:
    """A listening unix socket at ``path`` (0600), put in place by rename over what was there."""
    temp = path.with_name(f".{secrets.token_hex(4)}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(temp))
        os.chmod(temp, 0o600)
        sock.listen(backlog)
        os.rename(temp, path)
    except BaseException:
        sock.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temp)
        raise
    return sock
