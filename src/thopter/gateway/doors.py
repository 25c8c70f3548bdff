"""Doors: the listening sockets inside boxes that a gateway serves, one per box, changed while it runs.

A door outlives its route: a new attachment of the same box swaps socket and route in place, and the next
request on an open connection already uses the new route. Closing a door ends its connections at once.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from thopter.gateway.connection import Exchange, Limits, Wire, serve_connection
from thopter.gateway.http1 import BadRequest, Head, parse_head
from thopter.gateway.wire import readable
from thopter.model.errors import BadInput

RouteT = TypeVar("RouteT")
log = logging.getLogger("thopter.gateway")

_NOT_A_LISTENER = (errno.EBADF, errno.EINVAL, errno.ENOTSOCK)


def check_listener(sock: socket.socket) -> None:
    """Raise BadInput unless ``sock`` is a listening stream socket."""
    kind = sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if kind != socket.SOCK_STREAM or not listening:
        raise BadInput("the descriptor that came along is not a listening stream socket")


class Door(Generic[RouteT]):
    """One box's way in. ``route`` and ``limits`` are read anew for every request."""

    def __init__(self, box: str, route: RouteT, limits: Limits, sock: socket.socket) -> None:
        self.box = box
        self.route = route
        self.limits = limits
        self.sock = sock
        self.open_connections = 0
        self.connections: set[asyncio.Task[None]] = set()
        self.freed = asyncio.Event()
        self.accepting: asyncio.Task[None] | None = None


Serve = Callable[[Door[RouteT], Exchange], Awaitable[None]]
Refuse = Callable[[Door[RouteT], Exchange, BadRequest], Awaitable[None]]


class Doors(Generic[RouteT]):
    """All doors of one gateway. ``serve`` answers a request; ``refuse`` answers what is no request.

    Runs inside the TaskGroup it is given; an error while serving one connection ends that connection,
    is logged, and touches no other.
    """

    def __init__(
        self,
        group: asyncio.TaskGroup,
        serve: Serve[RouteT],
        refuse: Refuse[RouteT],
        parse: Callable[[bytes], Head] = parse_head,
    ) -> None:
        self._parse = parse
        self._group = group
        self._serve = serve
        self._refuse = refuse
        self.by_box: dict[str, Door[RouteT]] = {}

    def open(self, box: str, route: RouteT, limits: Limits, sock: socket.socket | None) -> RouteT | None:
        """Serve ``box`` by ``route``; returns the route this replaces. ``sock`` is owned from now on;
        None keeps the present one (BadInput when there is none)."""
        door = self.by_box.get(box)
        if sock is None:
            if door is None:
                raise BadInput(f"{box} is not attached yet: its listening socket must come along")
            old, door.route, door.limits = door.route, route, limits
            return old
        check_listener(sock)
        sock.setblocking(False)
        if door is None:
            door = self.by_box[box] = Door(box, route, limits, sock)
            door.accepting = self._group.create_task(self._accept(door, sock), name=f"accept {box}")
            return None
        old, door.route, door.limits = door.route, route, limits
        self._stop_accepting(door)
        door.sock = sock
        door.accepting = self._group.create_task(self._accept(door, sock), name=f"accept {box}")
        return old

    def close(self, box: str) -> RouteT | None:
        """Stop serving ``box`` and end its connections; returns the route it had."""
        door = self.by_box.pop(box, None)
        if door is None:
            return None
        self._stop_accepting(door)
        for task in door.connections:
            task.cancel()
        return door.route

    def close_all(self) -> None:
        """Close every door."""
        for box in list(self.by_box):
            self.close(box)

    def _stop_accepting(self, door: Door[RouteT]) -> None:
        if door.accepting is not None:
            door.accepting.cancel()
        # The accept task removes its reader on the way out, and may do so only after the number of this
        # descriptor was given to somebody else: take the reader away now, then close.
        asyncio.get_running_loop().remove_reader(door.sock.fileno())
        door.sock.close()

    async def _accept(self, door: Door[RouteT], sock: socket.socket) -> None:
        """Take connections one by one; never takes more than the box may have at once (the others
        wait in the kernel's queue)."""
        while True:
            while door.open_connections >= door.limits.connections:
                door.freed.clear()
                await door.freed.wait()
            await readable(sock)
            try:
                client, _ = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                continue
            except OSError as e:
                log.error("a connection to %s can't be accepted: %s", door.box, e.strerror)
                if e.errno in _NOT_A_LISTENER:
                    return
                await asyncio.sleep(0.2)  # no descriptors or memory, or a network error of that connection
                continue
            client.setblocking(False)
            door.open_connections += 1
            task = self._group.create_task(self._connection(door, client), name=f"serve {door.box}")
            door.connections.add(task)
            task.add_done_callback(door.connections.discard)

    async def _connection(self, door: Door[RouteT], client: socket.socket) -> None:
        wire: Wire | None = None
        try:
            loop = asyncio.get_running_loop()
            if client.family != socket.AF_UNIX:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _, wire = await loop.connect_accepted_socket(Wire, client)

            async def handle(exchange: Exchange) -> None:
                await self._serve(door, exchange)

            async def refuse(exchange: Exchange, problem: BadRequest) -> None:
                await self._refuse(door, exchange, problem)

            await serve_connection(wire, lambda: door.limits, handle, refuse, self._parse)
        except asyncio.CancelledError:
            raise
        except OSError as e:
            log.info("a connection of %s broke: %s", door.box, e)
        except Exception:  # one connection's bug must not end the others; it is logged whole
            log.exception("a connection of %s failed", door.box)
        finally:
            door.open_connections -= 1
            door.freed.set()
            if wire is None:
                client.close()
