"""Notes for the fleet in memory: as little as the routes need."""

from __future__ import annotations

from thopter.model.api.notes import MuteRequest, Notes, NoteView, NotifyState, Target, TestRequest
from thopter.model.api.push import SubscribeRequest
from thopter.model.ids import new_id
from thopter.model.notes import Letter, Note, NoteKind, Send
from thopter.store.push_devices import DeviceRow


class MemoryNotes:
    """See ``thopter.hub.ports.notes.NotesPort``."""

    def __init__(self) -> None:
        self.muted: set[str] = set()
        self.devices = MemoryDevices()

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


class MemoryDevices:
    """See ``thopter.hub.ports.push_devices.PushDevicesPort``."""

    def __init__(self) -> None:
        self.rows: list[DeviceRow] = []

    async def key(self) -> str:
        return "a key"

    async def all(self) -> list[DeviceRow]:
        return self.rows

    async def subscribe(self, session: str, req: SubscribeRequest) -> DeviceRow:
        row = DeviceRow(
            id=new_id("dev"), session=session, endpoint=req.endpoint, p256dh=req.keys.p256dh,
            auth=req.keys.auth, kinds=tuple(req.kinds), quiet=req.quiet, device="d", role="admin",
            created_ms=1,
        )  # fmt: skip
        self.rows.append(row)
        return row

    async def forget(self, id_: str) -> None:
        self.rows = [row for row in self.rows if row.id != id_]
