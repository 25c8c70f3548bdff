"""Variables for the environment of new boxes."""

from __future__ import annotations

from msgspec import Struct

from thopter.store.db import Conn, Database


class Variable(Struct, frozen=True, kw_only=True):
    """One variable and when it was last set."""

    name: str
    value: str
    changed_ms: int


class VariableTable:
    """Variables inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def all(self) -> list[Variable]:
        """Every variable, by name."""
        rows = self._conn.rows("SELECT name, value, changed_ms FROM variables ORDER BY name")
        return [Variable(name=r[0], value=r[1], changed_ms=r[2]) for r in rows]

    def set(self, variable: Variable) -> None:
        """Record it, in place of an earlier value."""
        self._conn.run(
            """INSERT INTO variables (name, value, changed_ms) VALUES (?, ?, ?)
               ON CONFLICT (name) DO UPDATE SET value = excluded.value, changed_ms = excluded.changed_ms""",
            (variable.name, variable.value, variable.changed_ms),
        )

    def delete(self, name: str) -> bool:
        """Forget it; False when there was none."""
        return self._conn.run("DELETE FROM variables WHERE name = ?", (name,)) == 1


class Variables:
    """Variables for the rest of the hub; each call is one durable transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def all(self) -> list[Variable]:
        """See :meth:`VariableTable.all`."""
        return await self._db.read(lambda c: VariableTable(c).all())

    async def set(self, variables: list[Variable]) -> None:
        """Record all of them, or none."""

        def each(conn: Conn) -> None:
            for variable in variables:
                VariableTable(conn).set(variable)

        await self._db.write(each)

    async def delete(self, name: str) -> bool:
        """See :meth:`VariableTable.delete`."""
        return await self._db.write(lambda c: VariableTable(c).delete(name))
