"""The hook listener: agents report here by HTTP on the loopback; every report goes to the journal."""

from __future__ import annotations

import re
import socket
from _operator import _compare_digest
from typing import Any, Dict, Optional

from thopter.boxd import fields
from thopter.boxd.accept import Acceptor
from thopter.boxd.box import Box
from thopter.boxd.conn import Channel, Handler
from thopter.boxd.fields import OpError, Request, bad
from thopter.boxd.http import HttpError, HttpParser, HttpRequest, response
from thopter.boxd.loop import GONE, HANGUP, READ, WRITE, Timer, log
from thopter.boxd.shrink import shrink

_RECORD = 96 << 10  # of a hook's body that the journal keeps
_MAX_CONNECTIONS = 256
_PATIENCE = 30.0  # seconds for a request to arrive whole
_RETRY = (0.1, 0.5, 1.0, 5.0, 30.0)  # seconds between tries to bind the port
_EVENT = re.compile(r"/hook/([A-Za-z0-9_.-]{1,64})")
_RUN = re.compile(r"[A-Za-z0-9_.-]{0,128}")
_PID = re.compile(r"[1-9][0-9]{0,9}")
_HOLD = re.compile(r"[0-9]{1,5}(\.[0-9]{1,3})?")
_MAX_HOLD = 86_400.0
_HOSTS = ("127.0.0.1", "localhost")


class Hooks:
    """Listens on 127.0.0.1; answers 204 once the hook is in the journal, or holds the request
    until ``hook.answer`` or until its time is over. A held request of a caller that has gone
    away is forgotten. How a held request ended is in the journal: ``hook.closed`` with ``how``
    ``answered`` (by ``hook.answer``), ``gone`` (by its caller) or ``expired``; none: boxd ended."""

    def __init__(self, box: Box, listener: Optional[socket.socket]) -> None:
        """``listener``: a listening socket inherited from init, so that no hook is refused while
        boxd restarts; otherwise the port is bound here, again and again until that works."""
        self._box = box
        tokens = [box.config.hook_token, *box.config.inherits.tokens]
        self._tokens = [b"Bearer " + t.encode("utf-8", "surrogateescape") for t in tokens]
        self._connections: Dict[int, _HookConnection] = {}
        self._held: Dict[str, _HookConnection] = {}
        self._count = 0
        self.port = 0
        if listener is not None:
            self._listen(listener)
        elif box.config.hook_port >= 0:
            self._bind(0)

    def answer(self, name: str, status: int, body: bytes, how: str = "answered") -> bool:
        """Answer a held hook; False when it is gone. Recorded before a byte of it is sent, so that
        whoever asked, and lost the answer to that, finds here that it was given."""
        held = self._held.get(name)
        if held is None:
            return False
        if held.is_gone():
            held.close()
            return False
        self._held.pop(name)
        self._closed(name, held.run, how)
        held.reply(response(status, body))
        return True

    def _closed(self, name: str, run: str, how: str) -> None:
        self._box.journal.append("hook.closed", run=run, id=name, how=how)

    def _bind(self, tries: int) -> None:
        try:
            self._listen(bind_hooks(self._box.config.hook_port))
        except OSError as e:
            if tries == 0:
                log(f"hooks can't be heard on port {self._box.config.hook_port} yet: {e.strerror}")
            pause = _RETRY[min(tries, len(_RETRY) - 1)]
            self._box.loop.later(pause, lambda: self._bind(tries + 1))

    def _listen(self, listener: socket.socket) -> None:
        self.port = listener.getsockname()[1]
        self._box.said.listening(self.port)
        Acceptor(self._box.loop, listener, self._take)

    def _take(self, sock: socket.socket) -> None:
        if len(self._connections) >= _MAX_CONNECTIONS and not self._evict():
            sock.close()
            return
        self._connections[sock.fileno()] = _HookConnection(self._box, self, sock)

    def _evict(self) -> bool:
        for connection in self._connections.values():
            if connection.idle:
                connection.close()
                return True
        return False

    def forget(self, fd: int, held: str) -> None:
        """A connection has been closed."""
        self._connections.pop(fd, None)
        connection = self._held.pop(held, None)
        if connection is not None:
            self._closed(held, connection.run, "gone")

    def take(self, request: HttpRequest, connection: _HookConnection) -> Optional[bytes]:
        """Record a hook; return the answer, or None when it is held. Raises HttpError."""
        if "run" in request.query:
            request.query["run"] = self._box.config.inherits.own(request.query["run"])
        if request.path.startswith("/said"):
            return self._box.said.take(request)
        match = _EVENT.fullmatch(request.path)
        if match is None:
            raise HttpError(404, "hooks are POSTed to /hook/<Event>")
        if request.method != "POST":
            raise HttpError(405, "hooks are POSTed")
        run, hold_text = request.query.get("run", ""), request.query.get("hold", "0")
        if not _RUN.fullmatch(run) or not _HOLD.fullmatch(hold_text):
            raise HttpError(400, "run or hold is malformed")
        hold = min(float(hold_text), _MAX_HOLD)
        body, cut = shrink(request.body, _RECORD)
        facts: Dict[str, Any] = {"run": run, "event": match.group(1), "body": body}
        facts.update(self._speaker(request, connection))
        if cut:
            facts["truncated"], facts["size"] = True, len(request.body)
        if hold:
            self._count += 1
            facts["id"] = name = f"{self._box.boot}-{self._count}"
            self._held[name] = connection
            connection.hold(name, run, hold)
        self._box.journal.append("hook", **facts)
        return None if hold else response(204, close=not request.keep_alive)

    def _speaker(self, request: HttpRequest, connection: _HookConnection) -> Dict[str, Any]:
        """Which of the box's agents this is, where that can be told."""
        pid = request.query.get("pid", "")
        if not pid:
            return self._box.speakers.at_the_other_end(connection.sock)
        if not _PID.fullmatch(pid):
            raise HttpError(400, "pid is malformed")
        return self._box.speakers.introduced(int(pid))

    def approve(self, headers: Dict[str, str]) -> None:
        """Decide by its head alone whether a request is read at all. Raises HttpError."""
        host = headers.get("host", "")
        if host not in _HOSTS and host.rpartition(":")[0] not in _HOSTS:
            raise HttpError(403, "this host name is not served here")
        if "origin" in headers:
            raise HttpError(403, "not for browsers")
        given = headers.get("authorization", "").encode("latin-1")
        known = [_compare_digest(given, token) for token in self._tokens]  # all, so that time tells nothing
        if not self._box.config.hook_token or not any(known):
            raise HttpError(401, "the box's token is missing or wrong")


