"""Boxes and runs: names are unique, changes are guarded, ids make repeats harmless."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from store_support import Use, box, event, run

from thopter.model.errors import BadName, Conflict, NotFound
from thopter.model.ids import BoxId
from thopter.model.nouns import BoxState, Isolation, Limits, RepoRef, RunState, WaitReason
from thopter.store.store import Store


def test_a_box_comes_back_exactly_as_it_was_recorded(use: Use) -> None:
    want = box(
        limits=Limits(memory_bytes=1, pids=2, cpus=0.5, disk_bytes=3),
        isolation=Isolation.NAMESPACES_IDMAPPED,
        golden="default",
        problem="none\x00of it",
        memory={"uid": 100000, "deep": {"list": [1, None, "é"]}},
    )

    async def go(store: Store) -> None:
        await store.boxes.insert(want)
        assert await store.boxes.get("box_1") == msgspec.structs.replace(want, problem="none\ufffdof it")

    use(go)


def test_two_boxes_that_are_not_gone_never_have_one_name(use: Use) -> None:
    async def go(store: Store) -> None:
        await store.boxes.insert(box(1, "amber"))
        with pytest.raises(Conflict, match="amber"):
            await store.boxes.insert(box(2, "amber"))
        await store.boxes.update(box(1, "amber", state=BoxState.GONE))
        await store.boxes.insert(box(2, "amber"))
        await store.boxes.insert(box(3, "other"))
        with pytest.raises(Conflict, match="amber"):
            await store.boxes.update(box(3, "amber"))
        assert [b.name for b in await store.boxes.list()] == ["amber", "other"]
        assert [b.id for b in await store.boxes.list(gone=True)] == ["box_1", "box_2", "box_3"]

    use(go)


def test_a_repeated_insert_changes_nothing(use: Use) -> None:
    async def go(store: Store) -> None:
        await store.boxes.insert(box(1, "amber"))
        await store.boxes.update(box(1, "amber", state=BoxState.READY))
        again = await store.boxes.insert(box(1, "amber"))
        assert again.state is BoxState.READY
        await store.runs.insert(run(1))
        await store.runs.update(run(1, state=RunState.DONE))
        assert (await store.runs.insert(run(1))).state is RunState.DONE

    use(go)


def test_fifty_racing_for_three_names_get_three(use: Use) -> None:
    names = ["amber", "blue", "coral"]

    async def go(store: Store) -> None:
        async def race(n: int) -> str:
            try:
                return (await store.boxes.reserve_name(box(n), names)).name
            except Conflict:
                return ""

        got = await asyncio.gather(*(race(n) for n in range(50)))
        assert sorted(filter(None, got)) == names
        winner = got.index("blue")
        assert (await store.boxes.reserve_name(box(winner), names)).name == "blue"

    use(go)


def test_a_bad_name_is_refused_before_anything_is_recorded(use: Use) -> None:
    async def go(store: Store) -> None:
        for name in ("", "a/b", "..", "A", "x" * 300, "a b", "-a", "a\n"):
            with pytest.raises(BadName):
                await store.boxes.insert(msgspec.structs.replace(box(1), name=name))
        assert await store.boxes.list(gone=True) == []

    use(go)


def test_a_name_is_found_by_its_beginning_when_that_is_unique(use: Use) -> None:
    async def go(store: Store) -> None:
        for n, name in enumerate(("amber", "amber-heron", "blue"), 1):
            await store.boxes.insert(box(n, name))
        assert (await store.boxes.find("amber")).name == "amber"
        assert (await store.boxes.find("amber-")).name == "amber-heron"
        assert (await store.boxes.find("b")).name == "blue"
        with pytest.raises(Conflict) as caught:
            await store.boxes.find("am")
        assert caught.value.data["matches"] == ["amber", "amber-heron"]
        for name in ("z", "", "%", "amber'--", "\x00", "blue-"):
            with pytest.raises(NotFound):
                await store.boxes.find(name)
        await store.boxes.update(box(3, "blue", state=BoxState.GONE))
        with pytest.raises(NotFound):
            await store.boxes.find("blue")

    use(go)


def test_a_change_from_an_unexpected_state_is_refused_with_its_events(use: Use) -> None:
    async def go(store: Store) -> None:
        await store.boxes.insert(box())
        await store.boxes.update(box(state=BoxState.READY), event(1), was={BoxState.CREATING})
        with pytest.raises(Conflict) as caught:
            await store.boxes.update(box(state=BoxState.READY), event(2), was=[BoxState.CREATING])
        assert caught.value.data == {"state": "ready"}
        with pytest.raises(NotFound):
            await store.boxes.update(box(9), event(3))
        await store.runs.insert(run())
        await store.runs.update(run(state=RunState.STARTING), event(4), was=[RunState.QUEUED])
        with pytest.raises(Conflict):
            await store.runs.update(run(state=RunState.DONE), event(5), was=[RunState.QUEUED])
        with pytest.raises(NotFound):
            await store.runs.update(run(7))
        assert [e.data["n"] for e in (await store.events.read()).events] == [1, 4]

    use(go)


def test_a_run_comes_back_exactly_and_needs_its_box(use: Use) -> None:
    repo = RepoRef(source="/r", slug="r", branch="main", base="0" * 40)
    want = run(reason=WaitReason.QUESTION, session="s", repo=repo, cwd="/work/r", exit_code=-9)

    async def go(store: Store) -> None:
        with pytest.raises(NotFound, match="box_1"):
            await store.runs.insert(want)
        await store.boxes.insert(box())
        await store.runs.insert(want)
        assert await store.runs.get("run_1") == want
        with pytest.raises(NotFound):
            await store.runs.get("run_2")

    use(go)


def test_the_latest_run_of_each_box_that_is_there(use: Use) -> None:
    async def go(store: Store) -> None:
        for n in (1, 2, 3):
            await store.boxes.insert(box(n))
        for n, of in ((1, 1), (2, 2), (3, 1), (4, 3)):
            await store.runs.insert(run(n, of))
        await store.boxes.update(box(3, state=BoxState.GONE))
        latest = await store.runs.latest()
        assert {b: r.id for b, r in latest.items()} == {"box_1": "run_3", "box_2": "run_2"}
        assert [r.id for r in await store.runs.of_box("box_1")] == ["run_1", "run_3"]
        assert latest[BoxId("box_2")].box == "box_2"

    use(go)


def test_several_tables_change_together_or_not_at_all(use: Use, tmp_path: Path) -> None:
    async def go(store: Store) -> None:
        await store.write(lambda t: (t.boxes.insert(box(1, "amber")), t.runs.insert(run(1))))
        with pytest.raises(Conflict):
            await store.write(
                lambda t: (t.events.append([event()]), t.runs.insert(run(2)), t.boxes.insert(box(2, "amber")))
            )
        assert await store.read(lambda t: (t.events.last_seq(), len(t.runs.of_box("box_1")))) == (0, 1)

    use(go)
