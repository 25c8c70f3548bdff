"""Pushes for the fleet in memory: as little as the routes need."""

from __future__ import annotations

from collections.abc import Callable

from thopter.model.api import ThopterView
from thopter.model.api.pushes import PushList, PushRequest, PushView


class MemoryPushes:
    """See ``thopter.hub.ports.pushes.PushesPort``."""

    def __init__(self, find: Callable[[str], ThopterView]) -> None:
        self._find = find

    async def view(self, name: str) -> PushList:
        branch = f"thopter/{self._find(name).name}"
        one = PushView(source="/proj", folder="/work/proj", branch=branch, policy="default", allowed=False)
        return PushList(pushes=[one])

    async def order(self, name: str, req: PushRequest) -> PushList:
        return await self.view(name)

    async def refresh(self, name: str) -> PushList:
        return await self.view(name)
