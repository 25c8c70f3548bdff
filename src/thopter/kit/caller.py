"""Who asks: set at the hub's door for each request, read by what is written into the audit."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple


class Caller(NamedTuple):
    """``name``: as the door knows them (``alice (uid 1000)``, ``token``); ``hub`` is the hub itself, in
    what nobody waits for. ``admin``: they may change the policy anyway."""

    name: str = "hub"
    admin: bool = True


HUB = Caller()
caller: ContextVar[Caller] = ContextVar("caller", default=HUB)
