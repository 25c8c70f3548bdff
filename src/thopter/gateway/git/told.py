"""What the hooks of one push told the gateway, as records of the ledger."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from thopter.gateway.egress.ledger import Record
from thopter.gateway.git.routes import Attach
from thopter.kit.sanitize import one_line

_MOST = 64 * 1024
_PROBE = 4  # bytes of the empty request by which git learns whether it may push


class Told:
    """A pipe for one push: hooks inherit its writing end, and what they say goes to ``keep`` as it comes.
    Made in the loop; :meth:`close` must be called."""

    def __init__(self, attach: Attach, keep: Callable[[Record], object]) -> None:
        self._attach = attach
        self._keep = keep
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._read, self._heard)
        self._rest = b""
        self._count = 0
        self._size = 0

    @property
    def env(self) -> dict[str, str]:
        """By which the hooks find it."""
        return {"THOPTER_REPORT": str(self._write)}

    @property
    def fds(self) -> tuple[int, ...]:
        """What must stay open in git."""
        return (self._write,)

    async def counted(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The body as it passes, so that :meth:`close` knows whether anything was pushed at all."""
        async for piece in body:
            self._size += len(piece)
            yield piece

    def _heard(self) -> None:
        try:
            raw = os.read(self._read, _MOST)
        except BlockingIOError:
            return
        if not raw:
            self._loop.remove_reader(self._read)
        *lines, self._rest = (self._rest + raw).split(b"\n")
        self._rest = self._rest[-_MOST:]
        for line in lines:
            record = _record(self._attach, line)
            if record is not None:
                self._count += 1
                self._keep(record)

    def close(self, whole: bool) -> None:
        """The push is over. ``whole``: git answered; when no hook said a word about a push that was one, git
        itself refused it before (its size, its objects)."""
        os.close(self._write)
        self._heard()
        self._loop.remove_reader(self._read)
        os.close(self._read)
        if whole and not self._count and self._size > _PROBE:
            self._keep(
                refused(self._attach, "git", "git itself refused the push: its size or its objects", "push")
            )


def _record(attach: Attach, line: bytes) -> Record | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    ref = one_line(str(found.get("ref", "")), 200)
    old, new = (one_line(str(found.get(k, "")), 64) for k in ("old", "new"))
    if found.get("ok") is True:
        return _made(attach, verdict="allow", path=ref, was=old, detail=new)
    code, reason = one_line(str(found.get("code", "")), 40), one_line(str(found.get("reason", "")), 500)
    return _made(attach, verdict="deny", code=code, reason=reason, path=ref, was=old, detail=new)


def refused(attach: Attach, code: str, reason: str, method: str) -> Record:
    """A request that no git was started for."""
    return _made(attach, verdict="deny", code=code, reason=reason, method=one_line(method, 20))


def _made(attach: Attach, method: str = "push", **fields: Any) -> Record:
    return Record(
        at_ms=time.time_ns() // 1_000_000,
        box=attach.box,
        run=attach.run,
        scheme="git",
        method=method,
        host=attach.repo,
        **fields,
    )
