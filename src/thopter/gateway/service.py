"""What every gateway process is: doors into boxes, and a control socket by which the hub changes them."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
import traceback
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from thopter import __version__
from thopter.gateway.connection import Exchange, Limits
from thopter.gateway.doors import Door, Doors
from thopter.gateway.http1 import BadRequest, Head, parse_head
from thopter.gateway.wire import (
    PROTOCOL,
    check_peer,
    close_all,
    decode,
    encode,
    readable,
    receive_line,
    send_line,
)
from thopter.model.errors import BadInput, ThopterError

RouteT = TypeVar("RouteT")
log = logging.getLogger("thopter.gateway")
_REQUEST_SECONDS = 20.0


class Service(ABC, Generic[RouteT]):
    """Base of a gateway. Ops: attach, detach, list, ping, watch, stop, and those of the subclass.

    After a restart nothing is attached: ``boot`` in every ``ping`` tells the hub that it must attach
    anew. ``attach`` with the same box replaces the old attachment without dropping a waiting client.
    """

    name = "gateway"

    def __init__(self, confined: tuple[str, ...] = (), idle_exit: float = 0.0) -> None:
        self.boot = secrets.token_hex(8)
        self.started_ms = time.time_ns() // 1_000_000
        self.confined = confined
        self.stopping = asyncio.Event()
        self.doors: Doors[RouteT] = None  # type: ignore[assignment]  # set by run(), before any op
        self._idle_exit = idle_exit
        self._heard = time.monotonic()
        self._talks: set[asyncio.Task[None]] = set()

    @abstractmethod
    def parse(self, request: dict[str, Any]) -> tuple[RouteT, Limits]:
        """Check an ``attach`` request; raises BadInput (never quoting a secret) or NotFound."""

    @abstractmethod
    def describe(self, route: RouteT) -> dict[str, Any]:
        """What ``list`` says about an attachment; no secrets."""

    @abstractmethod
    async def serve(self, door: Door[RouteT], exchange: Exchange) -> None:
        """Answer one request from a box."""

    @abstractmethod
    async def refuse(self, door: Door[RouteT], exchange: Exchange, problem: BadRequest) -> None:
        """Answer bytes that are no acceptable request."""

    def parse_head(self, raw: bytes) -> Head:
        """Read a request's head."""
        return parse_head(raw)

    async def retire(self, route: RouteT) -> None:
        """A route is no longer used for new requests. Nothing to do by default."""

    def attached(self, route: RouteT) -> None:
        """A route is used from now on. Nothing to do by default."""

    def detached(self, box: str) -> None:
        """A box is not served any more. Nothing to do by default."""

    async def extra(self, op: str, request: dict[str, Any]) -> dict[str, Any]:
        """Answer an op of the subclass."""
        raise BadInput(f"this gateway has no control operation {op!r}")

    async def run(self, control: socket.socket) -> None:
        """Serve until ``stop`` is asked, or nothing is attached and nobody has asked for long."""
        async with asyncio.TaskGroup() as group:
            self.doors = Doors(group, self.serve, self.refuse, self.parse_head)
            accept = group.create_task(self._control(group, control))
            idle = group.create_task(self._watch_idleness())
            await self.stopping.wait()
            accept.cancel()
            idle.cancel()
            routes = [self.doors.close(box) for box in list(self.doors.by_box)]
            for task in self._talks:
                task.cancel()
            for route in routes:
                if route is not None:
                    await self.retire(route)

    async def _watch_idleness(self) -> None:
        while self._idle_exit > 0:
            quiet = time.monotonic() - self._heard
            if not self.doors.by_box and quiet >= self._idle_exit:
                log.info("nothing attached and nobody asked for %d s: ending", quiet)
                self.stopping.set()
                return
            await asyncio.sleep(max(self._idle_exit - quiet, 0.2))

    async def _control(self, group: asyncio.TaskGroup, control: socket.socket) -> None:
        while True:
            await readable(control)
            try:
                client, _ = control.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                continue
            except OSError as e:
                log.error("the control socket can't accept: %s", e.strerror)
                await asyncio.sleep(0.2)
                continue
            client.setblocking(False)
            task = group.create_task(self._control_request(client))
            self._talks.add(task)
            task.add_done_callback(self._talks.discard)

    async def _control_request(self, client: socket.socket) -> None:
        fds: list[int] = []
        try:
            op = ""
            try:
                check_peer(client)
                async with asyncio.timeout(_REQUEST_SECONDS):
                    line, fds = await receive_line(client)
                if not line:
                    return
                request = decode(line)
                del line
                op = str(request.get("op", ""))
                answer: dict[str, Any] = {"ok": await self._op(op, request, fds)}
            except ThopterError as e:
                answer = {"error": e.to_dict()}
            async with asyncio.timeout(_REQUEST_SECONDS):
                await send_line(client, encode(answer))
            if op == "watch":
                await self._until_gone(client)
            elif op == "stop":
                log.info("stopping: the hub asked")
                self.stopping.set()
        except (OSError, TimeoutError) as e:
            log.info("a control request broke off: %s", type(e).__name__)
        except Exception as e:  # noqa: BLE001 - a bug in one op must not end the gateway that all boxes use
            # Only where, not what: the values at hand may be secrets.
            where = "".join(traceback.format_tb(e.__traceback__))
            log.error("a control request failed: %s\n%s", type(e).__name__, where)
        finally:
            close_all(fds)
            client.close()

    async def _until_gone(self, client: socket.socket) -> None:
        """Keep the connection open until its other end closes it; that our process dies is what the
        other end wants to learn."""
        while True:
            await readable(client)
            try:
                if not client.recv(4096):
                    return
            except (BlockingIOError, InterruptedError):
                continue

    async def _op(self, op: str, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        self._heard = time.monotonic()
        if op in ("ping", "watch", "stop"):
            return self._pong()
        if op == "attach":
            return await self._attach(request, fds)
        if op == "detach":
            route = self.doors.close(_box(request))
            if route is not None:
                self.detached(_box(request))
                await self.retire(route)
            return {"was_attached": route is not None}
        if op == "list":
            return {"attached": self._attached()}
        return await self.extra(op, request)

    async def _attach(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        box = _box(request)
        if len(fds) > 1:
            raise BadInput("more than one descriptor came along with attach")
        route, limits = self.parse(request)
        sock = socket.socket(fileno=fds.pop()) if fds else None
        try:
            old = self.doors.open(box, route, limits, sock)
        except BaseException:
            if sock is not None:
                sock.close()
            await self.retire(route)
            raise
        self.attached(route)
        if old is not None:
            await self.retire(old)
        log.info("attached %s", box)
        return {"replaced": old is not None}

    def _attached(self) -> dict[str, Any]:
        return {
            box: {**self.describe(door.route), "connections": door.open_connections}
            for box, door in self.doors.by_box.items()
        }

    def _pong(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "protocol": PROTOCOL,
            "version": __version__,
            "pid": os.getpid(),
            "boot": self.boot,
            "started_ms": self.started_ms,
            "attached": sorted(self.doors.by_box),
            "confined": list(self.confined),
        }


def _box(request: dict[str, Any]) -> str:
    box = request.get("box")
    if not isinstance(box, str) or not 0 < len(box) <= 128 or not box.isascii() or not box.isprintable():
        raise BadInput("'box' must be a short printable text")
    return box
