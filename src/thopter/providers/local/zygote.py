"""The zygote: a small, clean, long-lived process from which the first process of every box is forked.

It holds nothing secret: its environment is empty, its descriptors are its socket and the gateways'
listening sockets of its boxes. It survives the hub, and boxes survive it. One request is one JSON
line (with descriptors by SCM_RIGHTS) on ``zygote.sock``, one JSON line is the answer.

Everything that a box's boxd will ever import is imported here, before the first fork: the box can't
see this machine's Python.
"""

from __future__ import annotations

import array
import json
import os
import select
import signal
import socket
import struct

from thopter.kit import failpoint
from thopter.kit.linux import calls, procs
from thopter.providers.local import birth, outer, walls
from thopter.providers.local.order import Order

_MAX_LINE = 256 << 10
_MAX_FDS = 64


class Line:
    """One client connection: bytes and descriptors that came in and are not used yet."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = b""
        self.fds: list[int] = []
        self.builder: Builder | None = None

    def read(self) -> bool:
        """Take in what is there; False when the other side is gone or says too much."""
        try:
            data, ancillary, _, _ = self.sock.recvmsg(65536, socket.CMSG_SPACE(_MAX_FDS * 4))
        except (ConnectionError, BlockingIOError) as e:
            return isinstance(e, BlockingIOError)
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                got = array.array("i")
                got.frombytes(raw[: len(raw) - len(raw) % got.itemsize])
                self.fds += got
        self.data += data
        return bool(data) and len(self.data) <= _MAX_LINE and len(self.fds) <= _MAX_FDS

    def take_fds(self) -> list[int]:
        """Hand over the descriptors that came with the request."""
        fds, self.fds = self.fds, []
        return fds

    def answer(self, body: dict[str, object], fds: list[int] | None = None) -> None:
        """Send one line; a client that does not read is its own problem (the socket just closes)."""
        try:
            send(self.sock, body, fds or [])
        except OSError:
            self.sock.close()

    def close(self) -> None:
        """Let go of everything that is still in it."""
        for fd in self.take_fds():
            os.close(fd)
        self.sock.close()


class Builder:
    """A builder process at work for a client."""

    def __init__(self, pid: int, key: str, sock: socket.socket, client: Line) -> None:
        self.pid, self.key, self.client = pid, key, client
        self.line = Line(sock)


def send(sock: socket.socket, body: dict[str, object], fds: list[int]) -> None:
    """Send one JSON line with ``fds``."""
    raw = json.dumps(body).encode() + b"\n"
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = sock.sendmsg([raw], rights)
    if sent < len(raw):
        sock.sendall(raw[sent:])


class Zygote:
    """The loop. All its state is the listeners of its boxes."""

    def __init__(self, server: socket.socket, version: str, run: birth.Run) -> None:
        self._server = server
        self._version = version
        self._run = run
        self._filter = walls.program()
        self._listeners: dict[str, dict[int, socket.socket]] = {}
        self._clients: dict[int, Line] = {}
        self._builders: dict[int, Builder] = {}
        self._poll = select.poll()
        self._poll.register(server, select.POLLIN)

    def serve(self) -> None:
        """Answer for ever."""
        wake, poke = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(poke)
        self._poll.register(wake, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll():
                if fd == wake:
                    os.read(wake, 4096)
                    self._reap()
                elif fd == self._server.fileno():
                    self._accept()
                elif fd in self._builders:
                    self._hear_builder(self._builders[fd])
                elif fd in self._clients:
                    self._hear_client(fd, self._clients[fd])

    def _reap(self) -> None:
        # Builders and, as this is their subreaper, the first processes of boxes.
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return

    def _accept(self) -> None:
        try:
            sock, _ = self._server.accept()
        except OSError:
            return
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, uid, _ = struct.unpack("iii", raw)
        if uid not in (0, os.getuid()):
            sock.close()
            return
        self._clients[sock.fileno()] = Line(sock)
        self._poll.register(sock, select.POLLIN)

    def _hear_client(self, fd: int, client: Line) -> None:
        if not client.read():
            self._poll.unregister(fd)
            del self._clients[fd]
            if client.builder is not None:  # nobody wants the box any more
                os.kill(client.builder.pid, signal.SIGKILL)
            client.close()
            return
        while b"\n" in client.data and client.builder is None:
            raw, _, client.data = client.data.partition(b"\n")
            try:
                self._request(client, json.loads(raw))
            except (OSError, ValueError, KeyError, TypeError) as e:
                client.answer({"error": f"{type(e).__name__}: {e}", "errno": getattr(e, "errno", None) or 0})
            for left in client.take_fds():
                os.close(left)

    def _request(self, client: Line, ask: dict[str, object]) -> None:
        op = ask.get("op")
        if op == "ping":
            client.answer({"pid": os.getpid(), "version": self._version, "boxes": sorted(self._listeners)})
        elif op == "create":
            self._create(client, ask)
        elif op == "listen":
            self._listen(client, ask)
        elif op == "adopt":
            ports = [int(str(p)) for p in _list(ask, "ports")]
            fds = client.take_fds()
            self._listeners[str(ask["key"])] = {
                port: socket.socket(fileno=fd) for port, fd in zip(ports, fds, strict=True)
            }
            client.answer({})
        elif op == "forget":
            self._forget(str(ask["key"]))
            client.answer({})
        elif op == "stop":
            client.answer({})
            os._exit(0)
        else:
            client.answer({"error": f"unknown request {op!r}", "errno": 0})

    def _forget(self, key: str) -> None:
        for sock in self._listeners.pop(key, {}).values():
            sock.close()

    def _create(self, client: Line, ask: dict[str, object]) -> None:
        order = Order(ask)
        fds = client.take_fds()
        if len(fds) != 1:
            raise ValueError("create comes with exactly one listening socket")
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            self._build(order, fds[0], theirs)
        os.close(fds[0])
        theirs.close()
        builder = Builder(pid, order.key, ours, client)
        client.builder = builder
        self._builders[ours.fileno()] = builder
        self._poll.register(ours, select.POLLIN)

    def _build(self, order: Order, boxd_fd: int, line: socket.socket) -> None:
        """The builder process. Never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            calls.close_all_but((boxd_fd, line.fileno()))
            os.setsid()
            mapper = outer.mapper(order.outer) if order.outer else None
            box = birth.build(order, boxd_fd, mapper, self._filter, self._run)
            ports = sorted(box.listeners)
            fds = [box.listeners[p].fileno() for p in ports]
            send(line, {"pid": box.pid, "start": box.start, "ports": ports}, fds)
            failpoint.hit("birth.reported")
            if line.recv(1) == b"k":
                box.line.sendall(b"g")
                code = 0
        except BaseException as e:  # noqa: BLE001 - told to the zygote, which tells the hub
            number = e.errno if isinstance(e, OSError) else 0
            send(line, {"error": f"{e}" if number else f"{type(e).__name__}: {e}", "errno": number or 0}, [])
        finally:
            os._exit(code)

    def _hear_builder(self, builder: Builder) -> None:
        line = builder.line
        alive = line.read()
        if alive and b"\n" not in line.data:
            return
        self._poll.unregister(line.sock)
        del self._builders[line.sock.fileno()]
        builder.client.builder = None
        if b"\n" in line.data:
            report = json.loads(line.data)
        else:
            report = {"error": "the builder of the box was killed", "errno": 0}
        if "error" not in report:
            self._forget(builder.key)
            self._listeners[builder.key] = {
                port: socket.socket(fileno=fd)
                for port, fd in zip(report["ports"], line.take_fds(), strict=True)
            }
            failpoint.hit("zygote.holds")
            try:
                line.sock.sendall(b"k")
            except OSError:
                self._forget(builder.key)
                report = {"error": "the builder of the box was killed", "errno": 0}
        line.close()
        builder.client.answer(report)

    def _listen(self, client: Line, ask: dict[str, object]) -> None:
        key = str(ask["key"])
        held = self._listeners.setdefault(key, {})
        ports = sorted(held) if ask["ports"] is None else [int(str(p)) for p in _list(ask, "ports")]
        missing = [p for p in ports if p not in held]
        if missing:
            held.update(listen_in(int(str(ask["pid"])), int(str(ask["start"])), missing))
        client.answer({"ports": ports}, [held[p].fileno() for p in ports])


