"""Budgets in memory, for tests of the hub's shell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from thopter.model.api.budget import BudgetAmount, BudgetView


class MemoryBudgets:
    """See ``thopter.hub.ports.budget.BudgetsPort``."""

    def __init__(self, find: Callable[[str], Any]) -> None:
        self._find = find

    async def view(self, name: str) -> BudgetView:
        found = self._find(name)
        return BudgetView(name=found.name, box=found.id, limits=[], spent=BudgetAmount())

    async def change(self, name: str, req: Any) -> BudgetView:
        return await self.view(name)
