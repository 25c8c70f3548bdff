"""The store: every table behind one door, and the writes that span several of them.

``await Store.open(path)`` gives the whole; each method is one transaction and returns once it is
durable. SQL stays in this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from thopter.model.errors import BadInput, NotFound
from thopter.model.events import Event
from thopter.model.evidence import Evidence
from thopter.model.ids import EventSeq
from thopter.model.nouns import Entry
from thopter.model.others import OtherAgent
from thopter.store import sqlite
from thopter.store.approvals import Approvals, ApprovalTable
from thopter.store.audit import TOPIC as AUDIT_TOPIC
from thopter.store.audit import Audit, AuditTable
from thopter.store.boxes import Boxes, BoxTable
from thopter.store.budgets import Budgets, BudgetTable
from thopter.store.cursors import Cursors, CursorTable
from thopter.store.db import Conn, Database
from thopter.store.egress import Egress, EgressTable
from thopter.store.entries import Entries, EntryTable
from thopter.store.events import TOPIC, Events, EventTable
from thopter.store.evidence import EvidenceLog, EvidenceTable
from thopter.store.gone import Forgotten
from thopter.store.idempotency import Idempotency, IdempotencyTable
from thopter.store.intents import Intents, IntentTable
from thopter.store.leases import Leases, LeaseTable
from thopter.store.migrations import migrate
from thopter.store.notes import Notes, NoteTable
from thopter.store.others import Others, OtherTable
from thopter.store.page_sessions import PageSessions, SessionTable
from thopter.store.pools import Pools, PoolTable
from thopter.store.push_devices import Devices, DeviceTable
from thopter.store.pushes import Pushes, PushTable
from thopter.store.runs import Runs, RunTable
from thopter.store.snapshots import SnapshotStore, SnapshotTable
from thopter.store.talk import LabelTable, LetterTable, Talk
from thopter.store.tokens import Tokens, TokenTable
from thopter.store.usage import Usage, UsageTable
from thopter.store.variables import Variables, VariableTable

T = TypeVar("T")


class Tx:
    """Every table inside one transaction, for writes that must happen together or not at all."""

    def __init__(self, conn: Conn) -> None:
        self.boxes = BoxTable(conn)
        self.runs = RunTable(conn)
        self.events = EventTable(conn)
        self.entries = EntryTable(conn)
        self.evidence = EvidenceTable(conn)
        self.cursors = CursorTable(conn)
        self.idempotency = IdempotencyTable(conn)
        self.intents = IntentTable(conn)
        self.notes = NoteTable(conn)
        self.egress = EgressTable(conn)
        self.letters = LetterTable(conn)
        self.labels = LabelTable(conn)
        self.snapshots = SnapshotTable(conn)
        self.leases = LeaseTable(conn)
        self.variables = VariableTable(conn)
        self.pools = PoolTable(conn)
        self.approvals = ApprovalTable(conn)
        self.usage = UsageTable(conn)
        self.audit = AuditTable(conn)
        self.tokens = TokenTable(conn)
        self.page_sessions = SessionTable(conn)
        self.devices = DeviceTable(conn)
        self.pushes = PushTable(conn)
        self.budgets = BudgetTable(conn)
        self.others = OtherTable(conn)


class Ingested(Struct, frozen=True):
    """What an intake really added: entries not seen before, and the numbers of the events."""

    entries: list[Entry]
    seqs: list[EventSeq]


class Aside(Struct, frozen=True):
    """What was read of further agents of a box: what they said, how they are now, and the numbers of
    those nobody keeps any more."""

    entries: Sequence[Entry] = ()
    agents: Sequence[OtherAgent] = ()
    forgotten: Sequence[int] = ()


_NOTHING = Aside()


class Store:
    """The hub's record. Use it from the event loop that opened it."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.boxes = Boxes(db)
        self.runs = Runs(db)
        self.events = Events(db)
        self.entries = Entries(db)
        self.evidence = EvidenceLog(db)
        self.cursors = Cursors(db)
        self.idempotency = Idempotency(db)
        self.intents = Intents(db)
        self.notes = Notes(db)
        self.egress = Egress(db)
        self.talk = Talk(db)
        self.snapshots = SnapshotStore(db)
        self.leases = Leases(db)
        self.variables = Variables(db)
        self.pools = Pools(db)
        self.gone = Forgotten(db)
        self.approvals = Approvals(db)
        self.usage = Usage(db)
        self.audit = Audit(db)
        self.tokens = Tokens(db)
        self.page_sessions = PageSessions(db)
        self.devices = Devices(db)
        self.pushes = Pushes(db)
        self.others = Others(db)
        self.budgets = Budgets(db)

    @classmethod
    async def open(cls, path: Path) -> Store:
        """Open the database (made when it is not there) and bring its schema up to date.

        Refused when a newer thopter wrote it or the SQLite library is too old; StorageError when
        it can't be opened; StorageFull when there is no room to."""
        db = Database(path)
        await db.open(_prepare)
        store = cls(db)
        db.topic(TOPIC).reach(await db.read(lambda c: EventTable(c).last_seq()))
        db.topic(AUDIT_TOPIC).reach((await store.audit.head()).seq)
        return store

    async def close(self) -> None:
        """Commit what is queued and close. Idempotent."""
        await self._db.close()

    async def write(self, fn: Callable[[Tx], T]) -> T:
        """Run ``fn`` on every table in one transaction; all of it is durable, or none.

        ``fn`` runs in another thread, must touch nothing but its :class:`Tx`, must not wait, and
        may be run again if the transaction was lost through another's fault."""
        return await self._db.write(lambda c: fn(Tx(c)))

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """Run ``fn`` on one consistent snapshot of every table."""
        return await self._db.read(lambda c: fn(Tx(c)))

    async def ingest(
        self,
        box: str,
        run: str,
        cursors: Mapping[str, int],
        entries: Sequence[Entry] = (),
        evidence: Sequence[Evidence] = (),
        events: Sequence[Event] = (),
        aside: Aside = _NOTHING,
    ) -> Ingested:
        """Store what was read from a box together with how far it was read, in one transaction.

        After a crash the box is read again from the stored cursors. Entries that were there already
        are left out, and so are ``entry`` events whose ``data["key"]`` (and ``session``, when given)
        is that of such an entry: each entry is announced once. ``aside``: what was read of other agents
        in the same box, stored with it. NotFound: no such box or run."""
        if not run and (entries or evidence or aside.entries):
            raise BadInput("entries and evidence belong to a run, and none is named")

        def both(tx: Tx) -> Ingested:
            try:
                fresh = tx.entries.add(run, entries)
                tx.entries.add(run, aside.entries, aside=True)
                tx.others.put(box, aside.agents, aside.forgotten)
                tx.evidence.add(run, evidence)
                tx.cursors.save(box, cursors)
            except sqlite.dbapi.IntegrityError as e:
                raise NotFound(f"there is no box {box} or no run {run or '-'}") from e
            return Ingested(fresh, tx.events.append(_not_again(events, entries, fresh)))

        return await self.write(both)


def _prepare(conn: Conn) -> None:
    migrate(conn)


def _not_again(events: Sequence[Event], entries: Sequence[Entry], fresh: Sequence[Entry]) -> Sequence[Event]:
    if len(fresh) == len(entries):
        return events
    new = {(e.session, e.key) for e in fresh}
    old = {(e.session, e.key) for e in entries} - new
    old_keys = {key for _, key in old} - {key for _, key in new}

    def known(event: Event) -> bool:
        if event.kind != "entry":
            return False
        key, session = event.data.get("key"), event.data.get("session")
        return key in old_keys if session is None else (session, key) in old

    return [e for e in events if not known(e)]
