"""A run that may spend no more waits for a person, and says so whatever its agent makes of the refusal."""

from __future__ import annotations

import pytest

from thopter.fleet.truth import fold
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.nouns import RunState, WaitReason

NOW = 1_000_000


def seen(source: Source, fact: Fact, at: int, detail: str = "", **data: object) -> Evidence:
    return Evidence(source=source, fact=fact, at_ms=at, seen_ms=at, detail=detail, data=dict(data))


BEGUN = [
    seen(Source.HUB, Fact.LAUNCHED, 1_000, prompt=True),
    seen(Source.HOOK, Fact.TURN_STARTED, 2_000),
    seen(Source.HOOK, Fact.ACTIVITY, 3_000),
    seen(Source.HEARTBEAT, Fact.BOX_ALIVE, NOW),
]
SPENT = seen(Source.GATEWAY, Fact.OVER_BUDGET, 4_000, "the budget is used up")
GIVEN_UP = seen(Source.HOOK, Fact.TURN_FAILED, 4_100, error="billing_error")


@pytest.mark.parametrize(
    "after",
    [[], [GIVEN_UP], [seen(Source.SCREEN, Fact.IDLE, 4_200)], [seen(Source.HOOK, Fact.ACTIVITY, 4_300)]],
    ids=["silent", "failed turn", "idle", "a tool's straggling report"],
)
def test_it_waits_for_its_budget_whatever_the_agent_does(after: list[Evidence]) -> None:
    verdict = fold([*BEGUN, SPENT, *after], NOW)
    assert (verdict.state, verdict.reason) == (RunState.WAITING, WaitReason.BUDGET)
    assert verdict.problem == "the budget is used up" and verdict.since_ms == 4_000


def test_a_raised_budget_leaves_it_at_its_prompt() -> None:
    raised = seen(Source.HUB, Fact.BUDGET_RAISED, 5_000)
    verdict = fold([*BEGUN, SPENT, GIVEN_UP, raised], NOW)
    assert (verdict.state, verdict.reason) == (RunState.WAITING, WaitReason.TURN_END)
    again = fold([*BEGUN, SPENT, GIVEN_UP, raised, seen(Source.HOOK, Fact.TURN_STARTED, 6_000)], 7_000)
    assert again.state is RunState.WORKING


def test_a_bill_of_the_endpoint_itself_still_fails_the_run() -> None:
    assert fold([*BEGUN, GIVEN_UP], NOW).state is RunState.FAILED


def test_a_call_that_got_through_ends_it() -> None:
    through = seen(Source.GATEWAY, Fact.ACTIVITY, 4_500)
    assert fold([*BEGUN, SPENT, through], 5_000).state is RunState.WORKING


def test_a_dead_agent_is_not_waiting_for_money() -> None:
    dead = seen(Source.PROCESS, Fact.PROCESS_EXITED, 5_000, code=1)
    assert fold([*BEGUN, SPENT, dead], NOW).state is RunState.FAILED
