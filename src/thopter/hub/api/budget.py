"""Routes about what thopters may spend of their models."""

from __future__ import annotations

from thopter.hub.auth import OPERATE, READ
from thopter.hub.routes import Call, NoQuery, Route
from thopter.model.api import Nothing
from thopter.model.api.budget import BudgetRequest, BudgetView


async def budget(call: Call[NoQuery, Nothing]) -> BudgetView:
    """Limits and what is spent."""
    return await call.fleet.budgets.view(call.key)


async def change_budget(call: Call[NoQuery, BudgetRequest]) -> BudgetView:
    """Raise or set it."""
    return await call.fleet.budgets.change(call.key, call.body)


ROUTES = (
    Route(
        method="GET",
        path="/v1/thopters/{name}/budget",
        summary="What a thopter may spend of its models, and has spent",
        scope=READ,
        handler=budget,
        response=BudgetView,
    ),
    Route(
        method="POST",
        path="/v1/thopters/{name}/budget",
        summary="Let a thopter spend more, or another amount",
        scope=OPERATE,
        handler=change_budget,
        request=BudgetRequest,
        response=BudgetView,
        mutating=True,
    ),
)
