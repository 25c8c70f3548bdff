"""What the routes about talking need from inside."""

from __future__ import annotations

from typing import Protocol

from thopter.model.api.talk import (
    DoneRequest,
    EditRequest,
    Message,
    NoteRequest,
    SendRequest,
    StatuslineRequest,
)


class TalkPort(Protocol):
    """``thopter.fleet.talk.Talk``. ``name`` may be a unique prefix; ``key`` is a message's id."""

    async def send(self, name: str, req: SendRequest) -> Message:
        """Keep a message: durable when this returns."""

    async def messages(self, name: str) -> list[Message]:
        """Those kept for a thopter."""

    async def message(self, key: str) -> Message:
        """One of them."""

    async def drop(self, key: str) -> Message:
        """Take it back."""

    async def edit(self, key: str, req: EditRequest) -> Message:
        """Change its words while it is queued."""

    async def note(self, name: str, req: NoteRequest) -> None:
        """Set or remove the operator's note."""

    async def statusline(self, name: str, req: StatuslineRequest) -> None:
        """Set or give back the status line."""

    async def done(self, name: str, req: DoneRequest) -> None:
        """Declare the work done, or not."""
