"""What a pool needs next: filled to the number, never over it, stale boxes replaced, failures slowed down."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from thopter.fleet.pool_rules import DOUBT_MS, Plan, Seen, decide, retry_after
from thopter.model.nouns import BoxState
from thopter.store.pools import FILLING, RETIRED, WARM, Pool

NOW = 1_000_000
POOL = Pool(id="pool_1", snapshot="golden", repo="", agent="claude", want=3, created_ms=1)


def seen(n: int = 1, state: str = WARM, **more: Any) -> Seen:
    """A box of the pool, warm and fit unless said otherwise."""
    given: dict[str, Any] = {"box": f"box_{n}", "state": state, "recipe": "so", "box_state": BoxState.READY}
    return Seen(**{**given, **more})


def plan(*boxes: Seen, pool: Pool | None = POOL, recipe: str = "so", slots: int = 2) -> Plan:
    """The decision at ``NOW``."""
    return decide(pool, boxes, recipe, NOW, slots)


def test_an_empty_pool_is_filled_two_boxes_at_a_time() -> None:
    assert plan() == Plan(fill=2)
    assert plan(seen(1, FILLING, flow="running"), slots=1) == Plan(fill=1)
    assert plan(seen(1), seen(2), seen(3)) == Plan()
    assert plan(slots=0) == Plan()


def test_a_box_becomes_warm_when_its_flow_has_ended_well() -> None:
    found = plan(seen(1), seen(2), seen(3, FILLING, flow="done"))
    assert found == Plan(warm=["box_3"], problem="")


def test_a_box_whose_agent_showed_a_problem_is_retired_and_the_problem_shown() -> None:
    found = plan(seen(1), seen(2), seen(3, FILLING, flow="done", problem="no sign of work"))
    assert found == Plan(retire=["box_3"], problem="no sign of work")


def test_a_failed_filling_is_forgotten_and_tried_again_later_each_time_later() -> None:
    failed = seen(3, FILLING, flow="failed", problem="no room", box_state=BoxState.GONE)
    assert plan(seen(1), seen(2), failed) == Plan(forget=["box_3"], problem="no room")
    slow = structs.replace(POOL, problem="no room", failures=1, retry_ms=NOW + 1)
    assert plan(seen(1), seen(2), pool=slow) == Plan()
    assert plan(seen(1), seen(2), pool=structs.replace(slow, retry_ms=NOW)) == Plan(fill=1)
    waits = [retry_after(n) for n in range(1, 12)]
    assert waits == sorted(waits) and waits[0] == 5_000 and waits[-1] == 600_000


def test_a_filling_that_was_called_off_is_no_trouble() -> None:
    ended = seen(3, FILLING, flow="called off", box_state=BoxState.GONE)
    assert plan(seen(1), seen(2), ended) == Plan(forget=["box_3"], fill=1)


def test_what_was_made_otherwise_is_retired_and_replaced() -> None:
    old = [seen(1, recipe="old"), seen(2), seen(3, FILLING, flow="running", recipe="old")]
    assert plan(*old) == Plan(retire=["box_1"], call_off=["box_3"], fill=2)


def test_while_it_is_not_known_how_boxes_must_be_nothing_is_made_or_thrown_away() -> None:
    assert plan(seen(1), seen(2, recipe="old"), recipe="") == Plan()


def test_a_pool_that_is_wanted_no_more_gives_everything_back() -> None:
    boxes = [seen(1), seen(2, FILLING, flow="running"), seen(3, FILLING, flow="done"), seen(4, RETIRED)]
    found = plan(*boxes, pool=None, recipe="")
    assert found.retire == ["box_1", "box_3", "box_4"] and found.call_off == ["box_2"] and not found.fill


def test_when_fewer_are_wanted_those_under_way_go_first() -> None:
    boxes = [seen(1), seen(2), seen(3, FILLING, flow="running"), seen(4)]
    found = plan(*boxes, pool=structs.replace(POOL, want=2))
    assert found.call_off == ["box_3"] and found.retire == ["box_1"]


def test_a_box_that_somebody_has_used_or_that_died_is_retired_at_once_and_a_silent_one_in_time() -> None:
    assert plan(seen(1, fitness="unfit"), seen(2), seen(3)) == Plan(retire=["box_1"], fill=1)
    silent = seen(1, fitness="doubtful", doubt_ms=DOUBT_MS)
    assert plan(silent, seen(2), seen(3)) == Plan()
    assert plan(structs.replace(silent, doubt_ms=DOUBT_MS + 1), seen(2), seen(3)).retire == ["box_1"]


boxes = st.builds(
    Seen,
    box=st.integers(0, 999).map(lambda n: f"box_{n}"),
    state=st.sampled_from([FILLING, WARM, RETIRED]),
    recipe=st.sampled_from(["so", "old"]),
    box_state=st.sampled_from([BoxState.CREATING, BoxState.READY, BoxState.LOST, BoxState.GONE]),
    flow=st.sampled_from(["running", "done", "failed", "called off"]),
    problem=st.sampled_from(["", "no room"]),
    fitness=st.sampled_from(["fit", "unfit", "doubtful"]),
    doubt_ms=st.sampled_from([0, DOUBT_MS + 1]),
)


@given(
    st.lists(boxes, max_size=12, unique_by=lambda s: s.box), st.integers(0, 5), st.integers(0, 2),
    st.sampled_from(["so", ""]), st.booleans(),
)  # fmt: skip
def test_whatever_is_found_no_box_is_treated_twice_and_the_number_is_never_exceeded(
    found: list[Seen], want: int, slots: int, recipe: str, wanted: bool
) -> None:
    pool = structs.replace(POOL, want=want) if wanted else None
    got = plan(*found, pool=pool, recipe=recipe, slots=slots)
    treated = [*got.forget, *got.retire, *got.call_off, *got.warm]
    assert len(treated) == len(set(treated))
    assert 0 <= got.fill <= slots
    going = {*got.forget, *got.retire, *got.call_off}
    stay = [one for one in found if one.box not in going]
    assert len(stay) + got.fill <= want if pool is not None else not stay
    for one in found:
        if one.box in got.warm:
            assert one.state == FILLING and one.flow == "done" and not one.problem
        if one.state == FILLING and one.flow == "running":
            assert one.box not in got.retire  # it is called off, never pulled away under its flow
