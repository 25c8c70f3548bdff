"""What the shell needs of notes to people."""

from __future__ import annotations

from typing import Protocol

from thopter.hub.ports.push_devices import PushDevicesPort
from thopter.model.api.notes import MuteRequest, Notes, NoteView, NotifyState, TestRequest


class NotesPort(Protocol):
    """See :class:`thopter.fleet.notes.Notes`."""

    @property
    def devices(self) -> PushDevicesPort:
        """Browsers that get notes."""

    async def list(self, limit: int, name: str) -> Notes:
        """The newest notes and their fate; of one thopter when named."""

    async def state(self) -> NotifyState:
        """Where notes go, about what, and who is muted."""

    async def test(self, req: TestRequest) -> NoteView:
        """Send a test and wait for what comes of it."""

    async def mute(self, req: MuteRequest) -> NotifyState:
        """Mute a thopter or everything, or let it be heard again. Idempotent."""
