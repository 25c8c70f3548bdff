"""Saved boxes and leases on record: one name, one lease, and a conversation that is stored once."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs
from store_support import Use, box, entry, run

from thopter.model.errors import BadName, Conflict, NotFound
from thopter.model.nouns import BoxState, Lease, RepoRef, Snapshot, SnapshotKind, SnapshotState
from thopter.store.store import Store


def snap(n: int = 1, name: str = "", **more: Any) -> Snapshot:
    given: dict[str, Any] = {
        "id": f"snap_{n}",
        "name": name,
        "provider": "local",
        "kind": SnapshotKind.SNAPSHOT,
        "state": SnapshotState.MAKING,
        "created_ms": n,
    }
    return Snapshot(**{**given, **more})


def test_a_snapshot_comes_back_as_it_was_recorded_and_is_found_by_name_and_id(use: Use) -> None:
    repo = RepoRef(source="/x", slug="x", branch="main", base="0" * 40)
    want = snap(1, "gold", box="box_1", repo=repo, cwd="/work/x", session="s", size=5, turn_ms=7, label="l")

    async def go(store: Store) -> None:
        await store.snapshots.insert(want)
        await store.snapshots.insert(snap(12, "silver"))
        assert await store.snapshots.find("gold") == want
        assert await store.snapshots.find("snap_1") == want, "an exact id is no beginning"
        assert (await store.snapshots.find("snap_12")).name == "silver"
        with pytest.raises(Conflict, match="snap_1, snap_12"):
            await store.snapshots.find("snap_")
        for word in ("", "bronze", "%"):
            with pytest.raises(NotFound):
                await store.snapshots.find(word)

    use(go)


def test_two_snapshots_that_are_there_never_have_one_name(use: Use) -> None:
    async def go(store: Store) -> None:
        await store.snapshots.insert(snap(1, "gold"))
        with pytest.raises(Conflict, match="gold"):
            await store.snapshots.insert(snap(2, "gold"))
        with pytest.raises(Conflict, match="gold"):
            await store.snapshots.insert(snap(2), ["gold"])
        assert (await store.snapshots.insert(snap(2), ["gold", "amber"])).name == "amber"
        assert (await store.snapshots.insert(snap(2), ["other"])).name == "amber", "a repeat changes nothing"
        with pytest.raises(BadName):
            await store.snapshots.insert(snap(3, "No Name"))
        await store.snapshots.update(snap(1, "gold", state=SnapshotState.DROPPING))
        await store.snapshots.insert(snap(4, "gold"))
        await store.snapshots.insert(snap(5))
        await store.snapshots.insert(snap(6))
        assert [s.id for s in await store.snapshots.all()] == [
            "snap_1",
            "snap_2",
            "snap_4",
            "snap_5",
            "snap_6",
        ]

    use(go)


def test_checkpoints_of_a_box_are_its_own_and_in_order(use: Use) -> None:
    async def go(store: Store) -> None:
        for n, of in ((3, "box_1"), (1, "box_1"), (2, "box_2")):
            await store.snapshots.insert(snap(n, kind=SnapshotKind.CHECKPOINT, box=of))
        await store.snapshots.insert(snap(4, "gold", box="box_1"))
        assert [s.id for s in await store.snapshots.of_box("box_1")] == ["snap_1", "snap_3"]

    use(go)


def test_a_lease_replaces_the_one_before_and_ends_with_its_box(use: Use) -> None:
    async def go(store: Store) -> None:
        await store.boxes.insert(box(1))
        assert await store.leases.get("box_1") is None
        await store.leases.put(Lease(box="box_1", keep_min=5, expires_ms=9, on_idle="stop", from_ms=3))
        await store.leases.put(Lease(box="box_1", keep_min=6, expires_ms=10, on_idle="freeze", from_ms=4))
        want = Lease(box="box_1", keep_min=6, expires_ms=10, on_idle="freeze", from_ms=4)
        assert await store.leases.get("box_1") == want and await store.leases.all() == [want]
        await store.boxes.update(box(1, state=BoxState.GONE))
        assert await store.leases.all() == []

    use(go)


def test_what_a_forked_session_repeats_is_stored_once_and_only_in_a_fork(use: Use) -> None:
    async def go(store: Store) -> None:
        await store.boxes.insert(box(1))
        await store.runs.insert(run(1))
        await store.runs.insert(run(2, parent="run_1"))
        old = [structs.replace(entry(n), session="old") for n in (1, 2)]
        new = [structs.replace(entry(n), session="new") for n in (1, 2, 3)]
        for name, count in (("run_1", 5), ("run_2", 3)):
            await store.ingest("box_1", name, {}, old)
            await store.ingest("box_1", name, {}, new)
            await store.ingest("box_1", name, {}, [*old, *new])
            assert (await store.entries.page(name)).total == count
        assert set(await store.entries.sessions("run_2")) == {"old", "new"}
        assert (await store.runs.get("run_2")).parent == "run_1"

    use(go)


def test_a_box_remembers_the_snapshot_it_came_from_and_cursors_can_be_forgotten(use: Use) -> None:
    async def go(store: Store) -> None:
        await store.boxes.insert(box(1, snapshot="snap_9"))
        assert (await store.boxes.get("box_1")).snapshot == "snap_9"
        await store.ingest("box_1", "", {"journal": 5})
        await store.write(lambda tx: tx.cursors.forget("box_1"))
        assert await store.cursors.load("box_1") == {}

    use(go)
