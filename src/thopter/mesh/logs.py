"""The calls about what happened in a thopter, also in one that is gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

import msgspec

from thopter.mesh.client import HubClient
from thopter.mesh.http import query
from thopter.model.api.log import LogLines
from thopter.model.errors import HubUnreachable
from thopter.model.nouns import Entry

_PAGE_PATIENCE = 180.0


def entries(hub: HubClient, name: str) -> Iterator[Entry]:
    """Every entry of its conversation, as they are read."""
    answer = hub._call("GET", hub._of(name, "log") + query(format="entries"), timeout=60.0)
    decode = msgspec.json.Decoder(Entry).decode
    rest = b""
    for piece in answer.pieces(60.0):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            try:
                yield decode(line)
            except msgspec.MsgspecError as e:
                raise HubUnreachable(f"the hub's answer is no entry: {e}") from None


def raw(hub: HubClient, name: str, out: IO[bytes]) -> int:
    """Write its transcripts as the agent wrote them; returns the size."""
    answer = hub._call("GET", hub._of(name, "log") + query(format="raw"), timeout=60.0)
    return hub._stream(answer, out)


def page(hub: HubClient, name: str, out: IO[bytes], refresh: int = 0) -> int:
    """Write its conversation as one page of HTML; returns the size."""
    target = hub._of(name, "log") + query(format="html", refresh=refresh)
    return hub._stream(hub._call("GET", target, timeout=_PAGE_PATIENCE), out)


def steps(hub: HubClient, name: str) -> LogLines:
    """What the hub did with it, oldest first."""
    return hub._get(hub._of(name, "log/steps"), LogLines)
