"""What the shell needs of pushes."""

from __future__ import annotations

from typing import Protocol

from thopter.model.api.pushes import PushList, PushRequest


class PushesPort(Protocol):
    """See :class:`thopter.fleet.pushes.Pushes`."""

    async def view(self, name: str) -> PushList:
        """How a thopter's branches stand upstream."""

    async def refresh(self, name: str) -> PushList:
        """Bring what is new upstream into the mirrors of a thopter."""

    async def order(self, name: str, req: PushRequest) -> PushList:
        """A person's word: bring it upstream; durable when this returns."""
