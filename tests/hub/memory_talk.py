"""Talking in memory, for tests of the hub's shell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import structs

from thopter.model.api.talk import Message
from thopter.model.errors import NotFound
from thopter.model.ids import new_id


class MemoryTalk:
    """See ``thopter.hub.ports.talk.TalkPort``."""

    def __init__(self, find: Callable[[str], Any]) -> None:
        self._find = find
        self._kept: dict[str, Message] = {}

    async def send(self, name: str, req: Any) -> Message:
        view = self._find(name)
        message = Message(
            id=new_id("msg"), name=view.name, box=view.id, run="", kind=req.kind, state="queued",
            text=req.text, created_ms=1, changed_ms=1,
        )  # fmt: skip
        self._kept[message.id] = message
        return message

    async def messages(self, name: str) -> list[Message]:
        view = self._find(name)
        return [m for m in self._kept.values() if m.box == view.id]

    async def message(self, key: str) -> Message:
        if key not in self._kept:
            raise NotFound("there is no such message")
        return self._kept[key]

    async def drop(self, key: str) -> Message:
        self._kept[key] = structs.replace(await self.message(key), state="dropped")
        return self._kept[key]

    async def edit(self, key: str, req: Any) -> Message:
        self._kept[key] = structs.replace(await self.message(key), text=req.text)
        return self._kept[key]

    async def note(self, name: str, req: Any) -> None:
        self._find(name)

    async def statusline(self, name: str, req: Any) -> None:
        self._find(name)

    async def done(self, name: str, req: Any) -> None:
        self._find(name)
