"""Variables for the fleet in memory."""

from __future__ import annotations

from thopter.model.api.variables import VariableView, check_variable


class MemoryVariables:
    """See ``thopter.hub.ports.variables.VariablesPort``."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    async def masked(self) -> list[VariableView]:
        return [
            VariableView(name=k, masked=v[:1], size=len(v), changed_ms=1) for k, v in self._values.items()
        ]

    async def set(self, values: dict[str, str]) -> None:
        for name, value in values.items():
            check_variable(name, value)
        self._values |= values

    async def renew(self) -> list[str]:
        return []

    async def delete(self, name: str) -> bool:
        return self._values.pop(name, None) is not None
