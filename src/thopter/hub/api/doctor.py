"""Routes of the doctor: what works on this machine, what was left over, removing it."""

from __future__ import annotations

from thopter.hub.auth import ADMIN, READ
from thopter.hub.routes import Call, NoQuery, Route
from thopter.model.api import Checks, Leaks, Nothing


async def doctor(call: Call[NoQuery, Nothing]) -> Checks:
    """What works here and what to change."""
    return Checks(checks=await call.fleet.doctor())


async def leaks(call: Call[NoQuery, Nothing]) -> Leaks:
    """What no recorded box accounts for."""
    return Leaks(leaks=await call.fleet.leaks())


async def sweep(call: Call[NoQuery, Nothing]) -> Leaks:
    """Remove what no recorded box accounts for."""
    return Leaks(leaks=await call.fleet.sweep())


ROUTES = (
    Route(
        method="GET",
        path="/v1/doctor",
        summary="What works on this machine and what to change",
        scope=READ,
        handler=doctor,
        response=Checks,
    ),
    Route(
        method="GET",
        path="/v1/doctor/leaks",
        summary="What no recorded box accounts for",
        scope=READ,
        handler=leaks,
        response=Leaks,
    ),
    Route(
        method="POST",
        path="/v1/doctor/sweep",
        summary="Remove what no recorded box accounts for; answers what was removed",
        scope=ADMIN,
        handler=sweep,
        response=Leaks,
        mutating=True,
    ),
)
