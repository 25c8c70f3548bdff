"""What is forgotten of thopters that are long gone, and what never is."""

from __future__ import annotations

from msgspec import structs
from store_support import Use, box, entry, run

from thopter.model.errors import NotFound
from thopter.model.events import Event
from thopter.model.nouns import BoxState
from thopter.store.gone import OF_BOXES, OF_RUNS
from thopter.store.store import Store, Tx

_DAY = 86_400_000


def test_a_thopter_long_gone_is_forgotten_whole_and_others_are_not_touched(use: Use) -> None:
    async def go(store: Store) -> None:
        for n, name in ((1, "old"), (2, "fresh"), (3, "here")):
            await store.boxes.insert(structs.replace(box(n), name=name))
            await store.runs.insert(run(n, n))
            await store.ingest(
                box(n).id, run(n, n).id, {"journal": n}, [entry(n)],
                events=[Event(kind="entry", at_ms=n, box=box(n).id, run=run(n, n).id, data={})],
            )  # fmt: skip
        for n, at in ((1, 0), (2, 2 * _DAY)):
            await store.boxes.update(
                structs.replace(await store.boxes.get(box(n).id), state=BoxState.GONE, changed_ms=at)
            )
        await store.events.append([Event(kind="hub.started", at_ms=0), Event(kind="hub.started", at_ms=_DAY)])
        last = store.events.last()
        assert await store.gone.forget(_DAY) == [box(1).id]
        assert await store.gone.forget(_DAY) == []
        assert await store.gone.events(_DAY) == 1, "an old event of nobody; entries of who is there stay"
        try:
            await store.boxes.get(box(1).id)
        except NotFound:
            pass
        else:
            raise AssertionError("it is still there")
        assert (await store.entries.page(run(1, 1).id, last=10)).entries == []
        kept = [(e.box, e.kind) for e in (await store.events.read()).events]
        assert kept == [(box(2).id, "entry"), (box(3).id, "entry"), ("", "hub.started")]
        assert len((await store.entries.page(run(2, 2).id, last=10)).entries) == 1
        assert (await store.boxes.find("here")).id == box(3).id
        await store.events.append([Event(kind="later", at_ms=0)])
        assert store.events.last() == last + 1, "numbers are never used again"

    use(go)


def test_every_table_that_names_a_box_or_a_run_is_forgotten_with_it(use: Use) -> None:
    async def go(store: Store) -> None:
        def look(tx: Tx) -> dict[str, set[str]]:
            conn = tx.boxes._conn
            tables = [t for (t,) in conn.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {t: {row[1] for row in conn.rows(f"PRAGMA table_info({t})")} for t in tables}

        tables = await store.read(look)
        by_box = {t for t, columns in tables.items() if "box" in columns}
        by_run = {t for t, columns in tables.items() if "run" in columns and "box" not in columns}
        apart = {"audit", "events", "notes", "snapshots", "usage"}  # by name, or outliving the box
        assert by_box - apart == set(OF_BOXES)
        assert by_run == set(OF_RUNS)

    use(go)
