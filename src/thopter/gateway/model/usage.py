"""Reads what a model call used from the answer as it streams by; never delays, holds or changes a byte."""

from __future__ import annotations

import datetime
import email.utils
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct, field

_LINE_MAX = 1 << 20
_JSON_MAX = 8 << 20
_COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_TOKENS_MAX = 1 << 40
_BESIDE = ("compaction", "advisor_message")  # kinds of ``usage.iterations``
_DELTA_FRAME = 88  # bytes of a piece of a stream besides its text


class Tokens(Struct, kw_only=True):
    """Token counts of one answer, or of many. Integers; what the endpoint did not say is 0. Of the
    tokens written to the cache, ``cache_1h_input_tokens`` are kept there for an hour."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_1h_input_tokens: int = 0

    def take(self, usage: Mapping[str, Any]) -> None:
        """Overwrite with the counts that ``usage`` has: later reports of one answer are cumulative."""
        for name in _COUNTS:
            value = usage.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _TOKENS_MAX:
                setattr(self, name, value)
        lives = usage.get("cache_creation")
        hour = lives.get("ephemeral_1h_input_tokens") if isinstance(lives, dict) else None
        if isinstance(hour, int) and not isinstance(hour, bool) and 0 <= hour < _TOKENS_MAX:
            self.cache_1h_input_tokens = hour

    def add(self, other: Tokens) -> None:
        """Add ``other``'s counts to ours."""
        for name in (*_COUNTS, "cache_1h_input_tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in _COUNTS)


class Reader(Protocol):
    """Watches one answer. ``complete`` is False when a stream ended without saying that it was whole;
    ``guess``: about how many tokens of it were seen to come, for then. ``stop``: why the model stopped."""

    tokens: Tokens
    guess: int
    stop: str
    model: str
    complete: bool
    error: str

    def feed(self, data: bytes) -> None:
        """Look at the next bytes."""

    def end(self) -> None:
        """The body is over."""


class _Base:
    def __init__(self) -> None:
        self.tokens = Tokens()
        self._own, self._beside = Tokens(), Tokens()
        self.guess = 0
        self.stop = ""
        self.model = ""
        self.complete = True
        self.error = ""

    def _message(self, message: Any) -> None:
        if not isinstance(message, dict):
            return
        if isinstance(message.get("usage"), dict):
            self._used(message["usage"])
        if isinstance(message.get("model"), str):
            self.model = message["model"][:100]
        self._stopped(message)

    def _used(self, usage: Mapping[str, Any]) -> None:
        """Compactions on the way are billed, but are not in the counts of the whole."""
        self._own.take(usage)
        if isinstance(usage.get("iterations"), list):
            self._beside = Tokens()
            for part in usage["iterations"]:
                if isinstance(part, dict) and part.get("type") in _BESIDE:
                    one = Tokens()
                    one.take(part)
                    self._beside.add(one)
        self.tokens = Tokens()
        self.tokens.add(self._own)
        self.tokens.add(self._beside)

    def _stopped(self, message: Mapping[str, Any]) -> None:
        if isinstance(message.get("stop_reason"), str):
            self.stop = message["stop_reason"][:40]

    def _problem(self, event: Mapping[str, Any]) -> None:
        error = event.get("error")
        if isinstance(error, dict):
            self.error = f"{error.get('type', 'error')}: {error.get('message', '')}"[:300]


class EventReader(_Base):
    """Reads a server-sent event stream of the Messages API."""

    def __init__(self) -> None:
        super().__init__()
        self.complete = False
        self._line = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> None:
        """See Reader. A line over 1 MiB is skipped."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            if not self._skipping:
                if self._line:
                    self._line += data[start:end]
                    self._take(bytes(self._line))
                else:
                    self._take(data[start:end])
            self._line.clear()
            self._skipping = False
            start = end + 1
        if not self._skipping:
            self._line += data[start:]
            if len(self._line) > _LINE_MAX:
                self._line.clear()
                self._skipping = True

    def end(self) -> None:
        """See Reader."""

    def _take(self, line: bytes) -> None:
        if not line.startswith(b"data:"):
            return
        if b'_delta"' in line:
            self.guess += max(len(line) - _DELTA_FRAME, 0) // 3 + 1
        if b'"message_stop"' not in line and b'"usage"' not in line and b'"error"' not in line:
            return
        try:
            event = msgspec.json.decode(line[5:].strip())
        except (msgspec.DecodeError, RecursionError):
            return  # not ours to judge: the agent gets the bytes as they are
        if not isinstance(event, dict):
            return
        kind = event.get("type")
        if kind == "message_start":
            self._message(event.get("message"))
        elif kind == "message_delta":
            self._message(event)
            if isinstance(event.get("delta"), dict):
                self._stopped(event["delta"])
        elif kind == "message_stop":
            self.complete = True
        elif kind == "error":
            self._problem(event)


class JsonReader(_Base):
    """Reads a plain JSON answer; one over 8 MiB is not looked at."""

    def __init__(self) -> None:
        super().__init__()
        self._body = bytearray()
        self._too_long = False

    def feed(self, data: bytes) -> None:
        """See Reader."""
        if self._too_long or len(self._body) + len(data) > _JSON_MAX:
            self._too_long = True
            self._body.clear()
            return
        self._body += data

    def end(self) -> None:
        """See Reader."""
        try:
            answer = msgspec.json.decode(bytes(self._body)) if self._body else None
        except (msgspec.DecodeError, RecursionError):
            return
        self._body.clear()
        if isinstance(answer, dict):
            self._message(answer)
            self._problem(answer)


def reader_for(path: str, content_type: str, encoding: str) -> Reader:
    """Choose how to look at an answer. Token counts only come from ``/v1/messages`` itself."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/event-stream" and not encoding:
        return EventReader()
    reader = JsonReader()
    if path != "/v1/messages" or encoding:
        reader.feed = lambda data: None  # type: ignore[method-assign]
    return reader


class LastLimit(Struct, frozen=True, kw_only=True):
    """The last time the endpoint said "too much". Times are ms since the epoch; 0 = it did not say."""

    at_ms: int
    status: int
    retry_after_s: float = 0.0
    reset_ms: int = 0


def read_limit(status: int, headers: Sequence[tuple[str, str]], now_ms: int) -> LastLimit:
    """Read when to come back from ``retry-after`` and the ``anthropic-ratelimit-*-reset`` headers."""
    found = dict(headers)
    retry = _seconds(found.get("retry-after", ""), now_ms)
    if retry > 0:
        return LastLimit(
            at_ms=now_ms, status=status, retry_after_s=retry, reset_ms=now_ms + int(retry * 1000)
        )
    names = [n for n in found if n.startswith("anthropic-ratelimit-") and n.endswith("-reset")]
    resets = {n: t for n in names if (t := _moment(found[n])) > now_ms}
    spent = [t for n, t in resets.items() if found.get(n.removesuffix("reset") + "remaining") == "0"]
    unified = resets.get("anthropic-ratelimit-unified-reset", 0)
    reset = max(spent, default=0) or unified or min(resets.values(), default=0)
    return LastLimit(at_ms=now_ms, status=status, reset_ms=reset)


def _seconds(text: str, now_ms: int) -> float:
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - now_ms / 1000
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), 90 * 86400.0) if seconds == seconds else 0.0


