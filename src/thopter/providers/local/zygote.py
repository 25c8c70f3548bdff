"""The zygote: a small, clean, long-lived process from which the first process of every box is forked.

It holds nothing secret: its environment is empty, its descriptors are its socket and the gateways'
listening sockets of its boxes. It survives the hub, and boxes survive it. One request is one JSON
line (with descriptors by SCM_RIGHTS) on ``zygote.sock``, one JSON line is the answer.

Everything that a box's boxd will ever import is imported here, before the first fork: the box can't
see this machine's Python.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import time
from typing import NoReturn

from thopter.kit import failpoint
from thopter.kit.linux import calls, procs
from thopter.providers.local import birth, outer, starting, walls
from thopter.providers.local.fdline import Line, failure, send
from thopter.providers.local.opening import listen_here
from thopter.providers.local.order import Half

_LOOK_AROUND_MS = 60_000.0
_SPARE_AFTER_S = 0.03  # the box just made gets the processors to itself first


class Client(Line):
    """A connection of the hub."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.builder: Builder | None = None

    def answer(self, body: dict[str, object], fds: list[int] | None = None) -> None:
        """Send one line; a client that is gone or does not read is its own problem."""
        try:
            send(self.sock, body, fds)
        except OSError:
            self.sock.shutdown(socket.SHUT_RDWR)


class Builder(Line):
    """A builder process: a spare while ``client`` is None."""

    def __init__(self, pid: int, sock: socket.socket, half: Half) -> None:
        super().__init__(sock)
        self.pid = pid
        self.half = half
        self.key = ""
        self.client: Client | None = None


