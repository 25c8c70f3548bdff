"""Routes about sleep: suspending, resuming, restarting, and how long a thopter may go on."""

from __future__ import annotations

from thopter.hub.auth import OPERATE, READ
from thopter.hub.routes import Call, NoQuery, Route
from thopter.model.api import Accepted, Nothing
from thopter.model.api.sleep import (
    KeepAliveRequest,
    LeaseView,
    RestartRequest,
    ResumeRequest,
    SuspendRequest,
    SuspendResult,
)


async def suspend_thopter(call: Call[NoQuery, SuspendRequest]) -> SuspendResult:
    """Put it to sleep."""
    return await call.fleet.sleep.suspend(call.key, call.body)


async def resume_thopter(call: Call[NoQuery, ResumeRequest]) -> Accepted:
    """Let it go on, with its conversation."""
    return await call.fleet.sleep.resume(call.key, call.body)


async def restart_agent(call: Call[NoQuery, RestartRequest]) -> Accepted:
    """End the agent and start it again."""
    return await call.fleet.sleep.restart(call.key, call.body)


async def stop_agent(call: Call[NoQuery, Nothing]) -> Nothing:
    """End the agent; its box stays."""
    await call.fleet.sleep.stop(call.key)
    return Nothing()


async def keep_alive(call: Call[NoQuery, KeepAliveRequest]) -> LeaseView:
    """Begin its time anew."""
    return await call.fleet.sleep.keepalive(call.key, call.body)


async def show_lease(call: Call[NoQuery, Nothing]) -> LeaseView:
    """How long it may go on."""
    return await call.fleet.sleep.lease(call.key)


ROUTES = (
    Route(
        method="POST",
        path="/v1/thopters/{name}/suspend",
        summary="Put a thopter to sleep: frozen, or to the disk",
        scope=OPERATE,
        handler=suspend_thopter,
        request=SuspendRequest,
        response=SuspendResult,
        mutating=True,
    ),
    Route(
        method="POST",
        path="/v1/thopters/{name}/resume",
        summary="Let a thopter go on from whatever sleep or death, with its conversation",
        scope=OPERATE,
        handler=resume_thopter,
        request=ResumeRequest,
        response=Accepted,
        status=202,
        mutating=True,
    ),
    Route(
        method="POST",
        path="/v1/thopters/{name}/restart",
        summary="End the agent and start it again in its box",
        scope=OPERATE,
        handler=restart_agent,
        request=RestartRequest,
        response=Accepted,
        status=202,
        mutating=True,
    ),
    Route(
        method="POST",
        path="/v1/thopters/{name}/stop",
        summary="End the agent; its box stays",
        scope=OPERATE,
        handler=stop_agent,
        mutating=True,
    ),
    Route(
        method="GET",
        path="/v1/thopters/{name}/keepalive",
        summary="How long a thopter may go on",
        scope=READ,
        handler=show_lease,
        response=LeaseView,
    ),
    Route(
        method="POST",
        path="/v1/thopters/{name}/keepalive",
        summary="Begin a thopter's time anew",
        scope=OPERATE,
        handler=keep_alive,
        request=KeepAliveRequest,
        response=LeaseView,
        mutating=True,
    ),
)
