"""What the shell needs of devices that get notes."""

from __future__ import annotations

from typing import Protocol

from thopter.model.api.push import SubscribeRequest
from thopter.store.push_devices import DeviceRow


class PushDevicesPort(Protocol):
    """See :class:`thopter.fleet.push_devices.PushDevices`."""

    async def key(self) -> str:
        """The hub's public key."""

    async def all(self) -> list[DeviceRow]:
        """Every device."""

    async def subscribe(self, session: str, req: SubscribeRequest) -> DeviceRow:
        """Record a browser of a session."""

    async def forget(self, id_: str) -> None:
        """Forget one; NotFound when it is not there."""
