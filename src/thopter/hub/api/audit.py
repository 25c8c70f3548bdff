"""Routes of the audit: read it, follow it, look it over, take it home."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from msgspec import Meta, Struct

from thopter.hub.auth import ADMIN
from thopter.hub.routes import Call, Count, NoQuery, Route
from thopter.model.api import Nothing
from thopter.model.api.audit import AuditPage, AuditVerdict
from thopter.store.audit import Wanted


class AuditQuery(Struct, kw_only=True):
    """``after``: a number (``next`` of the page before); ``last``: instead, that many from the end;
    ``box``: a thopter's name or id; ``kind``: a kind, or a family such as ``egress.``; ``wait_ms``: wait
    so long for the first record after ``after``."""

    after: Count = 0
    limit: Annotated[int, Meta(ge=1, le=2000)] = 500
    last: Annotated[int, Meta(ge=0, le=2000)] = 0
    box: Annotated[str, Meta(max_length=200)] = ""
    kind: Annotated[str, Meta(max_length=100)] = ""
    since_ms: Count = 0
    wait_ms: Annotated[int, Meta(ge=0, le=5_000)] = 0


class VerifyQuery(Struct, kw_only=True):
    """``expect``: a head, ``NUMBER:HASH``, that somebody wrote down."""

    expect: Annotated[str, Meta(max_length=100)] = ""


async def read_audit(call: Call[AuditQuery, Nothing]) -> AuditPage:
    """A page of the audit."""
    q = call.query
    want = Wanted(box=q.box, kind=q.kind, since_ms=q.since_ms)
    return await call.fleet.audit.page(want, q.after, q.last or q.limit, bool(q.last), q.wait_ms)


async def verify_audit(call: Call[VerifyQuery, Nothing]) -> AuditVerdict:
    """Is the chain whole?"""
    return await call.fleet.audit.verify(call.query.expect)


def export_audit(call: Call[NoQuery, Nothing]) -> AsyncIterator[bytes]:
    """The whole audit."""
    return call.fleet.audit.export()


ROUTES = (
    Route(
        method="GET",
        path="/v1/audit",
        summary="What was decided and done, by whom; oldest first, waiting for more when asked to",
        scope=ADMIN,
        handler=read_audit,
        query=AuditQuery,
        response=AuditPage,
    ),
    Route(
        method="GET",
        path="/v1/audit/verify",
        summary="Look over the whole chain; what is wrong with it is the answer",
        scope=ADMIN,
        handler=verify_audit,
        query=VerifyQuery,
        response=AuditVerdict,
    ),
    Route(
        method="GET",
        path="/v1/audit/export",
        summary="The whole audit, one JSON object a line, to be verified by anybody",
        scope=ADMIN,
        handler=export_audit,
        kind="bytes",
    ),
)
