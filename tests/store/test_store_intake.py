"""What boxes say: once each, with its cursor, bounded, however hostile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_support import Use, box, entry, event, evidence, run

from thopter.model.errors import BadInput, NotFound
from thopter.model.evidence import Fact, Source
from thopter.store import codec
from thopter.store.evidence import KEEP, KEEP_EACH
from thopter.store.store import Store


async def _ready(store: Store) -> None:
    await store.boxes.insert(box())
    await store.runs.insert(run())


def test_reading_the_same_lines_again_stores_and_announces_nothing_twice(use: Use) -> None:
    async def go(store: Store) -> None:
        await _ready(store)

        def said(*ns: int) -> list[Any]:
            return [event(n, kind="entry", data={"key": f"k{n}", "session": "s"}) for n in ns]

        first = await store.ingest("box_1", "run_1", {"t:a": 10}, [entry(1), entry(2)], [], said(1, 2))
        assert ([e.key for e in first.entries], first.seqs) == (["k1", "k2"], [1, 2])
        again = await store.ingest(
            "box_1", "run_1", {"t:a": 20}, [entry(n) for n in (1, 2, 3)], [], [*said(1, 2, 3), event(9)]
        )
        assert ([e.key for e in again.entries], again.seqs) == (["k3"], [3, 4])
        other = await store.ingest("box_1", "run_1", {}, [entry(1, session="t")])
        assert len(other.entries) == 1
        page = await store.entries.page("run_1")
        assert [(e.session, e.key) for e in page.entries] == [
            ("s", "k1"),
            ("s", "k2"),
            ("s", "k3"),
            ("t", "k1"),
        ]
        kinds = [(e.kind, e.data.get("key")) for e in (await store.events.read()).events]
        assert kinds == [("entry", "k1"), ("entry", "k2"), ("entry", "k3"), ("note", None)]

    use(go)


def test_a_cursor_moves_only_together_with_what_was_read(use: Use) -> None:
    async def go(store: Store) -> None:
        await _ready(store)
        assert await store.cursors.load("box_1") == {}
        await store.ingest("box_1", "run_1", {"journal": 5, "t:a": 1}, [entry(1)], [evidence(1)])
        with pytest.raises(NotFound):
            await store.ingest("box_1", "run_7", {"journal": 9}, [entry(2)], [evidence(2)], [event()])
        with pytest.raises(NotFound):
            await store.ingest("box_7", "run_1", {"journal": 9}, [entry(2)], [evidence(2)], [event()])
        with pytest.raises(BadInput):
            await store.ingest("box_1", "", {"journal": 9}, [entry(2)])
        assert await store.cursors.load("box_1") == {"journal": 5, "t:a": 1}
        assert (await store.entries.page("run_1")).total == 1
        assert len(await store.evidence.of_run("run_1")) == 1
        assert store.events.last() == 0
        await store.ingest("box_1", "", {"journal": 6, "t:a": 0})
        assert await store.cursors.load("box_1") == {"journal": 6, "t:a": 0}

    use(go)


def test_pages_of_a_transcript(use: Use) -> None:
    async def go(store: Store) -> None:
        await _ready(store)
        await store.ingest("box_1", "run_1", {}, [entry(n) for n in range(1, 26)])
        seen: list[str] = []
        after = 0
        while True:
            page = await store.entries.page("run_1", after, 10)
            if not page.entries:
                break
            seen += [e.key for e in page.entries]
            after = page.next
        assert seen == [f"k{n}" for n in range(1, 26)]
        assert (page.total, page.next) == (25, 25)
        last = await store.entries.page("run_1", last=3)
        assert ([e.key for e in last.entries], last.next) == (["k23", "k24", "k25"], 25)
        assert len((await store.entries.page("run_1", last=99)).entries) == 25
        assert (await store.entries.page("nobody")).total == 0
        assert len((await store.entries.page("run_1", limit=-5)).entries) == 1

    use(go)


def test_a_flood_of_one_fact_never_pushes_out_the_one_that_decides(use: Use) -> None:
    async def go(store: Store) -> None:
        await _ready(store)
        await store.evidence.add(
            "run_1", [evidence(1, Fact.PROCESS_EXITED, Source.PROCESS, data={"code": 3})]
        )
        for start in range(2, 3002, 100):
            await store.ingest("box_1", "run_1", {}, [], [evidence(n) for n in range(start, start + 100)])
        kept = await store.evidence.of_run("run_1")
        assert kept[0].fact is Fact.PROCESS_EXITED and kept[0].data == {"code": 3}
        assert kept[-1].at_ms == 3001
        assert [e.at_ms for e in kept[1:]] == list(range(3002 - len(kept) + 1, 3002))
        assert KEEP <= len(kept) <= KEEP + 100 + KEEP_EACH

    use(go)


def test_evidence_stays_bounded_when_a_box_invents_every_kind(use: Use) -> None:
    async def go(store: Store) -> None:
        await _ready(store)
        every = [evidence(1, f, s) for f in Fact for s in Source]
        for _ in range(20):
            await store.evidence.add("run_1", every)
        kept = await store.evidence.of_run("run_1")
        assert len(kept) <= len(every) * KEEP_EACH + KEEP + 100

    use(go)


HOSTILE = [
    "\ud800 lone", "nul \x00", "\x1b]0;x\x07", "z" * 3_000_000, "'; DROP TABLE entries; --", "é" * 10, "",
]  # fmt: skip


def test_hostile_text_and_numbers_are_stored_not_choked_on(use: Use) -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"a": [deep]}
    data = {"deep": deep, "big": 10**40, "nan": float("nan"), "\ud800": "\x00", "o": object(), "b": b"\xff"}

    async def go(store: Store) -> None:
        await _ready(store)
        entries = [
            entry(n, key=f"{n}{text[:9]}", summary=text, text=text, tool=text, at_ms=10**30 * (-1) ** n)
            for n, text in enumerate(HOSTILE)
        ]
        facts = [evidence(10**25, detail=text, data=data) for text in HOSTILE]
        events = [event(1, data=data, at_ms=-5)]
        got = await store.ingest("box_1", "run_1", {"t:\ud800\x00": 10**30, "x": -4}, entries, facts, events)
        assert len(got.entries) == len(HOSTILE)
        page = await store.entries.page("run_1")
        assert [e.text for e in page.entries][1:3] == ["nul \ufffd", "\x1b]0;x\x07"]
        big = page.entries[3]
        assert len(big.text) == codec.TEXT_MAX and big.text.endswith("(cut: 3,000,000 characters)")
        assert all(len(e.summary) <= 200 and 0 <= e.at_ms <= 1 << 53 for e in page.entries)
        assert page.entries[4].text == HOSTILE[4]
        assert len(await store.evidence.of_run("run_1")) == len(HOSTILE)
        stored = (await store.events.read()).events[0].data
        assert stored["big"] == str(10**40) and stored["nan"] is None
        assert set((await store.cursors.load("box_1")).values()) == {1 << 53, 0}
        # And reading it a second time stores nothing a second time.
        assert (await store.ingest("box_1", "run_1", {}, entries)).entries == []

    use(go)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=30,
)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_any_value_becomes_json_that_reads_back(value: Any) -> None:
    text = codec.to_json({"v": value})
    text.encode()
    assert "\\u0000" not in text.replace("\\\\", "")
    assert set(codec.from_json(text, dict[str, Any])) == {"v"}


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters()), st.integers(30, 60))
def test_any_text_becomes_storable_and_short_enough(text: str, limit: int) -> None:
    clean = codec.clean_text(text, limit)
    assert len(clean) <= limit and "\x00" not in clean
    clean.encode()
    assert codec.clean_text(clean, limit) == clean


def test_a_hundred_boxes_talking_at_once_lose_nothing(use: Use) -> None:
    async def go(store: Store) -> None:
        for n in range(100):
            await store.boxes.insert(box(n))
            await store.runs.insert(run(n, n))

        async def talk(n: int) -> None:
            for i in range(10):
                await store.ingest(
                    f"box_{n}",
                    f"run_{n}",
                    {"journal": i},
                    [entry(i)],
                    [evidence(i)],
                    [event(i, box=f"box_{n}")],
                )

        await asyncio.gather(*(talk(n) for n in range(100)))
        assert store.events.last() == 1000
        for n in range(100):
            assert (await store.entries.page(f"run_{n}")).total == 10
            assert await store.cursors.load(f"box_{n}") == {"journal": 9}

    use(go)
