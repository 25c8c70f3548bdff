"""What the routes about budgets need from inside."""

from __future__ import annotations

from typing import Protocol

from thopter.model.api.budget import BudgetRequest, BudgetView


class BudgetsPort(Protocol):
    """``thopter.fleet.budgets.Budgets``. ``name`` may be a unique prefix."""

    async def view(self, name: str) -> BudgetView:
        """What a thopter may spend and has spent."""

    async def change(self, name: str, req: BudgetRequest) -> BudgetView:
        """Let it spend more or less: durable, and in force, when this returns."""
