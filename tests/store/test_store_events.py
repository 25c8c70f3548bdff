"""Events: numbered without a gap in the order of commits, read again from anywhere, live."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
from store_support import Use, box, event

from thopter.model.errors import Conflict
from thopter.model.events import Event
from thopter.store.events import EventFilter
from thopter.store.store import Store


def test_numbers_are_contiguous_whoever_writes_and_whatever_fails_in_between(use: Use) -> None:
    async def go(store: Store) -> None:
        await store.boxes.insert(box(1, "taken"))

        async def writer(k: int) -> list[int]:
            seqs: list[int] = []
            for i in range(20):
                if random.Random(k * 100 + i).random() < 0.3:
                    with pytest.raises(Conflict):
                        await store.write(
                            lambda t: (t.events.append([event(), event()]), t.boxes.insert(box(2, "taken")))
                        )
                got = await store.events.append([event(k, run=str(k)), event(k, run=str(k))])
                assert got[1] == got[0] + 1
                seqs += got
            return seqs

        got = await asyncio.gather(*(writer(k) for k in range(25)))
        assert sorted(n for seqs in got for n in seqs) == list(range(1, 1001))
        for seqs in got:
            assert seqs == sorted(seqs)
        stored = (await store.events.read(limit=2000)).events
        assert [e.seq for e in stored] == list(range(1, 1001))
        for k, seqs in enumerate(got):
            assert [e.seq for e in stored if e.run == str(k)] == seqs

    use(go)


def test_numbers_go_on_after_a_restart(use: Use) -> None:
    async def first(store: Store) -> None:
        assert await store.events.append([event(1), event(2)]) == [1, 2]
        assert await store.events.append([]) == []

    async def second(store: Store) -> None:
        assert store.events.last() == 2
        assert await store.events.append([event(3)]) == [3]

    use(first)
    use(second)


def test_filters_and_limits(use: Use) -> None:
    async def go(store: Store) -> None:
        await store.events.append(
            [
                event(n, kind="run.state" if n % 2 else "note", box=f"b{n % 3}", run=f"r{n % 5}", flow="f")
                for n in range(1, 61)
            ]
        )

        async def ns(after: int = 0, limit: int = 1000, **want: object) -> list[int]:
            page = await store.events.read(after, limit, EventFilter(**want))  # type: ignore[arg-type]
            return [e.data["n"] for e in page.events]

        assert await ns() == list(range(1, 61))
        assert await ns(after=58) == [59, 60]
        assert await ns(limit=2, kinds=("run.state",)) == [1, 3]
        assert await ns(box="b1", limit=3) == [1, 4, 7]
        assert await ns(box="b1", run="r2") == [7, 22, 37, 52]
        assert await ns(flow="g") == []
        assert await ns(flow="f", kinds=("note", "run.state")) == list(range(1, 61))
        newest = await store.events.newest(3, EventFilter(box="b0"))
        assert [e.data["n"] for e in newest.events] == [54, 57, 60]
        assert (await store.events.newest(1000)).upto == 60
        # What is over a page's reach is known: no second look over the same events.
        assert (await store.events.read(0, 5, EventFilter(box="nothing"))).upto == 60
        assert (await store.events.read(0, 5, EventFilter(box="b1"))).upto == 13

    use(go)


def test_a_follower_gets_everything_once_in_order_stored_first_then_live(use: Use) -> None:
    async def go(store: Store) -> None:
        total = 600
        await store.events.append([event(n, box="b" if n % 2 else "") for n in range(1, 201)])
        caught_up = asyncio.Event()
        got: dict[str, list[int]] = {"all": [], "some": [], "late": []}

        async def follow(name: str, after: int, want: EventFilter, last: int) -> None:
            batch: Sequence[Event]
            async for batch in store.events.follow(after, want, limit=50):
                got[name] += [e.seq for e in batch]
                if got[name][-1] >= last:
                    if name == "all":
                        caught_up.set()
                    return

        async def write() -> None:
            for n in range(201, total + 1):
                await store.events.append([event(n, box="b" if n % 2 else "")])

        async with asyncio.TaskGroup() as group:
            group.create_task(follow("all", 0, EventFilter(), total))
            group.create_task(follow("some", 0, EventFilter(box="b"), total - 1))
            group.create_task(follow("late", total, EventFilter(), total + 1))
            group.create_task(write())
            await caught_up.wait()
            assert got["late"] == []
            await store.events.append([event()])
        assert got["all"] == list(range(1, total + 1))
        assert got["some"] == list(range(1, total, 2))
        assert got["late"] == [total + 1]

    use(go)


def test_waiting_for_a_change_ends_with_the_commit_and_can_be_given_up(use: Use) -> None:
    async def go(store: Store) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await store.events.changed(0)
        async with asyncio.TaskGroup() as group:
            waiters = [group.create_task(store.events.changed(0)) for _ in range(10)]
            await asyncio.sleep(0)
            assert await store.events.append([event()]) == [1]
        assert [w.result() for w in waiters] == [1] * 10
        assert await store.events.changed(0) == 1

    use(go)