def bind_hooks(port: int) -> socket.socket:
    """Return a listening socket on the loopback (port 0: any free one). Raises OSError."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(256)
    except OSError:
        listener.close()
        raise
    return listener


class _HookConnection:
    """One HTTP connection: a request at a time; while one is held the next is not looked at."""

    def __init__(self, box: Box, hooks: Hooks, sock: socket.socket) -> None:
        self._box, self._hooks, self.sock = box, hooks, sock
        self._parser = HttpParser(hooks.approve)
        self._out = b""
        self._closing = False
        self._held = ""
        self.run = ""  # whose hook is held
        self._keep = True
        self._timer: Optional[Timer] = None
        self._fd = sock.fileno()
        sock.setblocking(False)
        box.loop.watch(self._fd, READ | HANGUP, self._ready)

    @property
    def idle(self) -> bool:
        """True between requests."""
        return not self._held and not self._out and self._parser.empty

    def hold(self, name: str, run: str, seconds: float) -> None:
        """Keep the present request open until :meth:`reply` or the end of its time."""
        self._held, self.run = name, run
        self._set_timer(seconds, self._held_long_enough)

    def is_gone(self) -> bool:
        """True when the caller has hung up, though the loop has not come to it yet."""
        try:
            return self.sock.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def reply(self, answer: bytes) -> None:
        """Answer the held request and go on with the connection."""
        self._held = ""
        self._set_timer(0, None)
        self._send(answer, not self._keep)
        if not self._closing:
            self._work()

    def close(self) -> None:
        """Close now."""
        if self._fd >= 0:
            self._set_timer(0, None)
            self._box.loop.forget(self._fd)
            self._hooks.forget(self._fd, self._held)
            self.sock.close()
            self._fd = -1

    def _held_long_enough(self) -> None:
        name = self._held
        self._hooks.answer(name, 204, b"", "expired")

    def _set_timer(self, seconds: float, call: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._box.loop.later(seconds, call) if call is not None else None

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if self._fd >= 0 and events & READ and not self._closing:
            self._receive()
        elif self._fd >= 0 and events & (HANGUP | GONE):
            self.close()

    def _receive(self) -> None:
        try:
            received = self.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self.close()
            return
        try:
            self._parser.feed(received)
        except HttpError as e:
            self._refuse(e)
            return
        if not self._held:
            self._work()

    def _work(self) -> None:
        try:
            while not self._held and not self._closing and self._fd >= 0:
                request = self._parser.next()
                if request is None:
                    if self._parser.wants_continue:
                        self._parser.wants_continue = False
                        self._send(response(100), False)
                    break
                self._keep = request.keep_alive
                answer = self._hooks.take(request, self)
                if answer is not None:
                    self._send(answer, not request.keep_alive)
        except HttpError as e:
            self._refuse(e)
            return
        if self._fd >= 0 and not self._held:
            # A request must arrive whole within its time; between requests nothing ticks.
            if self._parser.empty:
                self._set_timer(0, None)
            elif self._timer is None:
                self._set_timer(_PATIENCE, self.close)

    def _refuse(self, error: HttpError) -> None:
        body = b'{"error":"' + error.reason.encode("ascii", "replace") + b'"}'
        self._send(response(error.status, body, close=True), True)

    def _send(self, answer: bytes, close: bool) -> None:
        self._out += answer
        self._closing = self._closing or close
        self._flush()

    def _flush(self) -> None:
        if self._fd < 0:
            return
        try:
            self._out = self._out[self.sock.send(self._out) :] if self._out else b""
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._out:
            self._box.loop.change(self._fd, READ | HANGUP | WRITE)
            return
        if self._closing:
            self._shut()
        else:
            self._box.loop.change(self._fd, READ | HANGUP)

    def _shut(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the caller has gone already
        self.close()


def open_answer(box: Box, channel: Channel, request: Request) -> Handler:
    """Serve ``hook.answer``: give a held hook its answer, or ``not_found`` when it is gone."""
    name = fields.string(request, "id")
    status = fields.integer(request, "status", 200, 200, 599)
    body = request.get("body", "")
    if not isinstance(body, str):
        raise bad("body must be a text")
    if not box.hooks.answer(name, status, body.encode("utf-8", "surrogateescape")):
        raise OpError("not_found", "that hook is not waiting any more")
    channel.end({})
    return Handler()
