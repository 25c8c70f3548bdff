"""Routes about thopters: starting, seeing, talking to, freezing and destroying them."""

from __future__ import annotations

from msgspec import Struct

from thopter.hub.auth import OPERATE, READ
from thopter.hub.routes import MIB, Call, NoQuery, Route
from thopter.model.api import (
    Accepted,
    CheckResult,
    CreateRequest,
    Nothing,
    RunRequest,
    ScreenText,
    TellRequest,
    TellResult,
    ThopterDetail,
    Thopters,
)

_PROMPT_MAX = 8 * MIB  # a prompt of 1 MB can be six times as long in JSON
_START_MAX = 56 * MIB  # 32 MiB of uploads are 43 in JSON


class ListQuery(Struct, kw_only=True):
    """``gone``: also those that were destroyed, and those that wait in a warm pool."""

    gone: bool = False


async def start_run(call: Call[NoQuery, RunRequest]) -> Accepted:
    """Start a thopter on a prompt."""
    return await call.fleet.start_run(call.body)


async def create_thopter(call: Call[NoQuery, CreateRequest]) -> Accepted:
    """Make a thopter that waits for its first prompt."""
    return await call.fleet.create(call.body)


async def list_thopters(call: Call[ListQuery, Nothing]) -> Thopters:
    """All thopters and what each is doing."""
    return Thopters(thopters=await call.fleet.views(include_gone=call.query.gone))


async def show_thopter(call: Call[NoQuery, Nothing]) -> ThopterDetail:
    """One thopter and the evidence for its state."""
    return await call.fleet.detail(call.key)


async def destroy_thopter(call: Call[NoQuery, Nothing]) -> Accepted:
    """Destroy a thopter and all it had."""
    return await call.fleet.destroy(call.key)


async def tell_thopter(call: Call[NoQuery, TellRequest]) -> TellResult:
    """Say something to the agent."""
    return await call.fleet.tell(call.key, call.body)


async def interrupt_thopter(call: Call[NoQuery, Nothing]) -> Nothing:
    """Stop the agent's present turn."""
    await call.fleet.interrupt(call.key)
    return Nothing()


async def freeze_thopter(call: Call[NoQuery, Nothing]) -> Nothing:
    """Stop every process of the box."""
    await call.fleet.freeze(call.key)
    return Nothing()


async def thaw_thopter(call: Call[NoQuery, Nothing]) -> Nothing:
    """Let a frozen box go on."""
    await call.fleet.thaw(call.key)
    return Nothing()


async def check_thopter(call: Call[NoQuery, Nothing]) -> CheckResult:
    """Ask the box now."""
    return await call.fleet.check(call.key)


async def screen_thopter(call: Call[NoQuery, Nothing]) -> ScreenText:
    """The agent's pane."""
    return ScreenText(screen=await call.fleet.works.screen(call.key))


ROUTES = (
    Route(
        method="POST",
        path="/v1/runs",
        summary="Start a thopter on a prompt",
        scope=OPERATE,
        handler=start_run,
        request=RunRequest,
        response=Accepted,
        status=202,
        mutating=True,
        body_max=_START_MAX,
    ),
    Route(
        method="POST",
        path="/v1/thopters",
        summary="Make a thopter that waits for its first prompt",
        scope=OPERATE,
        handler=create_thopter,
        request=CreateRequest,
        response=Accepted,
        status=202,
        mutating=True,
        body_max=_START_MAX,
    ),
    Route(
        method="GET",
        path="/v1/thopters",
        summary="All thopters and what each is doing",
        scope=READ,
        handler=list_thopters,
        query=ListQuery,
        response=Thopters,
    ),
    Route(
        method="GET",
        path="/v1/thopters/{name}",
        summary="One thopter and the evidence for its state",
        scope=READ,
        handler=show_thopter,
        response=ThopterDetail,
    ),
    Route(
        method="DELETE",
        path="/v1/thopters/{name}",
        summary="Destroy a thopter and all it had",
        scope=OPERATE,
        handler=destroy_thopter,
        response=Accepted,
        status=202,
        mutating=True,
    ),
    Route(
        method="POST",
        path="/v1/thopters/{name}/tell",
        summary="Say something to the agent; the answer is a receipt",
        scope=OPERATE,
        handler=tell_thopter,
        request=TellRequest,
        response=TellResult,
        mutating=True,
        body_max=_PROMPT_MAX,
    ),
    Route(
        method="POST",
        path="/v1/thopters/{name}/interrupt",
        summary="Stop the agent's present turn",
        scope=OPERATE,
        handler=interrupt_thopter,
        mutating=True,
    ),
    Route(
        method="POST",
        path="/v1/thopters/{name}/freeze",
        summary="Stop every process of the box",
        scope=OPERATE,
        handler=freeze_thopter,
        mutating=True,
    ),
    Route(
        method="POST",
        path="/v1/thopters/{name}/thaw",
        summary="Let a frozen box go on",
        scope=OPERATE,
        handler=thaw_thopter,
        mutating=True,
    ),
    Route(
        method="GET",
        path="/v1/thopters/{name}/check",
        summary="Ask the box now: tmux, agent, box",
        scope=READ,
        handler=check_thopter,
        response=CheckResult,
    ),
    Route(
        method="GET",
        path="/v1/thopters/{name}/screen",
        summary="The agent's pane as plain text",
        scope=READ,
        handler=screen_thopter,
        response=ScreenText,
    ),
)
