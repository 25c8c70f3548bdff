"""The warm pool for the fleet in memory: as little as the routes need."""

from __future__ import annotations

from thopter.model.api.pool import PoolRequest, PoolView


class MemoryPool:
    """See ``thopter.hub.ports.pool.PoolPort``."""

    def __init__(self) -> None:
        self.views: dict[tuple[str, str, str], PoolView] = {}

    async def set(self, req: PoolRequest) -> PoolView:
        key = (req.snapshot, req.repo, req.agent)
        view = PoolView(snapshot=req.snapshot, repo=req.repo, agent=req.agent, want=req.want)
        self.views.pop(key, None)
        if req.want:
            self.views[key] = view
        return view

    async def list(self) -> list[PoolView]:
        return list(self.views.values())

    async def clear(self, snapshot: str) -> list[PoolView]:
        gone = [v for v in self.views.values() if snapshot in ("", v.snapshot)]
        self.views = {k: v for k, v in self.views.items() if v not in gone}
        return gone
