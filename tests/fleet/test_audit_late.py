"""The audit while the disk is full, and its anchors over hubs that come and go."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from thopter.fleet import audit
from thopter.fleet.audit import Audits
from thopter.kit.caller import Caller, caller
from thopter.kit.clock import SystemClock
from thopter.kit.paths import Paths, find_paths
from thopter.model.errors import StorageFull
from thopter.model.events import Event
from thopter.model.ids import BoxId
from thopter.model.nouns import Box, BoxState
from thopter.store.anchors import Anchors
from thopter.store.audit import Wanted
from thopter.store.store import Store

BOX = Box(id=BoxId("box_1"), name="wren", provider="local", state=BoxState.READY, created_ms=1, changed_ms=1)


@dataclasses.dataclass
class Parts:
    """What the audit needs of a hub."""

    paths: Paths
    clock: SystemClock
    store: Store


async def _hub(folder: Path, go: Callable[[Audits, Store], Awaitable[Any]]) -> None:
    """One life of a hub with nothing in it but its audit."""
    paths = find_paths({"HOME": str(folder), "THOPTER_STATE_DIR": str(folder)})
    store = await Store.open(folder / "hub.db")
    try:
        audits = Audits(Parts(paths, SystemClock(), store))  # type: ignore[arg-type]
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            tasks: list[asyncio.Task[Any]] = []
            await audits.start(lambda name, work: tasks.append(group.create_task(work, name=name)))
            try:
                await go(audits, store)
            finally:
                for task in tasks:
                    task.cancel()
        await audits.stop()
    finally:
        await store.close()


async def _room(store: Store, pages: int) -> None:
    """Let the database have so many pages at most: what a full disk is to it."""
    await store.write(lambda tx: tx.audit._conn.run(f"PRAGMA max_page_count = {pages}"))


async def _until(test: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(1000):
        if await test():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("not within 50 s")


def test_on_a_full_disk_what_people_do_waits_for_room_and_keeps_who_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "EVERY_S", 0.05)
    monkeypatch.setattr(audit, "_LATE_S", 0.1)
    monkeypatch.setattr(audit, "_LATE", 3)

    async def go(audits: Audits, store: Store) -> None:
        assert (await audits.check()).level == "ok"
        await _room(store, 1)  # as many as there are now
        big = {"argv": ["x" * 990] * 14}
        with pytest.raises(StorageFull):  # the disk is full for what is not late
            for _ in range(50):
                await store.audit.append(Event(kind="egress.denied", at_ms=1, data=big))
        caller.set(Caller("alice (uid 1000)"))
        for _ in range(3):
            await audits.act("person.exec", BOX, big)
        with pytest.raises(StorageFull):  # there is a bound to that
            await audits.act("person.exec", BOX, big)
        check = await audits.check()
        assert check.level == "fail" and "3 records wait" in check.text
        assert await store.audit.read(Wanted(kind="person.exec")) == []
        await _room(store, 1_000_000)

        async def written() -> bool:
            return len(await store.audit.read(Wanted(kind="person.exec"))) == 3

        await _until(written)
        found = await store.audit.read(Wanted(kind="person.exec"))
        assert {(x.by, x.name, x.data["late"]) for x in found} == {("alice (uid 1000)", "wren", True)}
        assert (await audits.verify("")).ok

    asyncio.run(_hub(tmp_path, go))


@pytest.mark.battery("X6")
def test_each_end_of_a_hub_is_anchored_and_anchors_that_vanish_or_disagree_are_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "EVERY_S", 0.01)
    file = tmp_path / "audit.anchors"
    heads: list[str] = []

    async def work(audits: Audits, store: Store) -> None:
        await audits.act("person.exec", BOX, {"argv": ["ls"]})
        heads.append((await audits.verify("")).head)

    async def whole(audits: Audits, store: Store) -> None:
        found = await audits.verify(heads[0])
        assert found.ok, found

    for go in (work, whole, work):
        asyncio.run(_hub(tmp_path, go))
        last = Anchors(file).read().anchors[-1]
        assert f"{last.seq}:{last.hash}" >= heads[-1]
    file.unlink()

    async def begun(audits: Audits, store: Store) -> None:
        found = await audits.verify("")
        assert [f.text for f in found.faults] == ["the file of anchors was begun anew here"]

    asyncio.run(_hub(tmp_path, begun))
    last = Anchors(file).read().anchors[-1]
    file.write_text(f"{last.seq} {'0' * 64} 1\n")

    async def disagrees(audits: Audits, store: Store) -> None:
        check = await audits.check()
        assert check.level == "fail" and "is not the one that was anchored" in check.text
        assert len(await store.audit.read(Wanted(kind="audit.disagrees"))) == 1

    asyncio.run(_hub(tmp_path, disagrees))


@pytest.mark.battery("X6")
@pytest.mark.parametrize("how", ["removed", "emptied"])
def test_anchors_that_are_taken_away_from_a_hub_that_lives_are_on_record_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(audit, "EVERY_S", 0.01)
    file = tmp_path / "audit.anchors"

    async def go(audits: Audits, store: Store) -> None:
        await audits.act("person.exec", BOX, {"argv": ["ls"]})
        await _until(lambda: _anchored_all(audits))
        assert (await audits.verify("")).ok
        if how == "removed":
            file.unlink()
            assert [f.text for f in (await audits.verify("")).faults] == ["audit.anchors is gone"]
        else:
            file.write_bytes(b"")
            assert (await audits.verify("")).anchors == 0  # who looks at it hides nothing
        await audits.act("person.exec", BOX, {"argv": ["rm", "-rf", "/"]})
        await _until(lambda: _begun(store, 2))
        found = await audits.verify("")
        assert [f.text for f in found.faults] == ["the file of anchors was begun anew here"]
        await audits.act("person.exec", BOX, {"argv": ["ls"]})
        await _until(lambda: _anchored_all(audits))
        assert await _begun(store, 2), "once"

    asyncio.run(_hub(tmp_path, go))


async def _anchored_all(audits: Audits) -> bool:
    found = await audits.verify("")
    return found.anchored == found.records


async def _begun(store: Store, times: int) -> bool:
    return len(await store.audit.read(Wanted(kind="audit.anchors_begun"))) == times


@pytest.mark.battery("X6")
@pytest.mark.parametrize("left", [None, b"", b"1 abc", b"no anchor\n"])
def test_anchors_that_are_taken_away_while_no_hub_lives_are_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bytes | None
) -> None:
    monkeypatch.setattr(audit, "EVERY_S", 0.01)
    file = tmp_path / "audit.anchors"
    texts: list[list[str]] = []

    async def work(audits: Audits, store: Store) -> None:
        await audits.act("person.exec", BOX, {"argv": ["ls"]})
        await _until(lambda: _anchored_all(audits))
        texts.append([f.text for f in (await audits.verify("")).faults])

    asyncio.run(_hub(tmp_path, work))
    file.unlink()
    if left is not None:
        file.write_bytes(left)
    asyncio.run(_hub(tmp_path, work))
    assert texts[0] == [] and "the file of anchors was begun anew here" in texts[1]


@pytest.mark.battery("X6")
def test_a_torn_line_of_the_anchors_is_no_fault_and_a_foreign_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "EVERY_S", 0.01)
    file = tmp_path / "audit.anchors"

    async def work(audits: Audits, store: Store) -> None:
        await audits.act("person.exec", BOX, {"argv": ["ls"]})
        await _until(lambda: _anchored_all(audits))
        faults.append([f.text for f in (await audits.verify("")).faults])

    faults: list[list[str]] = []
    for torn in (b"", b"9999 " + b"a" * 30, b"no anchor\n"):
        if torn:
            file.write_bytes(file.read_bytes() + torn)
        asyncio.run(_hub(tmp_path, work))
    assert faults == [[], [], ["1 lines of audit.anchors are no anchors"]]
