"""Requests and answers about pools of warm boxes."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from thopter.model.api.furnish import Furnishing

GOLDEN = "golden"  # the word for "no snapshot": the plain golden box
MOST = 50  # warm boxes in one pool; each holds a running agent


class PoolRequest(Struct, kw_only=True):
    """``POST /v1/pools``: keep ``want`` boxes ready (0: none any more). ``snapshot``: a snapshot's name, or
    ``golden``; the rest as in a run's request, but that nothing can be uploaded."""

    snapshot: Annotated[str, Meta(min_length=1, max_length=200)]
    want: Annotated[int, Meta(ge=0, le=MOST)]
    repo: str = ""
    agent: str = "claude"
    permission_mode: str = ""
    model: str = ""
    furnishing: Furnishing = field(default_factory=Furnishing)


class PoolClear(Struct, kw_only=True):
    """``POST /v1/pools/clear``: keep no boxes ready of ``snapshot`` any more; empty: of none at all."""

    snapshot: str = ""


class WarmBox(Struct, kw_only=True):
    """A box of a pool. ``state``: ``filling`` (it is being made), ``warm`` (its agent waits), ``unready``
    (warm, but it can't be given out at this moment) or ``retired`` (it is being destroyed)."""

    name: str
    box: str
    state: str
    since_ms: int = 0


class PoolView(Struct, kw_only=True):
    """A pool. ``ready``: boxes that a run can take now; ``filling``: boxes under way; ``taken``: how many
    runs took one; ``problem``: why the last filling failed, tried again at ``retry_ms`` (0: at once)."""

    snapshot: str
    repo: str
    agent: str
    want: int
    ready: int = 0
    filling: int = 0
    taken: int = 0
    problem: str = ""
    retry_ms: int = 0
    permission_mode: str = ""
    model: str = ""
    boxes: list[WarmBox] = field(default_factory=list)


class Pools(Struct, kw_only=True):
    """``GET /v1/pools``; also what ``clear`` has cleared."""

    pools: list[PoolView]
