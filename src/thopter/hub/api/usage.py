"""Routes about what runs used of their models."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from thopter.hub.auth import READ
from thopter.hub.routes import Call, Route
from thopter.model.api import Nothing
from thopter.model.api.usage import UsageReport


class UsageQuery(Struct, kw_only=True):
    """``name``: only of this thopter; ``all``: also of those that are gone."""

    name: Annotated[str, Meta(max_length=200)] = ""
    all: bool = False


async def usage_report(call: Call[UsageQuery, Nothing]) -> UsageReport:
    """Tokens and money by run."""
    return await call.fleet.usage.report(call.query.name, call.query.all)


ROUTES = (
    Route(
        method="GET",
        path="/v1/usage",
        summary="What runs used of their models: calls, tokens, and money where the prices are known",
        scope=READ,
        handler=usage_report,
        query=UsageQuery,
        response=UsageReport,
    ),
)
