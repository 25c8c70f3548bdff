"""What makes a warm box the same as a fresh one: its recipe; and which warm boxes a request may have."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from thopter.fleet.boxnet import chosen
from thopter.fleet.deps import Deps
from thopter.fleet.launch import FlyArgs
from thopter.fleet.live import LiveBox
from thopter.fleet.pool_rules import fitness
from thopter.model.errors import BadInput
from thopter.model.nouns import Box, BoxState
from thopter.store.pools import WARM

SPOKEN_MAX = 16_000  # characters of a first message that is typed at the agent's prompt
# What differs between two boxes that are otherwise the same, and what is made true when one is taken.
_OWN = frozenset({"box", "run", "name", "prompt", "branch", "session", "token", "since_ms"})


def recipe(deps: Deps, box: Box, args: FlyArgs) -> str:
    """A digest of everything that a box and its running agent were made of: what was asked for, settings,
    limits, snapshot, versions, policy. ``box`` and ``args`` are those of the flow that makes it."""
    asked = {k: v for k, v in msgspec.to_builtins(args).items() if k not in _OWN}
    made = [box.provider, box.snapshot, box.golden, msgspec.to_builtins(box.limits)]
    part = msgspec.to_builtins(deps.agents[args.agent].golden_part(args.settings))
    # Never a box that may reach something else, or lacks the placeholder of a secret that it may use.
    policy = {k: chosen(box).get(k) for k in ("name", "ca", "isolation", "env")}
    # Nor one that another setting made weaker, before the hub was started anew with this one.
    place = deps.settings.section(box.provider)
    whole: list[Any] = [asked, made, part, list(deps.identity), deps.owner, policy, place]
    return hashlib.sha256(msgspec.json.encode(whole, order="sorted")).hexdigest()[:32]


def speakable(deps: Deps, args: FlyArgs) -> bool:
    """True for a task that can be the first message to an agent that runs already, word for word (or
    for none at all)."""
    if not args.prompt or len(args.prompt) > SPOKEN_MAX:
        return not args.prompt
    try:
        deps.agents[args.agent].say(args.prompt)
    except BadInput:
        return False
    return True


async def offers(deps: Deps, wanted: str) -> list[str]:
    """Ids of warm boxes with this recipe whose agent waits at its prompt now, the oldest first. Who takes
    one must still win it in the store."""
    found = [b for b in await deps.store.pools.boxes() if b.state == WARM and b.recipe == wanted]
    live = deps.crew.live
    return [b.box for b in found if fitness(live.get(b.box), _state(live.get(b.box))) == "fit"]


def _state(live: LiveBox | None) -> BoxState:
    return live.box.state if live is not None else BoxState.LOST
