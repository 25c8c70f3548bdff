"""Routes about pools of warm boxes."""

from __future__ import annotations

from thopter.hub.auth import OPERATE, READ
from thopter.hub.routes import Call, NoQuery, Route
from thopter.model.api import Nothing
from thopter.model.api.pool import PoolClear, PoolRequest, Pools, PoolView


async def list_pools(call: Call[NoQuery, Nothing]) -> Pools:
    """What is kept ready."""
    return Pools(pools=await call.fleet.pool.list())


async def set_pool(call: Call[NoQuery, PoolRequest]) -> PoolView:
    """Keep boxes ready."""
    return await call.fleet.pool.set(call.body)


async def clear_pools(call: Call[NoQuery, PoolClear]) -> Pools:
    """Keep them ready no more."""
    return Pools(pools=await call.fleet.pool.clear(call.body.snapshot))


ROUTES = (
    Route(
        method="GET",
        path="/v1/pools",
        summary="Pools of warm boxes, and what is ready in each",
        scope=READ,
        handler=list_pools,
        response=Pools,
    ),
    Route(
        method="POST",
        path="/v1/pools",
        summary="Keep boxes ready whose agent has started already",
        scope=OPERATE,
        handler=set_pool,
        request=PoolRequest,
        response=PoolView,
        mutating=True,
        repeatable=True,
    ),
    Route(
        method="POST",
        path="/v1/pools/clear",
        summary="Keep no boxes ready any more; those that wait are destroyed",
        scope=OPERATE,
        handler=clear_pools,
        request=PoolClear,
        response=Pools,
        mutating=True,
        repeatable=True,
    ),
)