class Zygote:
    """The loop. Its state is the listeners of its boxes and its spare builders."""

    def __init__(self, server: socket.socket, version: str, home: str, run: birth.Run) -> None:
        self._server = server
        self._home = home
        self._version = version
        self._run = run
        self._code = walls.program()
        self._listeners: dict[str, dict[int, socket.socket]] = {}
        self._clients: dict[int, Client] = {}
        self._builders: dict[int, Builder] = {}
        self._spares: dict[str, Builder] = {}
        self._wanted: list[tuple[float, Half]] = []
        self._poll = select.poll()
        self._poll.register(server, select.POLLIN)

    def serve(self) -> NoReturn:
        """Answer for ever."""
        wake, poke = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(poke)
        self._poll.register(wake, select.POLLIN)
        while True:
            ready = self._poll.poll(self._patience())
            if not ready and not os.path.isdir(self._home):
                os._exit(0)  # somebody removed the whole state folder: nothing is left to serve
            for fd, _ in ready:
                if fd == wake:
                    os.read(wake, 4096)
                    self._reap()
                elif fd == self._server.fileno():
                    self._accept()
                elif fd in self._builders:
                    self._hear_builder(self._builders[fd])
                elif fd in self._clients:
                    self._hear_client(fd, self._clients[fd])
            while self._wanted and self._wanted[0][0] <= time.monotonic():
                _, half = self._wanted.pop(0)
                self._spares[half.group] = self._fork(half)

    def _patience(self) -> float:
        if not self._wanted:
            return _LOOK_AROUND_MS
        return max(0.0, (self._wanted[0][0] - time.monotonic()) * 1000)

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
        self._clients[sock.fileno()] = Client(sock)
        self._poll.register(sock, select.POLLIN)

    def _hear_client(self, fd: int, client: Client) -> None:
        if not client.read():
            self._poll.unregister(fd)
            del self._clients[fd]
            if client.builder is not None:  # nobody wants the box any more
                os.kill(client.builder.pid, signal.SIGKILL)
                client.builder.client = None
            client.close()
            return
        while b"\n" in client.data and client.builder is None:
            try:
                self._request(client, client.take())
            except (OSError, ValueError, KeyError, TypeError) as e:
                client.answer(failure(e))
            for left in client.take_fds():
                os.close(left)

    def _request(self, client: Client, ask: dict[str, object]) -> None:
        op = ask.get("op")
        if op == "ping":
            boxes = sorted(self._listeners)
            spares = [*(b.half.raw for b in self._spares.values()), *(half.raw for _, half in self._wanted)]
            client.answer({"pid": os.getpid(), "version": self._version, "boxes": boxes, "spares": spares})
        elif op == "create":
            self._create(client, ask)
        elif op == "listen":
            self._listen(client, ask)
        elif op == "start":
            (log,) = client.fds
            argv, groups, env = ask["argv"], ask["cgroups"], ask["env"]
            if not (isinstance(argv, list) and isinstance(groups, list) and isinstance(env, dict)):
                raise ValueError("start needs an argv, cgroups and an environment")
            client.answer(starting.start(argv, groups, env, log))
        elif op == "adopt":
            fds = client.take_fds()
            self._keep(str(ask["key"]), _ports(ask), fds)
            client.answer({})
        elif op == "forget":
            self._forget(str(ask["key"]))
            client.answer({})
        elif op == "drop":
            self._drop(str(ask["group"]))
            client.answer({})
        elif op == "stop":
            client.answer({})
            os._exit(0)
        else:
            client.answer({"error": f"unknown request {op!r}", "errno": 0})

    def _keep(self, key: str, ports: list[int], fds: list[int]) -> None:
        self._forget(key)
        self._listeners[key] = {p: socket.socket(fileno=fd) for p, fd in zip(ports, fds, strict=True)}

    def _forget(self, key: str) -> None:
        for sock in self._listeners.pop(key, {}).values():
            sock.close()

    def _drop(self, group: str) -> None:
        """End the builder of ``group``, spare or at work, or make none."""
        self._wanted = [w for w in self._wanted if w[1].group != group]
        for builder in self._builders.values():
            if builder.half.group == group:
                os.kill(builder.pid, signal.SIGKILL)

    def _create(self, client: Client, ask: dict[str, object]) -> None:
        order, half, after = ask["order"], ask["half"], ask.get("next")
        if not (isinstance(order, dict) and isinstance(half, dict)):
            raise ValueError("create needs an order and a half")
        mine = Half(half)
        self._wanted = [w for w in self._wanted if w[1].group != mine.group]
        builder = self._spares.pop(mine.group, None) or self._fork(mine)
        builder.key, builder.client, client.builder = str(ask["key"]), client, builder
        with contextlib.suppress(OSError):  # it died; its last words are still to be heard
            send(builder.sock, order, client.fds)
        if isinstance(after, dict):
            self._wanted.append((time.monotonic() + _SPARE_AFTER_S, Half(after)))

    def _fork(self, half: Half) -> Builder:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            calls.close_all_but((theirs.fileno(),))
            os.setsid()
            birth.builder(theirs, half, self._code, self._run)
        theirs.close()
        builder = Builder(pid, ours, half)
        self._builders[ours.fileno()] = builder
        self._poll.register(ours, select.POLLIN)
        return builder

    def _hear_builder(self, builder: Builder) -> None:
        if builder.read() and b"\n" not in builder.data:
            return
        self._poll.unregister(builder.sock)
        del self._builders[builder.sock.fileno()]
        self._spares = {g: b for g, b in self._spares.items() if b is not builder}
        report: dict[str, object] = {"error": "the builder of the box was killed", "errno": 0}
        if b"\n" in builder.data:
            report = builder.take()
        client = builder.client
        if client is not None:
            client.builder = None
            if "error" not in report:
                self._keep(builder.key, _ports(report), builder.take_fds())
                failpoint.hit("zygote.holds")
                try:
                    builder.sock.sendall(b"k")
                except OSError:
                    self._forget(builder.key)
                    report = {"error": "the builder of the box was killed", "errno": 0}
            client.answer(report)
        builder.close()

    def _listen(self, client: Client, ask: dict[str, object]) -> None:
        key = str(ask["key"])
        held = self._listeners.setdefault(key, {})
        ports = sorted(held) if ask["ports"] is None else _ports(ask)
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
            if not outer.same(net, "/proc/self/ns/net"):  # a box without isolation is where we are
                if user is not None:
                    calls.setns(user, calls.CLONE_NEWUSER)
                calls.setns(net, calls.CLONE_NEWNET)
            made = [listen_here(p) for p in ports]
            send(theirs, {}, [s.fileno() for s in made])
        except BaseException as e:  # noqa: BLE001 - told to the parent below
            send(theirs, failure(e))
        finally:
            os._exit(0)
    theirs.close()
    line = Line(ours)
    report = line.wait()
    if report is None:
        report = {"error": "the helper was killed", "errno": 0}
    fds = line.take_fds()
    ours.close()
    if "error" in report:
        raise OSError(int(str(report["errno"])) or 5, str(report["error"]))
    return {port: socket.socket(fileno=fd) for port, fd in zip(ports, fds, strict=True)}


def _ports(raw: dict[str, object]) -> list[int]:
    value = raw["ports"]
    if not isinstance(value, list):
        raise ValueError("ports is not a list")
    return [int(str(p)) for p in value]


def main(server_fd: int, version: str, name: str, home: str, run: birth.Run) -> NoReturn:
    """Become a daemon and serve on the listening socket ``server_fd``. ``name`` shows in ps; the
    zygote ends by itself when the folder ``home`` is gone."""
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
    calls.retitle("thopter-zygote", f"thopter-zygote {name}")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = socket.socket(fileno=server_fd)
    server.setblocking(False)
    Zygote(server, version, home, run).serve()
