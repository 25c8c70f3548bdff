"""An emulator of ntfy's publishing API as its documentation describes it: a message is published by a
POST of JSON to ``/`` or of plain text to ``/TOPIC``, with headers (``X-Title``, ``X-Priority``,
``X-Tags``, ``X-Click``) or their JSON names, authorized by ``Bearer``; and read by ``/TOPIC/json?poll=1``.
It can be told to be slow, to fail, or to be away (its port closed, and opened again)."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PRIORITIES = {"min": 1, "low": 2, "default": 3, "high": 4, "urgent": 5, "max": 5}
BODY_MAX = 4096


class _Server(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    ntfy: NtfyServer


class NtfyServer:
    """``messages`` are those it took, in order, as ``/TOPIC/json`` would tell them."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.attempts = 0
        self.status = 200
        self.delay = 0.0
        self.token = ""
        self.port = 0
        self._server: _Server | None = None
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Its address, also while it is away."""
        return f"http://127.0.0.1:{self.port}"

    def come(self) -> None:
        """Open the port (the same as before)."""
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.ntfy = self
        self.port = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def go(self) -> None:
        """Close the port: connections are refused from now on."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def wait(self, count: int, bound: float = 60.0) -> list[dict[str, Any]]:
        """Wait until it has at least ``count`` messages; returns all."""
        self._until(lambda: len(self.messages) >= count, bound)
        return self.messages

    def tried(self, count: int, bound: float = 60.0) -> None:
        """Wait until somebody has tried ``count`` times."""
        self._until(lambda: self.attempts >= count, bound)

    def _until(self, test: Any, bound: float) -> None:
        end = time.monotonic() + bound
        while not test():
            assert time.monotonic() < end, f"ntfy has {self.messages} after {self.attempts} attempts"
            time.sleep(0.02)

    def publish(self, topic: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Take a message."""
        with self._lock:
            made = {"id": f"m{len(self.messages):010}", "time": int(time.time()), "event": "message"}
            self.messages.append(made | {"topic": topic} | fields)
            return self.messages[-1]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Publish."""
        ntfy = self.server.ntfy
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        ntfy.attempts += 1
        if ntfy.delay:
            time.sleep(ntfy.delay)
        if ntfy.status != 200:
            return self._error(ntfy.status, "made to fail")
        if ntfy.token and self.headers.get("Authorization") != f"Bearer {ntfy.token}":
            return self._error(401, "unauthorized")
        topic = self.path.strip("/")
        body: dict[str, Any] = {"message": raw.decode()}
        if not topic:
            try:
                body = json.loads(raw)
                topic = str(body.pop("topic"))
            except (ValueError, KeyError):
                return self._error(400, "invalid request: request body must be message JSON")
        if not topic.replace("-", "").replace("_", "").isalnum():
            return self._error(400, "invalid topic")
        if len(str(body.get("message", "")).encode()) > BODY_MAX:
            return self._error(413, "message too long")
        self._answer(200, ntfy.publish(topic, self._fields(body)))

    def _fields(self, body: dict[str, Any]) -> dict[str, Any]:
        """What was given in the body, or by header (any of the documented spellings)."""

        def header(*names: str) -> str:
            return next((self.headers[n] for n in names if n in self.headers), "")

        tags = body.get("tags") or [t for t in header("X-Tags", "Tags", "ta").split(",") if t]
        priority = body.get("priority") or header("X-Priority", "Priority", "prio", "p") or 3
        return {
            "message": body.get("message", ""),
            "title": body.get("title") or header("X-Title", "Title", "t"),
            "tags": tags,
            "priority": PRIORITIES.get(str(priority)) or int(priority),
            "click": body.get("click") or header("X-Click", "Click"),
        }

    def do_GET(self) -> None:
        """Read what a topic has."""
        topic, _, rest = self.path.strip("/").partition("/")
        if not rest.startswith("json"):
            return self._error(404, "page not found")
        found = [m for m in self.server.ntfy.messages if m["topic"] == topic]
        self._raw(200, "".join(json.dumps(m) + "\n" for m in found).encode())

    def _error(self, status: int, text: str) -> None:
        self._answer(status, {"code": status * 100 + 1, "http": status, "error": text})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self._raw(status, json.dumps(body).encode())

    def _raw(self, status: int, body: bytes) -> None:
        with contextlib.suppress(OSError):  # whoever asked has left
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


@contextlib.contextmanager
def serving() -> Iterator[NtfyServer]:
    """A running server."""
    server = NtfyServer()
    server.come()
    try:
        yield server
    finally:
        server.go()
