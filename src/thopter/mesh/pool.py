"""The calls about the warm pool; see :class:`thopter.mesh.client.HubClient` for what all calls promise."""

from __future__ import annotations

from thopter.mesh.client import HubClient
from thopter.model.api.pool import PoolClear, PoolRequest, Pools, PoolView


def pools(hub: HubClient) -> list[PoolView]:
    """What is kept ready, and what is ready now."""
    return hub._get("/v1/pools", Pools).pools


def set_pool(hub: HubClient, request: PoolRequest) -> PoolView:
    """Keep so many boxes ready; idempotent, filled in the background."""
    return hub._post("/v1/pools", request, PoolView)


def clear(hub: HubClient, snapshot: str) -> list[PoolView]:
    """Keep none ready any more (of one snapshot, empty: at all); returns what was cleared."""
    return hub._post("/v1/pools/clear", PoolClear(snapshot=snapshot), Pools).pools
