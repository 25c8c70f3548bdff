"""Variables that new boxes get: in the agent's environment and in login shells. No secrets: the agent
and everything it runs can read them."""

from __future__ import annotations

from thopter.fleet.deps import Deps
from thopter.fleet.launch import routes
from thopter.model.api import variables
from thopter.model.api.variables import TOTAL_MAX, VariableView, check_variable
from thopter.model.errors import BadInput
from thopter.model.nouns import BoxState
from thopter.store.variables import Variable


class Variables:
    """One for the fleet. Boxes that exist keep what they were made with."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    async def masked(self) -> list[VariableView]:
        """All of them, masked."""
        return [
            VariableView(
                name=v.name, masked=variables.masked(v.value), size=len(v.value), changed_ms=v.changed_ms
            )
            for v in await self._deps.store.variables.all()
        ]

    async def set(self, values: dict[str, str]) -> None:
        """Set all of them or, when one is bad, none; durable when this returns."""
        for name, value in values.items():
            check_variable(name, value)
        known = {v.name: v.value for v in await self._deps.store.variables.all()} | values
        if sum(len((k + v).encode("utf-8", "surrogateescape")) for k, v in known.items()) > TOTAL_MAX:
            raise BadInput(f"all variables together would be over {TOTAL_MAX >> 10} KiB")
        now = self._deps.clock.now_ms()
        await self._deps.store.variables.set(
            [Variable(name=k, value=v, changed_ms=now) for k, v in values.items()]
        )

    async def renew(self) -> list[str]:
        """Attach the gateways of every box anew, so that they use the credentials stored now; returns
        the names of the thopters that use one. A box that can't be served now is served at its next
        start."""
        names = []
        for live in list(self._deps.crew.live.values()):
            if live.box.state in (BoxState.READY, BoxState.FROZEN) and live.run is not None:
                agent = self._deps.agents[live.run.agent]
                if routes(self._deps, live.box, live.run, agent)[0].credential:
                    await self._deps.crew.attach_gateways(live.box.id)
                    names.append(live.box.name)
        return sorted(names)

    async def delete(self, name: str) -> bool:
        """Forget one; False when there was none."""
        return await self._deps.store.variables.delete(name)
