"""What the hub's shell needs for variables of boxes."""

from __future__ import annotations

from typing import Protocol

from thopter.model.api.variables import VariableView


class VariablesPort(Protocol):
    """Variables that new boxes get."""

    async def masked(self) -> list[VariableView]:
        """All of them, masked."""

    async def set(self, values: dict[str, str]) -> None:
        """Set all of them or none."""

    async def renew(self) -> list[str]:
        """Give the gateways the credentials that are stored now; the thopters that use one."""

    async def delete(self, name: str) -> bool:
        """Forget one; False when there was none."""
