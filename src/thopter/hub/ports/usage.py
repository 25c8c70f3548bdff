"""What the routes about tokens and money need from inside."""

from __future__ import annotations

from typing import Protocol

from thopter.model.api.usage import UsageReport


class UsagePort(Protocol):
    """``thopter.fleet.usage.Usages``."""

    async def report(self, name: str, everything: bool) -> UsageReport:
        """By run: of one thopter (``name`` may be a unique prefix), or of all."""
