"""The hub's event stream as an iterator that survives restarts of the hub."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from thopter.mesh.client import to_error
from thopter.mesh.http import Answer, Died, Silent, Wire, query
from thopter.model.errors import Conflict, HubUnreachable, ThopterError
from thopter.model.events import Event

SILENCE = 45.0  # the hub sends a comment every 15 s: three missing means that it is gone
_LINE_MAX = 16 << 20
_DECODER = msgspec.json.Decoder(Event)


class Lines:
    """Takes events out of an event stream, without I/O. Keeps the last id; counts what it skips."""

    def __init__(self) -> None:
        self.last = ""
        self.skipped = 0
        self._rest = b""
        self._id = ""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[Event]:
        """Return the events completed by ``data``. A line over 16 MiB is an error."""
        *full, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LINE_MAX:
            raise HubUnreachable("what answers is not a hub: an event without end")
        found = [self._line(line.removesuffix(b"\r")) for line in full]
        return [event for event in found if event is not None]

    def _line(self, line: bytes) -> Event | None:
        if line:
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                self._data.append(value)
            elif name == b"id":
                self._id = value.decode("ascii", "replace")
            return None
        data, self._data = b"\n".join(self._data), []
        self.last = self._id
        if not data:
            return None
        try:
            return _DECODER.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self.skipped += 1  # facts outlive versions: one that can't be read is not a reason to stop
            return None


def events(
    path: Path,
    *,
    after: int | None = None,
    box: str = "",
    flow: str = "",
    kinds: str = "",
    tick: float = 1.0,
    patience: float | None = None,
) -> Iterator[Event | None]:
    """Yield events in order, each once, and None: once connected, and every ``tick`` seconds of quiet.

    ``after``: replay what is newer than this number first (None: only what happens from now on).
    When the connection ends or falls silent it is made again from the last number seen, for ever or
    until the hub has been away ``patience`` seconds (HubUnreachable). Refusals of the hub are raised.
    """
    lines = Lines()
    lines.last = "" if after is None else str(after)
    target = "/v1/events" + query(box=box, flow=flow, kinds=kinds)
    away_since: float | None = None
    pause, again = 0.05, False
    while True:
        wire = None
        try:
            wire = Wire(path, 5.0)
            answer = wire.request("GET", *_request(target, lines.last), None, 15.0)
            if answer.status != 200:
                raise to_error(answer)
            away_since, pause, again = None, 0.05, True
            yield None
            yield from _read(answer, lines, tick)
        except Conflict:
            if not again:
                raise
            lines.last = ""  # the hub came back with another history: only "from now on" has a meaning
        except (HubUnreachable, Died, Silent) as e:
            away_since = away_since or time.monotonic()
            if patience is not None and time.monotonic() - away_since > patience:
                raise e if isinstance(e, ThopterError) else HubUnreachable("the hub went away") from None
        finally:
            if wire is not None:
                wire.close()
        until = time.monotonic() + pause
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, tick))
            yield None
        pause = min(pause * 2, 2.0)


def _request(target: str, last: str) -> tuple[str, dict[str, str]]:
    headers = {"Accept": "text/event-stream"}
    if last:
        headers["Last-Event-ID"] = last
    return target, headers


def _read(answer: Answer, lines: Lines, tick: float) -> Iterator[Event | None]:
    heard = time.monotonic()
    while True:
        piece = answer.piece(tick)
        if piece is None:
            if time.monotonic() - heard > SILENCE:
                raise HubUnreachable("the hub's event stream fell silent")
            yield None
            continue
        if not piece:
            raise HubUnreachable("the hub ended its event stream")
        heard = time.monotonic()
        yield from lines.feed(piece)
