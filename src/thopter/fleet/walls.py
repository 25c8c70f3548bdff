"""How strong a box must be by its policy: its kind of isolation, and the most that it may have. Never weaker
than the policy asks; what this machine can't do is refused before anything is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import structs

from thopter.model.errors import NotFound, Refused
from thopter.model.nouns import Box, Limits
from thopter.model.sockets import BoxSpec, Caps
from thopter.model.tiers import stronger, weaker

if TYPE_CHECKING:
    from thopter.fleet.deps import Deps
    from thopter.fleet.ports import Chosen

# Limits of a policy: the field of Limits, how many of its units one of the policy's is, and its words.
_MOST = {
    "memory_mb": ("memory_bytes", 1 << 20, "MiB of memory"),
    "pids": ("pids", 1, "processes"),
    "cpus": ("cpus", 1, "processors"),
    "disk_mb": ("disk_bytes", 1 << 20, "MiB of disk"),
}


def raised(chosen: Chosen, asked: str) -> Chosen:
    """What was chosen, with the stronger isolation that a request asks for; a weaker wish changes nothing."""
    if stronger(chosen["isolation"], asked) == chosen["isolation"]:
        return chosen
    return {**chosen, "isolation": asked, "raised": True}


def capped(limits: Limits, chosen: Chosen, asked: Mapping[str, float]) -> Limits:
    """``limits`` within what the policy allows: settings give way, what was asked for by name is refused."""
    for key, most in chosen["most"].items():
        field, unit, words = _MOST[key]
        now = getattr(limits, field)
        if not most or (now and now <= most * unit):
            continue
        if key in asked:
            wish = f"{asked[key]:g}" if asked[key] else "any number of"
            raise Refused(
                f"policy {chosen['name']} ({chosen['why']}) allows a box {most:g} {words}, not {wish}",
                hint="ask for less, or for another policy with --policy",
            )
        limits = structs.replace(limits, **{field: type(now)(most * unit)})
    return limits


def cannot(caps: Caps, chosen: Chosen) -> str:
    """Why a machine that can do ``caps`` can't make boxes for this policy, "" when it can."""
    least = chosen["isolation"]
    if weaker(caps.isolation, least):
        more = f": {caps.missing[least]}" if least in caps.missing else ""
        return f"asks for isolation {least!r}, and boxes made here have {caps.isolation!s}{more}"
    for key, most in chosen["most"].items():
        field, _unit, words = _MOST[key]
        if most and field not in caps.limits:
            why = caps.missing.get(field, "that can't be limited here")
            return f"bounds {words.partition(' of ')[2] or words}, and here it can't be held: {why}"
    return ""


async def check_walls(deps: Deps, provider: str, chosen: Chosen, snapshot: str = "") -> None:
    """Refused when boxes of this provider are weaker than the policy (or the request) asks for, or can't be
    started from what they shall be started from. Nothing has been made then."""
    if chosen["isolation"] == "any" and not any(chosen["most"].values()):
        return
    found = deps.providers.get(provider)
    if found is None:
        raise NotFound(f"there is no provider {provider!r}")
    caps = await found.caps(BoxSpec(key="caps", name="caps", isolation=chosen["isolation"]))
    why = cannot(caps, chosen)
    if why and chosen.get("raised") and weaker(caps.isolation, chosen["isolation"]):
        raise Refused(f"this request {why}", hint="'thopter doctor' says what can be had here")
    if why:
        raise Refused(
            f"policy {chosen['name']} ({chosen['why']}) {why}",
            hint="another policy is chosen with --policy, or for such text with [trust] in policy.toml",
        )
    if snapshot and "snapshots" not in caps.facets:
        raise Refused(
            f"a box of isolation {caps.isolation} can't be started from a saved box",
            hint="--fresh starts from none",
        )


def hold(box: Box, isolation: str | None) -> None:
    """Refused when a box that was made is weaker than what was chosen for it: it must go again."""
    kept = box.memory.get("policy")
    wanted = str(kept.get("isolation", "any")) if isinstance(kept, dict) else "any"
    if weaker(isolation, wanted):
        raise Refused(f"its policy asks for isolation {wanted!r}, and it came out as {isolation or 'none'}")
