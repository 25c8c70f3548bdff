"""Approvals and usage in memory, for tests of the hub's shell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from thopter.model.api.approvals import Approval
from thopter.model.api.usage import Usage, UsageReport
from thopter.model.errors import NotFound


class MemoryApprovals:
    """See ``thopter.hub.ports.approvals.ApprovalsPort``."""

    def __init__(self, find: Callable[[str], Any]) -> None:
        self._find = find

    async def asked(self, name: str, everything: bool) -> list[Approval]:
        if name:
            self._find(name)
        return []

    async def answer(self, key: str, req: Any) -> Approval:
        raise NotFound(f"there is no approval {key[:60]}")


class MemoryUsage:
    """See ``thopter.hub.ports.usage.UsagePort``."""

    def __init__(self, find: Callable[[str], Any]) -> None:
        self._find = find

    async def report(self, name: str, everything: bool) -> UsageReport:
        if name:
            self._find(name)
        return UsageReport(runs=[], total=Usage(), prices="2026-11-30")
