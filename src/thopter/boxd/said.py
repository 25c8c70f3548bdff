"""What programs of the box report of their work (``thopter-status``): sanitized, bounded, journaled."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Dict, List

from thopter.boxd.http import HttpError, HttpRequest, response
from thopter.boxd.loop import log

if TYPE_CHECKING:  # it needs the Box, which holds it
    from thopter.boxd.box import Box

VERBS = ("log", "waiting", "done", "running", "inactive", "statusline", "message", "heartbeat")
TEXT_MAX = 2000  # characters; a status line has fewer
LINE_MAX = 500
_PATH = re.compile(r"/said/([a-z]{1,20})")
_RUN = re.compile(r"[A-Za-z0-9_.-]{0,128}")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_BURST, _EVERY = 30, 2.0  # reports at once, and seconds until one more is allowed
_SHOWN = 5


class Said:
    """The door ``/said``: POST ``/said/<verb>?run=…`` with the text as body, GET ``/said`` to see what
    was reported. After a restart of boxd the journal tells it again. Text beyond the limit is cut,
    control characters become spaces; more than a report in two seconds for long is answered 429."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._state, self._line = "", ""
        self._last: List[str] = []
        self._left, self._at = float(_BURST), time.monotonic()
        for record in box.journal.scan("said"):
            self._remember(str(record.get("verb")), str(record.get("text", "")), record.get("at_ms"))

    def listening(self, port: int) -> None:
        """Leave for programs of the box where to report and the box's own token: ``<run_dir>/status``."""
        path = self._box.config.run_dir + "/status"
        try:
            fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                line = f"{port} {self._box.config.hook_token}\n"
                os.write(fd, line.encode("utf-8", "surrogateescape"))
            finally:
                os.close(fd)
            os.rename(path + ".new", path)
        except OSError as e:
            log(f"thopter-status will not find its way: {path}: {e.strerror}")

    def take(self, request: HttpRequest) -> bytes:
        """Answer a request that has shown the token. Raises HttpError."""
        close = not request.keep_alive
        if request.method == "GET" and request.path == "/said":
            return response(200, self._show(), close, kind="text/plain; charset=utf-8")
        match = _PATH.fullmatch(request.path)
        if match is None or match.group(1) not in VERBS:
            raise HttpError(404, "reports are POSTed to /said/ and one of " + ", ".join(VERBS))
        if request.method != "POST":
            raise HttpError(405, "reports are POSTed")
        run = request.query.get("run", "")
        if not _RUN.fullmatch(run):
            raise HttpError(400, "run is malformed")
        verb = match.group(1)
        if verb == "heartbeat":
            return response(204, close=close)  # being answered is all it is about
        self._spend()
        limit = LINE_MAX if verb == "statusline" else TEXT_MAX
        # Sixteen bytes a character are more than any encoding needs; the rest is not even decoded.
        text = _clean(request.body[: limit * 16].decode("utf-8", "replace"), limit, verb == "message")
        number = self._box.journal.append("said", run=run, verb=verb, text=text)
        self._remember(verb, text, time.time_ns() // 1_000_000)
        return response(200, str(number).encode("ascii"), close, kind="text/plain")

    def _spend(self) -> None:
        now = time.monotonic()
        self._left = min(float(_BURST), self._left + (now - self._at) / _EVERY)
        self._at = now
        if self._left < 1.0:
            raise HttpError(429, "too many reports; one every two seconds is enough")
        self._left -= 1.0

    def _remember(self, verb: str, text: str, at_ms: object) -> None:
        if verb == "statusline":
            self._line = text
        elif verb in ("waiting", "done", "running", "inactive"):
            self._state = f"{verb}: {text}" if text else verb
        else:
            at = time.strftime("%H:%M:%S", time.gmtime(at_ms / 1000 if isinstance(at_ms, int) else 0))
            self._last = [*self._last, f"{at}Z {verb}: {text}"][-_SHOWN:]

    def _show(self) -> bytes:
        facts: Dict[str, str] = {
            "name": self._box.config.env.get("THOPTER_NAME", self._box.config.name),
            "declared": self._state or "nothing",
            "statusline": self._line or "none",
        }
        lines = [f"{key}: {value}" for key, value in facts.items()]
        return ("\n".join([*lines, *self._last]) + "\n").encode("utf-8", "replace")


def _clean(text: str, limit: int, lines: bool) -> str:
    text = _CONTROL.sub(" ", text.replace("\r\n", "\n"))
    if not lines:
        text = " ".join(text.split())
    return text.strip()[:limit]
