"""Having the golden box that an agent needs, built when there is none or its version is another."""

from __future__ import annotations

from typing import Any

from thopter.fleet.deps import Deps
from thopter.flow.engine import FlowContext
from thopter.model.sockets import Goldens, Provider


async def have_golden(
    deps: Deps, ctx: FlowContext, provider: Provider, agent: str, settings: dict[str, Any]
) -> bool:
    """See to it that ``default`` has this agent; True when it had to be built. Only one is built at a
    time; said lines go to the flow. Nothing to do for a provider without goldens."""
    if not isinstance(provider, Goldens):
        return False
    part = deps.agents[agent].golden_part(settings)
    async with deps.golden_lock:
        if await provider.golden_ready("default", [part]):
            return False
        async for line in provider.build_golden("default", [part]):
            ctx.say(line)
    return True
