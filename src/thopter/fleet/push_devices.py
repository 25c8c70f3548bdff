"""Devices that get notes by web push as use cases: subscribed, listed, forgotten, written to."""

from __future__ import annotations

import datetime
import hashlib
import re
import zoneinfo

import msgspec

from thopter.fleet.approvals import shown
from thopter.fleet.deps import Deps
from thopter.kit.sanitize import clean
from thopter.kit.webpush import PAYLOAD_MAX, check_keys
from thopter.model.api.approvals import Approval
from thopter.model.api.notes import Target
from thopter.model.api.push import Quiet, SubscribeRequest
from thopter.model.errors import BadInput, NotFound
from thopter.model.ids import new_id
from thopter.model.notes import CHOICES, Letter, Note, NoteKind, Pushed, PushOrder
from thopter.store.page_sessions import SessionRow
from thopter.store.push_devices import DeviceRow

PREFIX = "page-"
URGENT = frozenset({NoteKind.WAITING_PERMISSION, NoteKind.WAITING_QUESTION, NoteKind.FAILED, NoteKind.BUDGET})
_MAY_APPROVE = ("operator", "admin")
_GLANCE, _GLANCE_LINES = 240, 6  # what phones show of a note
_GAP = re.compile(r"\s{5,}")  # pushes what follows out of sight


class PushDevices:
    """One per hub."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    async def key(self) -> str:
        """The hub's public key, with which browsers subscribe."""
        return await self._deps.postman.push_key()

    async def all(self) -> list[DeviceRow]:
        """Every device."""
        return await self._deps.store.devices.all()

    async def targets(self) -> list[Target]:
        """The same as places that notes go to."""
        return [
            Target(name=row.target, address=f"{row.device} (by {row.service})") for row in await self.all()
        ]

    async def subscribe(self, session: str, req: SubscribeRequest) -> DeviceRow:
        """Record a browser of a session; durable. The same endpoint again replaces what it wanted."""
        check_keys(req.keys.p256dh, req.keys.auth)
        strange = [kind for kind in req.kinds if kind not in CHOICES]
        if strange:
            raise BadInput(f"{strange[0]!r} is no kind of note", hint=f"there is {', '.join(CHOICES)}")
        if req.quiet is not None:
            _zone(req.quiet.zone)
        await self._deps.postman.vet(req.endpoint)
        found = next((r for r in await self._deps.store.page_sessions.all() if r.id == session), None)
        row = self._row(found, req) if found is not None else None
        if row is None or not await self._deps.store.devices.put(row):  # it may end while we look
            raise NotFound("this session is over", hint="log in again: thopter dashboard")
        return row

    def _row(self, session: SessionRow, req: SubscribeRequest) -> DeviceRow:
        now = self._deps.clock.now_ms()
        return DeviceRow(
            id=new_id("dev", now), session=session.id, endpoint=req.endpoint, p256dh=req.keys.p256dh,
            auth=req.keys.auth, kinds=tuple(req.kinds), quiet=req.quiet, device=session.device,
            role=session.role, created_ms=now,
        )  # fmt: skip

    async def forget(self, id_: str) -> None:
        """Forget one; NotFound when it is not there."""
        if not await self._deps.store.devices.delete(id_):
            raise NotFound(f"there is no device {id_[:60]!r}")

    async def wanting(self, kind: NoteKind) -> list[str]:
        """The targets of devices that want a note of this kind now."""
        now = self._deps.clock.now_ms()
        return [row.target for row in await self.all() if wants(row, kind, now)]

    async def post(self, target: str, note: Note, letter: Letter) -> Pushed:
        """Send a note to a device; one whose browser wants no more is forgotten."""
        row = next((r for r in await self.all() if r.target == target), None)
        if row is None:
            return Pushed(problem="the device was logged out", gone=True)
        found = await self._deps.store.approvals.asked(note.box) if note.box else []
        asked = [shown(a, note.name) for a in found]
        topic = hashlib.sha256(f"{note.run} {note.kind}".encode()).hexdigest()[:32]
        pushed = await self._deps.postman.push(
            PushOrder(
                endpoint=row.endpoint, p256dh=row.p256dh, auth=row.auth, topic=topic,
                payload=payload(row, note, letter, asked), urgent=note.kind in URGENT,
            )
        )  # fmt: skip
        if pushed.gone:
            await self._deps.store.devices.delete(row.id)
        return pushed


def wants(row: DeviceRow, kind: NoteKind, now_ms: int) -> bool:
    """Whether a device wants a note of this kind at this time. A test always comes."""
    if kind is NoteKind.TEST:
        return True
    if row.kinds and kind.value not in row.kinds:
        return False
    return row.quiet is None or (row.quiet.urgent and kind in URGENT) or not in_quiet(row.quiet, now_ms)


def in_quiet(quiet: Quiet, now_ms: int) -> bool:
    """Whether it is one of these hours; a range that ends before it begins goes over midnight."""
    now = datetime.datetime.fromtimestamp(now_ms / 1000, _zone(quiet.zone))
    minute = now.hour * 60 + now.minute
    if quiet.start <= quiet.end:
        return quiet.start <= minute < quiet.end
    return minute >= quiet.start or minute < quiet.end


def _zone(name: str) -> datetime.tzinfo:
    try:
        return datetime.UTC if name == "UTC" else zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise BadInput(f"{name[:60]!r} is no time zone", hint="such as Europe/Berlin") from None


def payload(row: DeviceRow, note: Note, letter: Letter, asked: list[Approval]) -> bytes:
    """What the service worker (``web/src/sw.ts``) gets. Buttons only for one open thing that the note itself
    says in full, and only for a session that may; they need no token: the worker calls with the session
    itself."""
    told: dict[str, object] = {
        "id": note.id, "kind": note.kind.value, "name": note.name, "title": letter.title,
        "body": letter.body, "at_ms": note.created_ms, "urgent": note.kind in URGENT,
        "path": f"/t/{note.name}" if note.box else "/",
    }  # fmt: skip
    found = [a for a in asked if a.run == note.run and a.state == "open" and a.whole and not a.questions]
    words = in_full(found[0]) if len(found) == 1 else ""
    if note.kind is NoteKind.WAITING_PERMISSION and words and row.role in _MAY_APPROVE:
        told |= {"body": words, "approval": {"id": found[0].id, "digest": found[0].digest}}
    packed = msgspec.json.encode(told)
    if len(packed) > PAYLOAD_MAX:
        packed = msgspec.json.encode(told | {"title": letter.title[:120], "body": str(told["body"])[:300]})
    if len(packed) > PAYLOAD_MAX:
        told.pop("approval", None)
        packed = msgspec.json.encode(told | {"title": letter.title[:60], "body": ""})
    return packed


def in_full(one: Approval) -> str:
    """All that it asks for, as a note can show it; "" when that is more than a glance takes in, or when some
    of it can't be seen: then the page shows it. The letter's own words may be of what was asked before."""
    if any(isinstance(value, list | dict) for value in one.input.values()):
        return ""
    said = [f"{name}: {value}" for name, value in one.input.items()]
    words = "\n".join([f"{one.agent or one.name}: {one.tool}", *said])
    short = len(words) <= _GLANCE and words.count("\n") <= _GLANCE_LINES
    return words if short and clean(words) == words and not _GAP.search(words) else ""
