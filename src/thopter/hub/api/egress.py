"""Routes about policies, and about what boxes reach and were refused."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from thopter.hub.auth import ADMIN, APPROVE, READ
from thopter.hub.routes import Call, NoQuery, Route
from thopter.model.api import Nothing
from thopter.model.api.egress import (
    Allowed,
    AllowRequest,
    EgressView,
    Findings,
    PolicyBook,
    PolicyText,
    TryRequest,
    Verdict,
)
from thopter.model.errors import NotAllowed


class EgressQuery(Struct, kw_only=True):
    """``limit``: so many of the newest lines. ``all``: also what went out, as far as it is remembered."""

    limit: Annotated[int, Meta(ge=1, le=2000)] = 100
    all: bool = False


async def list_policies(call: Call[NoQuery, Nothing]) -> PolicyBook:
    """All policies."""
    return await call.fleet.egress.policies()


async def check_policy(call: Call[NoQuery, PolicyText]) -> Findings:
    """Look at a policy file."""
    return await call.fleet.egress.check(call.body)


async def test_policy(call: Call[NoQuery, TryRequest]) -> Verdict:
    """Would that go out?"""
    return await call.fleet.egress.test(call.body)


async def egress(call: Call[EgressQuery, Nothing]) -> EgressView:
    """What a thopter may, and what it was refused."""
    return await call.fleet.egress.view(call.key, call.query.limit, call.query.all)


async def allow_egress(call: Call[NoQuery, AllowRequest]) -> Allowed:
    """Allow a thopter a host, once or as long as it lives."""
    if call.body.scope == "always":
        raise NotAllowed("a policy is changed at /egress/always", hint="it needs the scope admin")
    return await call.fleet.egress.allow(call.key, call.body)


async def allow_egress_always(call: Call[NoQuery, AllowRequest]) -> Allowed:
    """Write a host into the thopter's policy."""
    call.body.scope = "always"
    return await call.fleet.egress.allow(call.key, call.body)


ROUTES = (
    Route(
        method="GET",
        path="/v1/policies",
        summary="Every policy, and whether the policy file is in force",
        scope=READ,
        handler=list_policies,
        response=PolicyBook,
    ),
    Route(
        method="POST",
        path="/v1/policies/check",
        summary="What is wrong with a policy file, line by line; nothing is changed",
        scope=READ,
        handler=check_policy,
        request=PolicyText,
        response=Findings,
        body_max=4 << 20,
    ),
    Route(
        method="POST",
        path="/v1/policies/test",
        summary="Would a request go out, and by which rule; nothing is sent",
        scope=READ,
        handler=test_policy,
        request=TryRequest,
        response=Verdict,
    ),
    Route(
        method="GET",
        path="/v1/thopters/{name}/egress",
        summary="A thopter's policy, what it was refused, and what it was allowed besides",
        scope=READ,
        handler=egress,
        query=EgressQuery,
        response=EgressView,
    ),
    Route(
        method="POST",
        path="/v1/thopters/{name}/egress/allow",
        summary="Allow a thopter a host: for one connection, or as long as it lives",
        scope=APPROVE,
        handler=allow_egress,
        request=AllowRequest,
        response=Allowed,
        mutating=True,
        repeatable=True,
    ),
    Route(
        method="POST",
        path="/v1/thopters/{name}/egress/always",
        summary="Write a host into the policy of a thopter, for all that have it",
        scope=ADMIN,
        handler=allow_egress_always,
        request=AllowRequest,
        response=Allowed,
        mutating=True,
        repeatable=True,
    ),
)
