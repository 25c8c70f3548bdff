"""What agents ask people: one row for each held hook, and what came of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from msgspec import Struct, structs

from thopter.model.api.approvals import OPEN
from thopter.model.asks import Ask, AskReply
from thopter.model.errors import Conflict, NotFound
from thopter.model.events import Event
from thopter.store import codec
from thopter.store.audit import AuditTable
from thopter.store.db import Conn, Database, Row
from thopter.store.events import EventTable

KEPT = 100  # of those that are over, by box
_COLUMNS = (
    "id, box, run, hook, state, asked_ms, changed_ms, digest, call, body, ask, whole, reply, detail, side"
)


class Asked(Struct, frozen=True, kw_only=True):
    """An approval as recorded. ``body`` is the hook's body as the box recorded it (``whole``: not cut);
    ``call`` identifies the tool call in evidence."""

    id: str
    box: str
    run: str
    hook: str
    state: str
    asked_ms: int
    changed_ms: int
    digest: str
    call: str
    body: str
    ask: Ask
    whole: bool = True
    reply: AskReply | None = None
    detail: str = ""
    side: bool = False  # asked by an agent of the agent, beside its own turn


def _asked(row: Row) -> Asked:
    reply = codec.from_json(row[12], AskReply) if row[12] else None
    return Asked(
        id=row[0], box=row[1], run=row[2], hook=row[3], state=row[4], asked_ms=row[5], changed_ms=row[6],
        digest=row[7], call=row[8], body=row[9], ask=codec.from_json(row[10], Ask), whole=bool(row[11]),
        reply=reply, detail=row[13], side=bool(row[14]),
    )  # fmt: skip


def _row(a: Asked) -> tuple[Any, ...]:
    return (
        a.id, a.box, a.run, codec.clean_text(a.hook, 256), a.state, codec.clean_ms(a.asked_ms),
        codec.clean_ms(a.changed_ms), a.digest, a.call, codec.clean_text(a.body), codec.to_json(a.ask),
        int(a.whole), codec.to_json(a.reply) if a.reply is not None else "", codec.clean_text(a.detail, 1000),
        int(a.side),
    )  # fmt: skip


def _given(a: Asked, reply: AskReply, at_ms: int) -> Event:
    """For the audit: what was answered to which question. Who did is known where it is written."""
    data = {"approval": a.id, "tool": a.ask.tool, "summary": a.ask.summary, "digest": a.digest,
            "allow": reply.allow, "for_run": reply.for_run, "message": reply.message,
            "answers": list(reply.answers)}  # fmt: skip
    return Event(kind="approval.given", at_ms=at_ms, box=a.box, run=a.run, data=data)


class ApprovalTable:
    """Approvals inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def add(self, asked: Asked) -> bool:
        """Record it; False when this hook is recorded already (its box was read again)."""
        if self.of_hook(asked.box, asked.hook) is not None:
            return False
        marks = ", ".join("?" * 15)
        self._conn.run(f"INSERT INTO approvals ({_COLUMNS}) VALUES ({marks})", _row(asked))
        rows = self._conn.rows(
            "SELECT id FROM approvals WHERE box = ? AND state NOT IN (?, ?) ORDER BY asked_ms DESC, id DESC",
            (asked.box, *OPEN),
        )
        for (old,) in list(rows)[KEPT:]:
            self._conn.run("DELETE FROM approvals WHERE id = ?", (old,))
        return True

    def get(self, key: str) -> Asked:
        """The one with this id; NotFound."""
        row = self._conn.row(f"SELECT {_COLUMNS} FROM approvals WHERE id = ?", (key,))
        if row is None:
            raise NotFound(f"there is no approval {key[:60]}", hint="see 'thopter approvals'")
        return _asked(row)

    def of_hook(self, box: str, hook: str) -> Asked | None:
        """The one of this hook of this box, or None."""
        row = self._conn.row(f"SELECT {_COLUMNS} FROM approvals WHERE box = ? AND hook = ?", (box, hook))
        return _asked(row) if row is not None else None

    def asked(self, box: str = "", all_: bool = False) -> list[Asked]:
        """Those of a box, or of every box that is not gone; oldest first."""
        where, values = ["b.id = a.box"], []
        if box:
            where.append("a.box = ?")
            values.append(box)
        else:
            where.append("b.state <> 'gone'")
        if not all_:
            where.append("a.state IN (?, ?)")
            values += OPEN
        names = ", ".join("a." + c.strip() for c in _COLUMNS.split(","))
        found = " AND ".join(where)
        rows = self._conn.rows(
            f"SELECT {names} FROM approvals a, boxes b WHERE {found} ORDER BY a.asked_ms, a.id", values
        )
        return [_asked(r) for r in rows]

    def settle(
        self, key: str, was: Collection[str], state: str, at_ms: int, detail: str, reply: AskReply | None
    ) -> Asked | None:
        """Change the state of one whose recorded state is among ``was``; None when it is not."""
        now = self.get(key)
        if now.state not in was:
            return None
        new = structs.replace(
            now, state=state, changed_ms=at_ms, detail=detail, reply=reply if reply is not None else now.reply
        )
        self._conn.run(
            "UPDATE approvals SET state = ?, changed_ms = ?, detail = ?, reply = ? WHERE id = ?",
            (*(_row(new)[i] for i in (4, 6, 13, 12)), key),
        )
        return new


class Approvals:
    """Approvals for the rest of the hub; each call is one transaction, events inside."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(self, asked: Asked, event: Event) -> bool:
        """See :meth:`ApprovalTable.add`; the event is told only for a new one."""

        def both(conn: Conn) -> bool:
            fresh = ApprovalTable(conn).add(asked)
            if fresh:
                EventTable(conn).append([event])
            return fresh

        return await self._db.write(both)

    async def get(self, key: str) -> Asked:
        """See :meth:`ApprovalTable.get`."""
        return await self._db.read(lambda c: ApprovalTable(c).get(key))

    async def of_hook(self, box: str, hook: str) -> Asked | None:
        """See :meth:`ApprovalTable.of_hook`."""
        return await self._db.read(lambda c: ApprovalTable(c).of_hook(box, hook))

    async def asked(self, box: str = "", all_: bool = False) -> list[Asked]:
        """See :meth:`ApprovalTable.asked`."""
        return await self._db.read(lambda c: ApprovalTable(c).asked(box, all_))

    async def decide(self, key: str, digest: str, reply: AskReply, at_ms: int) -> Asked:
        """Record an answer before anything of it is done: from ``open`` to ``answering``. Conflict when
        it is about something else (the digest differs) or when it has been answered already."""

        def one(conn: Conn) -> Asked:
            table = ApprovalTable(conn)
            now = table.get(key)
            if now.digest != digest:
                raise Conflict(
                    "what is asked is not what you were shown", hint="look again: 'thopter approvals'"
                )
            found = table.settle(key, ("open",), "answering", at_ms, "", reply)
            if found is None:
                raise Conflict(
                    f"it is {now.state} already", hint="see 'thopter approvals -a'", state=now.state
                )
            AuditTable(conn).append(_given(found, reply, at_ms))
            return found

        return await self._db.write(one)

    async def settle(
        self, key: str, was: Collection[str], state: str, at_ms: int, detail: str, event: Event
    ) -> Asked | None:
        """See :meth:`ApprovalTable.settle`; the event is told only when it changed."""

        def both(conn: Conn) -> Asked | None:
            found = ApprovalTable(conn).settle(key, was, state, at_ms, detail, None)
            if found is not None:
                EventTable(conn).append([event])
            return found

        return await self._db.write(both)
