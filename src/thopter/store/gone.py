"""Forgetting thopters that are gone: everything recorded of them, a few at a time, in one transaction."""

from __future__ import annotations

from thopter.store.db import Conn, Database

# In this order, so that nothing points to what is not there any more. A test compares the lists with
# the schema: a new table that names boxes or runs must be put in. What was spent (usage) is kept.
OF_RUNS = ("entries", "evidence")
OF_BOXES = (
    "cursors", "messages", "labels", "leases", "egress_grants", "pool_boxes", "note_mutes",
    "approvals", "git_outbox", "budgets", "other_agents", "runs",
)  # fmt: skip


class Forgotten:
    """See the module docstring."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def forget(self, before_ms: int, most: int = 20) -> list[str]:
        """Forget at most ``most`` boxes that have been gone since before ``before_ms``, with their runs,
        conversations, evidence, messages and events; returns their ids. Call again until it is empty."""
        return await self._db.write(lambda c: _forget(c, before_ms, most))

    async def events(self, before_ms: int, most: int = 20_000) -> int:
        """Forget at most ``most`` events of nobody that is there, older than that; returns how many.
        Numbers are never used again."""
        return await self._db.write(lambda c: _forget_events(c, before_ms, most))


def _forget(conn: Conn, before_ms: int, most: int) -> list[str]:
    rows = conn.rows(
        "SELECT id FROM boxes WHERE state = 'gone' AND changed_ms < ? ORDER BY changed_ms LIMIT ?",
        (before_ms, most),
    )
    boxes = [row[0] for row in rows]
    for box in boxes:
        for table in OF_RUNS:
            conn.run(f"DELETE FROM {table} WHERE run IN (SELECT id FROM runs WHERE box = ?)", (box,))
        for table in OF_BOXES:
            conn.run(f"DELETE FROM {table} WHERE box = ?", (box,))
        conn.run("DELETE FROM note_sends WHERE note IN (SELECT id FROM notes WHERE box = ?)", (box,))
        conn.run("DELETE FROM notes WHERE box = ?", (box,))
        conn.run("DELETE FROM budget_told WHERE account = ?", (f"box:{box}",))
        conn.run("DELETE FROM events WHERE box = ? AND box <> ''", (box,))
        conn.run("DELETE FROM boxes WHERE id = ?", (box,))
    return boxes


def _forget_events(conn: Conn, before_ms: int, most: int) -> int:
    return conn.run(
        """DELETE FROM events WHERE seq IN (
               SELECT seq FROM events WHERE at_ms < ? AND box NOT IN (SELECT id FROM boxes)
               ORDER BY seq LIMIT ?)""",
        (before_ms, most),
    )
