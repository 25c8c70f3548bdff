"""What thopters may spend by a person's word, and what people were told of budgets."""

from __future__ import annotations

from msgspec import Struct, field

from thopter.store import codec
from thopter.store.db import Conn, Database

_AMOUNTS = dict[str, int]


class Budget(Struct, frozen=True, kw_only=True):
    """Of one box, amounts by kind in the units of :class:`thopter.model.budget.Limit`. ``own``: what it was
    started with or set to; ``added``: on top of that or of its policy's; ``token``: see the migration."""

    box: str
    own: dict[str, int] = field(default_factory=dict)
    added: dict[str, int] = field(default_factory=dict)
    token: str = ""


class Told(Struct, frozen=True):
    """One thing told of a limit: ``level`` is ``near``, ``spent`` or ``unpriced``."""

    account: str
    what: str
    level: str
    most: int


class BudgetTable:
    """Budgets inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def get(self, box: str) -> Budget:
        """That of a box; an empty one when nothing was said."""
        row = self._conn.row("SELECT own, added, token FROM budgets WHERE box = ?", (box,))
        if row is None:
            return Budget(box=box)
        own, added = codec.from_json(row[0], _AMOUNTS), codec.from_json(row[1], _AMOUNTS)
        return Budget(box=box, own=own, added=added, token=row[2])

    def all(self) -> dict[str, Budget]:
        """Those of every box for which something was said."""
        rows = self._conn.rows("SELECT box, own, added, token FROM budgets")
        return {
            r[0]: Budget(
                box=r[0],
                own=codec.from_json(r[1], _AMOUNTS),
                added=codec.from_json(r[2], _AMOUNTS),
                token=r[3],
            )
            for r in rows
        }

    def put(self, budget: Budget) -> None:
        """Record it."""
        self._conn.run(
            """INSERT INTO budgets (box, own, added, token) VALUES (?, ?, ?, ?)
               ON CONFLICT (box) DO UPDATE SET own = excluded.own, added = excluded.added,
               token = excluded.token""",
            (budget.box, codec.to_json(budget.own), codec.to_json(budget.added), budget.token),
        )

    def tell(self, told: Told, now_ms: int) -> bool:
        """Record that this is told; False when it was before."""
        return bool(
            self._conn.run(
                """INSERT INTO budget_told (account, what, level, most, at_ms) VALUES (?, ?, ?, ?, ?)
                   ON CONFLICT (account, what, level, most) DO NOTHING""",
                (told.account, told.what, told.level, told.most, now_ms),
            )
        )


class Budgets:
    """Budgets for the rest of the hub; each call is one transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def all(self) -> dict[str, Budget]:
        """See :meth:`BudgetTable.all`."""
        return await self._db.read(lambda c: BudgetTable(c).all())

    async def get(self, box: str) -> Budget:
        """See :meth:`BudgetTable.get`."""
        return await self._db.read(lambda c: BudgetTable(c).get(box))
