"""Routes about a thopter's work: transcript, diff, pull, bundle, files in and out, commands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from msgspec import Meta, Struct

from thopter.hub.auth import OPERATE, READ
from thopter.hub.routes import Call, Count, NoQuery, Route
from thopter.hub.terminals import exec_command
from thopter.model.api import (
    DiffResult,
    ExecRequest,
    Nothing,
    PullInfo,
    PullRequest,
    TranscriptPage,
    Written,
)
from thopter.model.api.changes import ChangeList, FileDiff


class TranscriptQuery(Struct, kw_only=True):
    """``after``: a cursor (``next`` of the page before); ``last``: instead, that many from the end."""

    after: Count = 0
    limit: Annotated[int, Meta(ge=1, le=5000)] = 500
    last: Annotated[int, Meta(ge=0, le=5000)] = 0


class PathQuery(Struct, kw_only=True):
    """``path``: a file in the box."""

    path: Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]


async def transcript(call: Call[TranscriptQuery, Nothing]) -> TranscriptPage:
    """A page of the conversation."""
    query = call.query
    return await call.fleet.works.transcript(call.key, query.after, query.limit, query.last)


class CheckoutQuery(Struct, kw_only=True):
    """``checkout``: another repository of the box than its main one, by its folder below /work."""

    checkout: Annotated[str, Meta(max_length=4096)] = ""


async def diff(call: Call[CheckoutQuery, Nothing]) -> DiffResult:
    """What changed since the base."""
    return await call.fleet.works.diff(call.key, call.query.checkout)


class ChangeQuery(CheckoutQuery, kw_only=True):
    """``file``: its id in the list of changes; ``context``: lines around each change."""

    file: Annotated[str, Meta(min_length=1, max_length=5600, pattern="^[A-Za-z0-9_-]+$")]
    context: Annotated[int, Meta(ge=0, le=100_000)] = 3


async def changes(call: Call[CheckoutQuery, Nothing]) -> ChangeList:
    """Which files changed since the base."""
    return await call.fleet.works.changes(call.key, call.query.checkout)


async def change_of_file(call: Call[ChangeQuery, Nothing]) -> FileDiff:
    """What changed in one file."""
    query = call.query
    return await call.fleet.works.change(call.key, query.checkout, query.file, query.context)


async def pull(call: Call[NoQuery, PullRequest]) -> PullInfo:
    """Bring the work into the mirror."""
    return await call.fleet.works.pull(call.key, call.body.wip, call.body.checkout)


def bundle(call: Call[CheckoutQuery, Nothing]) -> AsyncIterator[bytes]:
    """The pulled work as a git bundle."""
    return call.fleet.works.bundle(call.key, call.query.checkout)


async def put_file(call: Call[PathQuery, Nothing]) -> Written:
    """Write a file in the box, atomically."""
    return Written(size=await call.fleet.works.put(call.key, call.query.path, call.chunks))


def fetch_file(call: Call[PathQuery, Nothing]) -> AsyncIterator[bytes]:
    """Read a file of the box."""
    return call.fleet.works.fetch(call.key, call.query.path)


ROUTES = (
    Route(
        method="GET",
        path="/v1/thopters/{name}/transcript",
        summary="A page of the conversation, tool calls and results included",
        scope=READ,
        handler=transcript,
        query=TranscriptQuery,
        response=TranscriptPage,
    ),
    Route(
        method="GET",
        path="/v1/thopters/{name}/diff",
        summary="What changed since the base, untracked files included",
        scope=READ,
        handler=diff,
        query=CheckoutQuery,
        response=DiffResult,
    ),
    Route(
        method="GET",
        path="/v1/thopters/{name}/changes",
        summary="Which files changed since the base, untracked ones included",
        scope=READ,
        handler=changes,
        query=CheckoutQuery,
        response=ChangeList,
    ),
    Route(
        method="GET",
        path="/v1/thopters/{name}/changes/diff",
        summary="What changed in one file, at most 1 MiB of it",
        scope=READ,
        handler=change_of_file,
        query=ChangeQuery,
        response=FileDiff,
    ),
    Route(
        method="POST",
        path="/v1/thopters/{name}/pull",
        summary="Bring the work into the mirror as branch thopter/NAME",
        scope=OPERATE,
        handler=pull,
        request=PullRequest,
        response=PullInfo,
        mutating=True,
    ),
    Route(
        method="GET",
        path="/v1/thopters/{name}/bundle",
        summary="The pulled work as a git bundle (base..head)",
        scope=READ,
        handler=bundle,
        query=CheckoutQuery,
        kind="bytes",
    ),
    Route(
        method="POST",
        path="/v1/thopters/{name}/put",
        summary="Write a file in the box, atomically; the body is the content",
        scope=OPERATE,
        handler=put_file,
        query=PathQuery,
        response=Written,
        mutating=True,
        repeatable=True,
        kind="upload",
    ),
    Route(
        method="GET",
        path="/v1/thopters/{name}/fetch",
        summary="Read a file of the box",
        scope=OPERATE,
        handler=fetch_file,
        query=PathQuery,
        kind="bytes",
    ),
    Route(
        method="GET",
        path="/v1/thopters/{name}/exec",
        summary="Run a command in the box (WebSocket)",
        scope=OPERATE,
        handler=exec_command,
        request=ExecRequest,
        mutating=True,
        repeatable=True,
        kind="exec",
        status=101,
    ),
)