def listen_in(pid: int, start: int, ports: list[int]) -> dict[int, socket.socket]:
    """Open listening sockets in the network namespace of process ``pid``, through a forked helper
    (an ordinary user must join the box's outer user namespace for it, and could not come back)."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            user, net = outer.open_network(pid)
            if procs.start_time(pid) != start:
                raise OSError(3, "the box is gone")
            if user is not None:
                calls.setns(user, calls.CLONE_NEWUSER)
            calls.setns(net, calls.CLONE_NEWNET)
            made = [birth.listen_here(p) for p in ports]
            send(theirs, {}, [s.fileno() for s in made])
        except BaseException as e:  # noqa: BLE001 - told to the parent below
            send(theirs, {"error": str(e), "errno": getattr(e, "errno", None) or 0}, [])
        finally:
            os._exit(0)
    theirs.close()
    line = Line(ours)
    while b"\n" not in line.data and line.read():
        pass
    fds = line.take_fds()
    ours.close()
    report = json.loads(line.data or b'{"error": "the helper was killed", "errno": 0}')
    if "error" in report:
        raise OSError(report["errno"], report["error"])
    return {port: socket.socket(fileno=fd) for port, fd in zip(ports, fds, strict=True)}


def _list(raw: dict[str, object], key: str) -> list[object]:
    value = raw[key]
    if not isinstance(value, list):
        raise ValueError(f"{key} is not a list")
    return value


def main(server_fd: int, version: str, run: birth.Run) -> None:
    """Become a daemon and serve on the listening socket ``server_fd``. Never returns."""
    if os.fork():
        os._exit(0)
    os.setsid()
    keep = {k: v for k, v in os.environ.items() if k == failpoint.ENV}
    os.environ.clear()
    os.environ.update(keep)
    os.chdir("/")
    os.umask(0o077)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    calls.close_all_but((server_fd,))
    calls.new_session_keyring()
    calls.prctl(calls.PR_SET_CHILD_SUBREAPER, 1)
    calls.set_name("thopter-zygote")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = socket.socket(fileno=server_fd)
    server.setblocking(False)
    Zygote(server, version, run).serve()