def _moment(text: str) -> int:
    if text.isdecimal() and len(text) <= 12:
        return int(text) * 1000
    try:
        moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return 0
    return int(moment.timestamp() * 1000) if moment.tzinfo else 0


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request of a box, as ``log`` returns it. ``status`` 0: the client went away first."""

    seq: int
    at_ms: int
    box: str
    run: str
    method: str
    path: str
    status: int
    ms: float
    ttfb_ms: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    refused: bool = False
    error: str = ""
    model: str = ""
    endpoint: str = ""  # host[:port] that answered: what a token costs depends on it
    tokens: Tokens = field(default_factory=Tokens)
    reset_ms: int = 0
    budget: str = ""  # refused: what was used up
    unpriced: int = 0  # or could not be kept, as its price is not known: the most of that limit


class Usage(Struct, kw_only=True):
    """What one box used since this gateway process began (``boot`` in the answer tells which)."""

    requests: int = 0
    refused: int = 0
    by_status: dict[str, int] = field(default_factory=dict)
    tokens: Tokens = field(default_factory=Tokens)
    by_model: dict[str, Tokens] = field(default_factory=dict)
    bytes_in: int = 0
    bytes_out: int = 0
    last_ms: int = 0
    last_error: dict[str, Any] | None = None
    last_limit: LastLimit | None = None

    def count(self, record: Record) -> None:
        """Add one finished request."""
        self.requests += 1
        self.refused += record.refused
        status = str(record.status)
        self.by_status[status] = self.by_status.get(status, 0) + 1
        self.bytes_in += record.bytes_in
        self.bytes_out += record.bytes_out
        self.last_ms = record.at_ms
        if record.tokens:
            self.tokens.add(record.tokens)
            name = record.model if record.model in self.by_model or len(self.by_model) < 32 else "other"
            self.by_model.setdefault(name, Tokens()).add(record.tokens)
        if record.error:
            self.last_error = {"at_ms": record.at_ms, "status": record.status, "message": record.error}
