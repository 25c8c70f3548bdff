"""Tiers of isolation: which kinds of box count as how strong, and what may stand in for what. Pure.
The facet of providers that make boxes of several tiers.

A policy or a request names the *least* tier that will do. A kind or a wish that is not known is trusted
with nothing and met by nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

from thopter.model.nouns import Isolation

Tier = Literal["any", "namespaces", "gvisor", "vm"]
TIERS: tuple[Tier, ...] = ("any", "namespaces", "gvisor", "vm")

_STRENGTH: dict[str, int] = {
    "any": 0, Isolation.NONE: 0, Isolation.CONTAINER: 1, Isolation.BUBBLEWRAP: 1,
    Isolation.NAMESPACES_USER: 1, Isolation.NAMESPACES_IDMAPPED: 1, "namespaces": 1,
    Isolation.GVISOR: 2, Isolation.VM: 3,
}  # fmt: skip
_NEVER = 99


def weaker(isolation: str | None, least: str) -> bool:
    """Whether a box of that isolation is weaker than ``least`` (empty: any will do)."""
    return _STRENGTH.get(isolation or Isolation.NONE, 0) < _STRENGTH.get(least or "any", _NEVER)


def stronger(one: str, other: str) -> str:
    """The stronger of two least tiers."""
    return other if _STRENGTH.get(other or "any", _NEVER) > _STRENGTH.get(one or "any", _NEVER) else one


@runtime_checkable
class Tiers(Protocol):
    """Makes boxes of several strengths. ``ensure`` takes the cheapest kind that is at least
    ``BoxSpec.isolation``, or raises Refused before it makes anything."""

    async def tiers(self, again: bool = False) -> Mapping[Isolation, str]:
        """The kinds that are stronger than the usual one, weakest first: empty for one that can be had (a
        box of it was really made), else one sentence that says what is missing and how to get it.
        ``again``: what could not be had is tried again, what could is looked at."""
