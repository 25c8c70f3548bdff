"""One login's way through rate limits: its calls wait here for the time to come back, instead of hammering.

All boxes that use one credential at one endpoint share its limit. The agent whose call was refused gets that
refusal; while the limit lasts further calls of the login are parked (:data:`PARK_S` at most, then they are
answered with the same refusal and the time that is left). Afterwards one goes first, and the others follow
when it got through. However far away the end is said to be, one call every :data:`LOOK_S` goes out and looks.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable

from thopter.gateway.model.upstream import Attach
from thopter.gateway.model.usage import LastLimit

PARK_S = 240.0  # agents give a call ten minutes
LOOK_S = 300.0
_OVERLOAD_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_PROBE_S = 60.0


class Login:
    """One credential at one endpoint. In memory: after a restart the endpoint says it again."""

    def __init__(self) -> None:
        self.limit: LastLimit | None = None  # in force, or not known to be over
        self._shut_until = 0.0
        self._probe_until = 0.0
        self._limited_at = 0.0
        self._overloads = 0
        self._change = asyncio.Event()

    async def enter(self, parked: Callable[[LastLimit], None]) -> LastLimit | None:
        """Wait until a call may go out (None), or say which limit still stands. ``parked`` is called when
        the wait begins."""
        deadline, told = time.monotonic() + PARK_S, False
        while self.limit is not None:
            now = time.monotonic()
            if self._shut_until > deadline:
                return self.limit
            free = max(self._shut_until, self._probe_until)
            if free <= now:
                self._probe_until = now + _PROBE_S  # this one looks whether it is over
                return None
            if now >= deadline:
                return self.limit
            if not told:
                told = True
                parked(self.limit)
            await self._pause(min(free, deadline) - now)
        return None

    async def _pause(self, seconds: float) -> None:
        change = self._change
        try:
            async with asyncio.timeout(seconds + 0.01):
                await change.wait()
        except TimeoutError:
            return

    def heard(self, status: int, limit: LastLimit | None, now_ms: int, went: float) -> None:
        """A call that went out at ``went`` (monotonic) was answered (0: it was not)."""
        now = time.monotonic()
        if limit is not None:
            wait = (limit.reset_ms - now_ms) / 1000
            if wait <= 0 and status == 529:
                wait = _OVERLOAD_S[min(self._overloads, len(_OVERLOAD_S) - 1)]
                self._overloads += 1
            if wait <= 0:
                return  # nothing says that it is more than this one call
            self.limit, self._shut_until, self._limited_at = limit, now + min(wait, LOOK_S), now
        elif 200 <= status < 300 and went < self._limited_at:
            return  # it was under way when the limit was reached
        elif 200 <= status < 300:
            self.limit, self._overloads, self._shut_until = None, 0, 0.0
        self._probe_until = 0.0
        self._change.set()
        self._change = asyncio.Event()


class Logins:
    """All of them, by a digest of what authenticates."""

    def __init__(self) -> None:
        self._logins: dict[str, Login] = {}

    def of(self, attach: Attach, endpoint: str) -> Login:
        """The login that a box's calls go by."""
        secret = attach.auth.secret if attach.auth else ""
        key = hashlib.sha256(f"{endpoint}\0{secret}".encode()).hexdigest()
        if key not in self._logins and len(self._logins) >= 1000:
            self._logins = {k: v for k, v in self._logins.items() if v.limit is not None}
        return self._logins.setdefault(key, Login())
