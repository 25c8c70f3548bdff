"""How long a box may go on: idle is what truth says, deadlines survive jumps of the clock."""

from __future__ import annotations

import pytest
from msgspec import structs

from thopter.fleet.lease import is_idle, moved, new_lease, renewed, step
from thopter.kit.settings import Settings, Value
from thopter.model.evidence import Verdict
from thopter.model.nouns import BoxState, Lease, RunState, WaitReason

NOW = 1_800_000_000_000
MIN = 60_000
WORKING = Verdict(state=RunState.WORKING, since_ms=NOW)
RESTING = Verdict(state=RunState.WAITING, reason=WaitReason.TURN_END, since_ms=NOW)
ASKING = Verdict(state=RunState.WAITING, reason=WaitReason.QUESTION, since_ms=NOW)
UNKNOWN = Verdict(state=RunState.UNKNOWN, since_ms=NOW)


def lease(**more: object) -> Lease:
    given = {"box": "box_1", "keep_min": 60, "idle_min": 10, "on_idle": "suspend"} | more
    return renewed(Lease(**given), NOW)  # type: ignore[arg-type]


def act(at: Lease, verdict: Verdict, now: int, state: BoxState = BoxState.READY, here: bool = False) -> str:
    """What is due at ``now``, when the box was looked at every minute until then."""
    action = ""
    for moment in range(NOW, now + 1, MIN):
        at, action = step(at, state, verdict, here, moment)
        if action:
            return action
    return action


def test_a_box_that_is_idle_for_long_enough_is_put_to_sleep() -> None:
    assert act(lease(), RESTING, NOW + 9 * MIN) == ""
    assert act(lease(), RESTING, NOW + 10 * MIN) == "suspend"
    assert act(lease(on_idle="destroy"), RESTING, NOW + 10 * MIN) == "destroy"
    assert act(lease(on_idle="none"), RESTING, NOW + 600 * MIN) == ""
    assert act(lease(idle_min=0), RESTING, NOW + 59 * MIN) == ""
    assert act(lease(idle_min=1.5), RESTING, NOW + MIN) == ""
    assert act(lease(idle_min=1.5), RESTING, NOW + 2 * MIN) == "suspend"


@pytest.mark.parametrize("verdict", [WORKING, UNKNOWN, Verdict(state=RunState.STARTING)])
def test_an_agent_that_may_be_at_work_is_never_put_to_sleep(verdict: Verdict) -> None:
    assert act(lease(), verdict, NOW + 100_000 * MIN) == ""


def test_a_question_is_not_idle_and_sleeps_only_at_the_end_of_the_keep_alive() -> None:
    assert not is_idle(ASKING)
    assert act(lease(), ASKING, NOW + 59 * MIN) == ""
    assert act(lease(), ASKING, NOW + 60 * MIN) == "suspend"


def test_nobody_who_has_a_terminal_open_is_cut_off() -> None:
    assert act(lease(), RESTING, NOW + 1000 * MIN, here=True) == ""


@pytest.mark.parametrize("state", [s for s in BoxState if s is not BoxState.READY])
def test_a_box_that_is_not_up_is_left_alone(state: BoxState) -> None:
    assert act(lease(), RESTING, NOW + 1000 * MIN, state=state) == ""


def test_work_in_between_begins_the_idleness_anew() -> None:
    at, _ = step(lease(), BoxState.READY, RESTING, False, NOW)
    assert at.idle_until_ms == NOW + 10 * MIN
    at, _ = step(at, BoxState.READY, WORKING, False, NOW + 5 * MIN)
    assert at.idle_until_ms == 0
    again = structs.replace(RESTING, since_ms=NOW + 6 * MIN)
    at, action = step(at, BoxState.READY, again, False, NOW + 11 * MIN)
    assert (at.idle_until_ms, action) == (NOW + 16 * MIN, "")


def test_a_box_that_was_just_resumed_is_not_put_to_sleep_for_what_was_before() -> None:
    old = structs.replace(RESTING, since_ms=NOW - 500 * MIN)
    at, action = step(lease(), BoxState.READY, old, False, NOW + 1)
    assert action == "" and at.idle_until_ms == NOW + 10 * MIN


@pytest.mark.parametrize("jump", [+86_400_000, -86_400_000])
def test_a_jump_of_the_clock_moves_the_deadlines_and_ends_nobodys_time(jump: int) -> None:
    at, _ = step(lease(), BoxState.READY, RESTING, False, NOW)
    at, action = step(moved(at, jump), BoxState.READY, RESTING, False, NOW + jump + MIN)
    assert action == ""
    assert at.expires_ms == NOW + jump + 60 * MIN
    _, action = step(at, BoxState.READY, RESTING, False, NOW + jump + 11 * MIN)
    assert action == "suspend"
    assert moved(Lease(box="b"), jump).expires_ms == 0, "never stays never"


def test_a_new_box_has_the_lengths_of_the_settings_unless_others_are_given() -> None:
    settings = Settings({"box.idle_timeout": Value(30, "test"), "box.on_idle": Value("stop", "test")})
    made = new_lease("box_1", settings, NOW)
    assert (made.keep_min, made.idle_min, made.on_idle) == (720, 30, "stop")
    assert made.expires_ms == NOW + 720 * MIN
    assert new_lease("box_1", settings, NOW, keep_min=0, idle_min=1).expires_ms == 0
