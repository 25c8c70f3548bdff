"""Pools of warm boxes: what is wanted, and which boxes wait there; taking one is one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct, field

from thopter.model.nouns import BoxState
from thopter.store import codec
from thopter.store.db import Conn, Database, Row

FILLING, WARM, RETIRED = "filling", "warm", "retired"
_POOL = "id, snapshot, repo, agent, wish, want, created_ms, taken, problem, failures, retry_ms"
_BOX = "box, pool, flow, recipe, state"


class Pool(Struct, frozen=True, kw_only=True):
    """What is to be kept ready. ``snapshot`` is a snapshot's name or ``golden``; ``wish`` holds what
    else a request may say (model, permission mode); ``taken`` counts the boxes that runs have taken;
    ``problem`` is why the last filling failed, after ``failures`` of them in a row, and before
    ``retry_ms`` none is tried."""

    id: str
    snapshot: str
    repo: str
    agent: str
    want: int
    created_ms: int
    wish: dict[str, Any] = field(default_factory=dict)
    taken: int = 0
    problem: str = ""
    failures: int = 0
    retry_ms: int = 0


class PoolBox(Struct, frozen=True, kw_only=True):
    """A box of a pool. ``flow`` makes it; ``recipe`` says what it was made of; ``state``: ``filling``
    until that flow has ended, then ``warm``; ``retired``: it is being destroyed."""

    box: str
    pool: str
    flow: str
    recipe: str
    state: str = FILLING


def _pool(row: Row) -> Pool:
    return Pool(
        id=row[0], snapshot=row[1], repo=row[2], agent=row[3], wish=codec.from_json(row[4], dict[str, Any]),
        want=row[5], created_ms=row[6], taken=row[7], problem=row[8], failures=row[9], retry_ms=row[10],
    )  # fmt: skip


def _box(row: Row) -> PoolBox:
    return PoolBox(box=row[0], pool=row[1], flow=row[2], recipe=row[3], state=row[4])


class PoolTable:
    """Pools inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def all(self) -> list[Pool]:
        """Every pool, oldest first."""
        return [_pool(r) for r in self._conn.rows(f"SELECT {_POOL} FROM pools ORDER BY created_ms, id")]

    def put(self, pool: Pool) -> Pool:
        """Record what is wanted; a pool of the same snapshot, repository and agent keeps its id and
        count, and forgets its problem. Returns what is recorded."""
        self._conn.run(
            f"""INSERT INTO pools ({_POOL}) VALUES (?, ?, ?, ?, ?, ?, ?, 0, '', 0, 0)
                ON CONFLICT (snapshot, repo, agent) DO UPDATE SET wish = excluded.wish,
                  want = excluded.want, problem = '', failures = 0, retry_ms = 0""",
            (
                pool.id, pool.snapshot, pool.repo, pool.agent, codec.to_json(pool.wish), pool.want,
                pool.created_ms,
            ),
        )  # fmt: skip
        where = "snapshot = ? AND repo = ? AND agent = ?"
        row = self._conn.row(
            f"SELECT {_POOL} FROM pools WHERE {where}", (pool.snapshot, pool.repo, pool.agent)
        )
        assert row is not None  # it was written just now
        return _pool(row)

    def remove(self, ids: Sequence[str]) -> None:
        """Want these no more; their boxes stay in the record until they are destroyed."""
        for one in ids:
            self._conn.run("DELETE FROM pools WHERE id = ?", (one,))

    def trouble(self, pool: str, problem: str, failures: int, retry_ms: int) -> None:
        """Note how the last filling went; a pool that is gone is left so."""
        self._conn.run(
            "UPDATE pools SET problem = ?, failures = ?, retry_ms = ? WHERE id = ?",
            (codec.clean_text(problem, 2000), failures, retry_ms, pool),
        )

    def boxes(self) -> list[PoolBox]:
        """Every box that belongs to a pool now."""
        return [_box(r) for r in self._conn.rows(f"SELECT {_BOX} FROM pool_boxes ORDER BY box")]

    def box(self, box: str) -> PoolBox | None:
        """This box's place in a pool, or None."""
        row = self._conn.row(f"SELECT {_BOX} FROM pool_boxes WHERE box = ?", (box,))
        return _box(row) if row else None

    def add(self, one: PoolBox) -> None:
        """Put a box that is being made into its pool (the same box again changes nothing)."""
        self._conn.run(
            f"INSERT INTO pool_boxes ({_BOX}) VALUES (?, ?, ?, ?, ?) ON CONFLICT (box) DO NOTHING",
            (one.box, one.pool, one.flow, one.recipe, one.state),
        )

    def become(self, box: str, was: str, state: str) -> bool:
        """Change the state of a pool's box; False when it is not ``was`` any more."""
        return (
            self._conn.run("UPDATE pool_boxes SET state = ? WHERE box = ? AND state = ?", (state, box, was))
            == 1
        )

    def forget(self, box: str) -> None:
        """The box is gone; it belongs to no pool any more."""
        self._conn.run("DELETE FROM pool_boxes WHERE box = ?", (box,))

    def take(self, candidates: Sequence[str], recipe: str) -> str:
        """Take the first of ``candidates`` that still waits, was made so, and whose box is ready: it
        belongs to no pool from now on. Empty when there is none."""
        for box in candidates:
            row = self._conn.row(
                """SELECT p.pool FROM pool_boxes p JOIN boxes b ON b.id = p.box
                   WHERE p.box = ? AND p.recipe = ? AND p.state = ? AND b.state = ?""",
                (box, recipe, WARM, BoxState.READY.value),
            )
            if row is not None:
                self.forget(box)
                self._conn.run("UPDATE pools SET taken = taken + 1 WHERE id = ?", (row[0],))
                return box
        return ""


class Pools:
    """Pools for the rest of the hub; each call is one transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def all(self) -> list[Pool]:
        """See :meth:`PoolTable.all`."""
        return await self._db.read(lambda c: PoolTable(c).all())

    async def put(self, pool: Pool) -> Pool:
        """See :meth:`PoolTable.put`; durable when this returns."""
        return await self._db.write(lambda c: PoolTable(c).put(pool))

    async def remove(self, which: Callable[[Pool], bool]) -> list[Pool]:
        """Want no more those that ``which`` says; returns them as they were."""

        def both(conn: Conn) -> list[Pool]:
            table = PoolTable(conn)
            gone = [p for p in table.all() if which(p)]
            table.remove([p.id for p in gone])
            return gone

        return await self._db.write(both)

    async def trouble(self, pool: str, problem: str, failures: int, retry_ms: int) -> None:
        """See :meth:`PoolTable.trouble`."""
        await self._db.write(lambda c: PoolTable(c).trouble(pool, problem, failures, retry_ms))

    async def boxes(self) -> list[PoolBox]:
        """See :meth:`PoolTable.boxes`."""
        return await self._db.read(lambda c: PoolTable(c).boxes())

    async def holds(self, box: str) -> bool:
        """True while this box belongs to a pool."""
        return await self._db.read(lambda c: PoolTable(c).box(box)) is not None

    async def become(self, box: str, was: str, state: str) -> bool:
        """See :meth:`PoolTable.become`."""
        return await self._db.write(lambda c: PoolTable(c).become(box, was, state))

    async def forget(self, box: str) -> None:
        """See :meth:`PoolTable.forget`."""
        await self._db.write(lambda c: PoolTable(c).forget(box))
