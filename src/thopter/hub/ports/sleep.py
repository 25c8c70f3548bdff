"""What the hub's shell needs to put thopters to sleep and wake them; filled by ``thopter.fleet.sleep``."""

from __future__ import annotations

from typing import Protocol

from thopter.model.api import Accepted
from thopter.model.api.sleep import (
    KeepAliveRequest,
    LeaseView,
    RestartRequest,
    ResumeRequest,
    SuspendRequest,
    SuspendResult,
)


class SleepPort(Protocol):
    """The use cases. ``name`` may be a unique prefix."""

    async def suspend(self, name: str, req: SuspendRequest) -> SuspendResult:
        """Frozen when this returns; to the disk, it goes on in the flow. Idempotent."""

    async def resume(self, name: str, req: ResumeRequest) -> Accepted:
        """Durable when this returns; asking twice joins the first."""

    async def restart(self, name: str, req: RestartRequest) -> Accepted:
        """Durable when this returns; the agent only."""

    async def stop(self, name: str) -> None:
        """The agent has ended when this returns; its box stays. Idempotent."""

    async def keepalive(self, name: str, req: KeepAliveRequest) -> LeaseView:
        """The box's time begins anew."""

    async def lease(self, name: str) -> LeaseView:
        """How long it may go on."""
