"""Taking warm boxes: of any number of runs that want one, each box has exactly one, whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from thopter.fleet.launch import FlyArgs
from thopter.fleet.take import claim
from thopter.model.errors import NotFound
from thopter.model.evidence import Fact
from thopter.model.ids import BoxId, RunId
from thopter.model.nouns import Box, BoxState, Lease, Run, RunState
from thopter.store.intents import Intent
from thopter.store.pools import FILLING, RETIRED, WARM, Pool, PoolBox
from thopter.store.store import Store, Tx

SO = "recipe-1"
ARGS = FlyArgs(
    box="", run="", name="", prompt="mend it", repo="/r", branch="", agent="claude", session="", token="",
    settings={"model": "m"},
)  # fmt: skip
POOL = Pool(id="pool_1", snapshot="golden", repo="/r", agent="claude", want=3, created_ms=1)


def in_store(folder: Path, work: Callable[[Store], Awaitable[Any]]) -> Any:
    """Run ``work`` with a store of its own."""

    async def whole() -> Any:
        store = await Store.open(folder / "hub.db")
        try:
            async with asyncio.timeout(60):
                return await work(store)
        finally:
            await store.close()

    return asyncio.run(whole())


async def warm_box(
    store: Store, n: int, state: str = WARM, so: str = SO, box: BoxState = BoxState.READY
) -> None:
    """Box ``box_<n>`` of the pool, with its agent waiting."""
    key, flow = BoxId(f"box_{n}"), f"flow_{n}"
    args = structs.replace(ARGS, box=key, run=f"run_{n}", name=f"warm-{n}", prompt="", token=f"token-{n}")

    def record(tx: Tx) -> None:
        tx.boxes.insert(
            Box(id=key, name=f"warm-{n}", provider="local", state=box, created_ms=10, changed_ms=10,
                memory={"flow": flow, "provider": {"pid": 7}})
        )  # fmt: skip
        tx.runs.insert(
            Run(id=RunId(f"run_{n}"), box=key, agent="claude", prompt="", state=RunState.WAITING,
                created_ms=10, changed_ms=10, session=f"session-{n}", cwd="/work/r")
        )  # fmt: skip
        tx.intents.add(Intent(id=flow, kind="fly", request=structs.asdict(args), created_ms=10, flow=flow))
        tx.pools.add(PoolBox(box=key, pool=POOL.id, flow=flow, recipe=so, state=state))

    await store.write(record)


async def wanted(store: Store, who: int, boxes: list[str], prompt: str = "mend it") -> Intent | None:
    """Run number ``who`` wants one of these boxes."""
    lease = Lease(box="", keep_min=5)
    args = structs.replace(ARGS, prompt=prompt)
    return await store.write(lambda tx: claim(tx, boxes, SO, args, lease, f"flow_run_{who}", 500 + who))


@settings(max_examples=15, deadline=None)
@given(boxes=st.integers(0, 6), runs=st.integers(1, 25), unfit=st.integers(0, 3))
def test_racing_runs_never_get_the_same_box_and_none_is_left_over(
    tmp_path_factory: pytest.TempPathFactory, boxes: int, runs: int, unfit: int
) -> None:
    async def go(store: Store) -> None:
        await store.pools.put(POOL)
        for n in range(boxes):
            await warm_box(store, n)
        for n in range(100, 100 + unfit):
            await warm_box(store, n, *((FILLING,), (RETIRED,), (WARM, "recipe-0"))[n % 3])
        offered = [f"box_{n}" for n in [*range(100, 100 + unfit), *range(boxes)]]
        got = await asyncio.gather(*(wanted(store, who, offered) for who in range(runs)))
        taken = [str(i.request["box"]) for i in got if i is not None]
        assert len(taken) == len(set(taken)) == min(boxes, runs)
        left = {b.box for b in await store.pools.boxes()}
        assert left == set(offered) - set(taken)
        assert (await store.pools.all())[0].taken == len(taken)

    in_store(tmp_path_factory.mktemp("race"), go)


def test_what_is_taken_is_the_runs_own_in_every_record(tmp_path: Path) -> None:
    async def go(store: Store) -> None:
        await store.pools.put(POOL)
        await warm_box(store, 1)
        intent = await wanted(store, 7, ["box_1"])
        assert intent is not None and (intent.kind, intent.flow) == ("take", "flow_run_7")
        request = intent.request
        assert (request["box"], request["run"], request["name"]) == ("box_1", "run_1", "warm-1")
        assert (request["token"], request["session"]) == ("token-1", "session-1")  # as its agent was started
        assert (request["prompt"], request["taken_ms"]) == ("mend it", 507)
        box, run = await store.boxes.get("box_1"), await store.runs.get("run_1")
        assert (box.state, box.created_ms, box.memory["flow"]) == (BoxState.CREATING, 507, "flow_run_7")
        assert box.memory["provider"] == {"pid": 7}
        assert (run.prompt, run.created_ms) == ("mend it", 507)
        lease = await store.leases.get("box_1")
        assert lease is not None and lease.keep_min == 5
        assert [e.fact for e in await store.evidence.of_run("run_1")] == [Fact.LAUNCHED]
        assert [e.kind for e in (await store.events.read()).events] == ["run.created"]
        assert not await store.pools.holds("box_1")

    in_store(tmp_path, go)


def test_a_thopter_without_a_task_gets_its_box_as_it_waits(tmp_path: Path) -> None:
    async def go(store: Store) -> None:
        await store.pools.put(POOL)
        await warm_box(store, 1)
        assert await wanted(store, 1, ["box_1"], prompt="") is not None
        assert await store.evidence.of_run("run_1") == []

    in_store(tmp_path, go)


@pytest.mark.parametrize("state", [s for s in BoxState if s is not BoxState.READY])
def test_a_box_that_is_not_ready_is_not_given_out(tmp_path: Path, state: BoxState) -> None:
    async def go(store: Store) -> None:
        await store.pools.put(POOL)
        await warm_box(store, 1, box=state)
        assert await wanted(store, 1, ["box_1"]) is None
        assert await store.pools.holds("box_1")

    in_store(tmp_path, go)


def test_a_box_is_either_taken_or_retired(tmp_path: Path) -> None:
    async def go(store: Store) -> None:
        await store.pools.put(POOL)
        for n in range(10):
            await warm_box(store, n)
        boxes = [f"box_{n}" for n in range(10)]
        results = await asyncio.gather(
            *(wanted(store, n, [key]) for n, key in enumerate(boxes)),
            *(store.pools.become(key, WARM, RETIRED) for key in reversed(boxes)),
        )
        taken = {str(i.request["box"]) for i in results[:10] if isinstance(i, Intent)}
        retired = {b.box for b in await store.pools.boxes() if b.state == RETIRED}
        assert taken | retired == set(boxes) and not taken & retired

    in_store(tmp_path, go)


def test_boxes_of_a_pool_are_found_by_their_whole_name_only(tmp_path: Path) -> None:
    async def go(store: Store) -> None:
        await warm_box(store, 1)
        assert (await store.boxes.find("warm-1")).id == "box_1"
        with pytest.raises(NotFound):
            await store.boxes.find("war")
        await store.pools.forget("box_1")
        assert (await store.boxes.find("war")).id == "box_1"

    in_store(tmp_path, go)


def test_setting_a_pool_again_changes_what_is_wanted_and_forgets_its_trouble(tmp_path: Path) -> None:
    async def go(store: Store) -> None:
        await store.pools.put(POOL)
        await store.pools.trouble("pool_1", "no room", 3, 99)
        again = await store.pools.put(structs.replace(POOL, id="pool_2", want=5, wish={"model": "m"}))
        assert (again.id, again.want, again.wish, again.problem) == ("pool_1", 5, {"model": "m"}, "")
        other = await store.pools.put(structs.replace(POOL, id="pool_3", repo=""))
        assert other.id == "pool_3"
        gone = await store.pools.remove(lambda p: p.repo == "/r")
        assert [p.id for p in gone] == ["pool_1"]
        assert [p.id for p in await store.pools.all()] == ["pool_3"]

    in_store(tmp_path, go)
