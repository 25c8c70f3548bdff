"""Intents: "somebody wants this", stored before it is acknowledged, claimed with a fence."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from thopter.model.errors import BadInput, Conflict, NotFound
from thopter.store import codec
from thopter.store.db import Conn, Database, Row

_COLUMNS = "id, kind, origin, trust, request, state, created_ms, flow, note, owner, fence, lease_ms"
STATES = ("queued", "claimed", "done", "dropped")


class Intent(Struct, frozen=True, kw_only=True):
    """One request. ``kind``: run, create, destroy. ``origin``: who asked (cli, page, a trigger);
    ``trust``: how far. ``flow`` is the flow that serves it. ``fence`` grows with every claim: a
    holder whose lease ran out can't settle it any more."""

    id: str
    kind: str
    request: dict[str, Any]
    created_ms: int
    origin: str = ""
    trust: str = ""
    flow: str = ""
    state: str = "queued"
    note: str = ""
    owner: str = ""
    fence: int = 0
    lease_ms: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


def _intent(row: Row) -> Intent:
    return Intent(
        id=row[0], kind=row[1], origin=row[2], trust=row[3], request=codec.from_json(row[4], dict[str, Any]),
        state=row[5], created_ms=row[6], flow=row[7], note=row[8], owner=row[9], fence=row[10],
        lease_ms=row[11],
    )  # fmt: skip


class IntentTable:
    """Intents inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def add(self, intent: Intent) -> Intent:
        """Record it; returns what is recorded (the same id again changes nothing)."""
        self._conn.run(
            f"""INSERT INTO intents ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                ON CONFLICT (id) DO NOTHING""",
            (
                intent.id, intent.kind, intent.origin, intent.trust, codec.to_json(intent.request, 16 << 20),
                intent.state, intent.created_ms, intent.flow, codec.clean_text(intent.note), intent.owner,
                intent.fence, intent.lease_ms,
            ),
        )  # fmt: skip
        return self.get(intent.id)

    def find(self, intent: str) -> Intent | None:
        """The intent with this id, or None."""
        row = self._conn.row(f"SELECT {_COLUMNS} FROM intents WHERE id = ?", (intent,))
        return _intent(row) if row else None

    def get(self, intent: str) -> Intent:
        """The intent with this id; NotFound."""
        found = self.find(intent)
        if found is None:
            raise NotFound(f"there is no request {intent}")
        return found

    def open(self) -> list[Intent]:
        """Those neither done nor dropped, oldest first."""
        rows = self._conn.rows(
            f"SELECT {_COLUMNS} FROM intents WHERE state IN ('queued', 'claimed') ORDER BY created_ms, id"
        )
        return [_intent(r) for r in rows]

    def claim(self, owner: str, now_ms: int, lease_ms: int) -> Intent | None:
        """Take the oldest that is queued or whose lease ran out; None when there is none.

        One statement, so that of any number of racing claimers exactly one gets it."""
        row = self._conn.row(
            f"""UPDATE intents SET state = 'claimed', owner = ?, fence = fence + 1, lease_ms = ?
                WHERE id = (SELECT id FROM intents
                            WHERE state = 'queued' OR (state = 'claimed' AND lease_ms <= ?)
                            ORDER BY created_ms, id LIMIT 1)
                RETURNING {_COLUMNS}""",
            (owner, now_ms + lease_ms, now_ms),
        )
        return _intent(row) if row else None

    def settle(self, intent: str, fence: int, state: str, note: str = "") -> None:
        """End it as ``done`` or ``dropped``, or give it back as ``queued``. Conflict when the claim
        with this fence is no longer the last one."""
        if state not in STATES or state == "claimed":
            raise BadInput(f"a request can't be settled as {state!r}")
        changed = self._conn.run(
            "UPDATE intents SET state = ?, note = ? WHERE id = ? AND fence = ? AND state = 'claimed'",
            (state, codec.clean_text(note), intent, fence),
        )
        if not changed:
            now = self.get(intent)
            raise Conflict(f"request {intent} is {now.state} with fence {now.fence}, not {fence}", hint="")


class Intents:
    """Intents for the rest of the hub."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(self, intent: Intent) -> Intent:
        """See :meth:`IntentTable.add`; durable when this returns."""
        return await self._db.write(lambda c: IntentTable(c).add(intent))

    async def get(self, intent: str) -> Intent:
        """See :meth:`IntentTable.get`."""
        return await self._db.read(lambda c: IntentTable(c).get(intent))

    async def open(self) -> list[Intent]:
        """See :meth:`IntentTable.open`."""
        return await self._db.read(lambda c: IntentTable(c).open())

    async def claim(self, owner: str, now_ms: int, lease_ms: int) -> Intent | None:
        """See :meth:`IntentTable.claim`."""
        return await self._db.write(lambda c: IntentTable(c).claim(owner, now_ms, lease_ms))

    async def settle(self, intent: str, fence: int, state: str, note: str = "") -> None:
        """See :meth:`IntentTable.settle`."""
        await self._db.write(lambda c: IntentTable(c).settle(intent, fence, state, note))
