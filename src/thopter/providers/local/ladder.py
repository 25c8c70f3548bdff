"""Which stronger kinds of box there are, weakest first: one file adds a kind, one line here takes it up."""

from __future__ import annotations

from thopter.providers.local.core import Core
from thopter.providers.local.maker import Maker
from thopter.providers.local.nursery import Nursery
from thopter.providers.local.tiers import Stronger
from thopter.providers.local.way_vm import Machines


def ladder(core: Core, maker: Maker, nursery: Nursery) -> tuple[Stronger, ...]:
    """One object of each; ``core`` is the provider that they make boxes for."""
    return (Machines(core, maker),)
