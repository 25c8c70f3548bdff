"""Notes for the fleet in memory: as little as the routes need."""

from __future__ import annotations

from thopter.model.api.notes import MuteRequest, Notes, NoteView, NotifyState, Target, TestRequest
from thopter.model.notes import Letter, Note, NoteKind, Send


class MemoryNotes:
    """See ``thopter.hub.ports.notes.NotesPort``."""

    def __init__(self) -> None:
        self.muted: set[str] = set()

    async def list(self, limit: int, name: str) -> Notes:
        return Notes(notes=[_view()][:limit])

    async def state(self) -> NotifyState:
        return NotifyState(targets=[Target(name="ntfy")], on=["done"], muted="" in self.muted)

    async def test(self, req: TestRequest) -> NoteView:
        return _view()

    async def mute(self, req: MuteRequest) -> NotifyState:
        (self.muted.add if req.muted else self.muted.discard)(req.name)
        return await self.state()


def _view() -> NoteView:
    note = Note(id="note_1", key="k", kind=NoteKind.TEST, letter=Letter(title="hello"), created_ms=1)
    return NoteView(note=note, fate="sent", sends=[Send(note="note_1", target="ntfy", state="sent")])
