"""Rate limits end by themselves: when that is said to be, and when an agent that gave up hears of it."""

from __future__ import annotations

from thopter.fleet.delivery import gave_up
from thopter.fleet.ratelimit import UNSAID_MS, due_ms, resets_ms
from thopter.fleet.truth import fold
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.nouns import WaitReason


def seen(source: Source, fact: Fact, at: int, **data: object) -> Evidence:
    return Evidence(source=source, fact=fact, at_ms=at, seen_ms=at, data=dict(data))


BEGUN = [
    seen(Source.HUB, Fact.LAUNCHED, 1_000, prompt=True),
    seen(Source.HOOK, Fact.TURN_STARTED, 2_000),
    seen(Source.HEARTBEAT, Fact.BOX_ALIVE, 6_000),
]
LIMITED = seen(Source.GATEWAY, Fact.RATE_LIMITED, 4_000, reset_ms=900_000)
GIVEN_UP = seen(Source.HOOK, Fact.TURN_FAILED, 5_000, error="rate_limit")


def test_a_run_that_is_held_up_says_until_when_and_is_left_alone_while_it_tries() -> None:
    verdict = fold([*BEGUN, LIMITED], 6_000)
    assert verdict.reason is WaitReason.RATE_LIMIT and resets_ms(verdict) == 900_000
    assert not gave_up(verdict) and due_ms(verdict) == 0


def test_an_agent_that_gave_up_is_told_when_it_is_over() -> None:
    verdict = fold([*BEGUN, LIMITED, GIVEN_UP], 6_000)
    assert verdict.reason is WaitReason.RATE_LIMIT and resets_ms(verdict) == 900_000
    assert gave_up(verdict) and due_ms(verdict) == 901_000


def test_where_nobody_said_when_it_is_over_it_is_tried_after_a_while() -> None:
    verdict = fold([*BEGUN, GIVEN_UP], 6_000)
    assert resets_ms(verdict) == 0 and due_ms(verdict) == 5_000 + UNSAID_MS + 1_000


def test_a_run_that_waits_for_something_else_is_not_told() -> None:
    verdict = fold([*BEGUN, LIMITED, seen(Source.HOOK, Fact.TURN_ENDED, 5_000)], 6_000)
    assert due_ms(verdict) == 0 and resets_ms(verdict) == 0
