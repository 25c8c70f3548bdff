"""Truth about ends: exits, goodbyes, stops, done, gone boxes, and lives that follow one another."""

from __future__ import annotations

import pytest
from evidence_kit import alive, at_work, exited, finished, hook, launched, ms, said, state, status, verdict

from thopter.model.evidence import Fact, Source

DAY = 24 * 3600.0


def test_leaving_by_exit_is_stopped_from_the_goodbye_on() -> None:
    goodbye = [*finished(at=5), hook(Fact.SESSION_ENDED, 9)]
    before = verdict(*goodbye, now=9)
    after = verdict(*goodbye, exited(9.8, code=0), now=DAY)
    assert (before.state, before.since_ms) == ("stopped", ms(9))
    assert (after.state, after.since_ms) == ("stopped", ms(9))


def test_an_exit_with_code_0_is_stopped_even_without_a_goodbye() -> None:
    assert state(*finished(at=5), exited(9, code=0), now=DAY) == "stopped"


@pytest.mark.parametrize(
    ("code", "words"), [(1, "code 1"), (-9, "SIGKILL"), (-40, "signal 40"), (None, "not known")]
)
def test_a_death_without_goodbye_is_failed_with_its_reason(code: int | None, words: str) -> None:
    found = verdict(*at_work(), exited(9, code=code), now=DAY)
    assert (found.state, found.since_ms) == ("failed", ms(9))
    assert words in found.problem


def test_death_beats_hooks_that_came_in_just_after_it() -> None:
    late = [hook(Fact.ACTIVITY, 9.5), hook(Fact.TURN_ENDED, 9.4)]
    assert state(*at_work(), exited(9, code=1), *late, now=60) == "failed"
    assert state(*finished(at=5), exited(9, code=1), now=60) == "failed"


def test_hooks_that_go_on_long_after_the_death_are_a_contradiction() -> None:
    found = verdict(*at_work(), exited(9, code=1), hook(Fact.ACTIVITY, 60), alive(61), now=61)
    assert found.state == "unknown"
    assert found.contradiction
    assert {e.fact for e in found.because} == {Fact.PROCESS_EXITED, Fact.ACTIVITY}


def test_a_process_that_outlives_its_goodbye_is_a_contradiction() -> None:
    left = [*at_work(), hook(Fact.SESSION_ENDED, 9)]
    assert state(*left, said(Source.PROCESS, Fact.PROCESS_ALIVE, 10), now=11) == "stopped"
    assert state(*left, said(Source.PROCESS, Fact.PROCESS_ALIVE, 60), now=61) == "unknown"


def test_what_was_asked_to_stop_is_stopped_however_it_died() -> None:
    asked = said(Source.HUB, Fact.STOP_REQUESTED, 8)
    assert state(*at_work(), asked, now=8.5) == "working"
    assert state(*at_work(), asked, exited(9, code=-9), now=DAY) == "stopped"
    assert state(*at_work(), asked, exited(7, code=-9), now=DAY) == "failed"


def test_done_stays_done_whatever_becomes_of_turn_process_and_box() -> None:
    done = [*at_work(), said(Source.HUB, Fact.DECLARED_DONE, 4)]
    ends = [
        hook(Fact.ACTIVITY, 4.5),
        hook(Fact.TURN_ENDED, 5),
        hook(Fact.SESSION_ENDED, 8),
        exited(9, code=1),
        said(Source.PROVIDER, Fact.BOX_GONE, 99),
    ]
    for count in range(len(ends) + 1):
        found = verdict(*done, *ends[:count], *(alive(t) for t in range(4, 90, 10)), now=DAY)
        assert (found.state, found.since_ms) == ("done", ms(4))


def test_a_new_prompt_after_done_is_work_again() -> None:
    done = [*finished(at=5), said(Source.HUB, Fact.DECLARED_DONE, 6)]
    assert state(*done, hook(Fact.TURN_STARTED, 60), now=60) == "working"
    assert state(*done, hook(Fact.TURN_STARTED, 60), hook(Fact.TURN_ENDED, 70), now=80) == "waiting/turn_end"


def test_a_box_that_is_gone_takes_its_agent_with_it() -> None:
    gone = said(Source.PROVIDER, Fact.BOX_GONE, 60)
    found = verdict(*finished(at=5), alive(50), gone, now=61)
    assert found.state == "failed"
    assert "box is gone" in found.problem
    assert state(*finished(at=5), said(Source.HUB, Fact.STOP_REQUESTED, 59), gone, now=61) == "stopped"
    assert state(*finished(at=5), gone, alive(70), now=71) == "waiting/turn_end"


def test_an_agent_that_dies_at_its_start_is_failed() -> None:
    noted = said(Source.HUB, Fact.LAUNCHED, 1, prompt=True)
    begun = said(Source.PROCESS, Fact.PROCESS_ALIVE, 1.1, pid=100)
    assert state(noted, begun, exited(1.2, code=127), now=DAY) == "failed"
    assert state(noted, exited(1.2, code=127), now=DAY) == "failed"


def test_a_relaunched_agent_is_starting_and_its_old_death_is_history() -> None:
    dead = [*at_work(), exited(9, code=1)]
    noted = said(Source.HUB, Fact.LAUNCHED, 12, prompt=True)
    assert state(*dead, noted, now=12) == "starting"
    assert state(*dead, noted, said(Source.PROCESS, Fact.PROCESS_ALIVE, 12.1, pid=101), now=13) == "starting"
    again = launched(at=9.5, prompt=True)
    assert state(*dead, *again, now=11) == "starting"
    assert state(*dead, *again, hook(Fact.TURN_STARTED, 11), now=11) == "working"
    assert state(*dead, *again, exited(12, code=2, pid=101), now=12) == "failed"


def test_a_late_goodbye_of_the_old_life_does_not_stop_the_new_one() -> None:
    left = [*finished(at=5), hook(Fact.SESSION_ENDED, 8.95), exited(9, code=0)]
    assert state(*left, *launched(at=9.1, prompt=True), hook(Fact.TURN_STARTED, 11), now=12) == "working"
    dead = [*left, *launched(at=9.1, prompt=True), exited(9.3, code=1, pid=101)]
    assert state(*dead, now=12) == "failed"


def test_an_agent_started_again_by_hand_is_known_by_its_session() -> None:
    left = [*finished(at=5), hook(Fact.SESSION_ENDED, 8), exited(9, code=0)]
    again = [*left, hook(Fact.SESSION_STARTED, 300)]
    assert state(*again, now=301) == "starting"
    assert state(*again, status(Fact.IDLE, 300.2, seen=320), now=320) == "waiting/turn_end"
    assert state(*again, hook(Fact.TURN_STARTED, 330), now=331) == "working"


def test_another_process_of_the_agent_is_another_life_but_an_old_reading_of_the_dead_one_is_not() -> None:
    dead = [*at_work(), exited(9, code=1, pid=100), alive(20)]
    assert state(*dead, said(Source.PROCESS, Fact.PROCESS_ALIVE, 20, pid=100), now=21) == "failed"
    assert state(*dead, said(Source.PROCESS, Fact.PROCESS_ALIVE, 20), now=21) == "failed"
    another = said(Source.PROCESS, Fact.PROCESS_ALIVE, 20, pid=222)
    assert state(*dead, another, now=21) == "starting"
    assert state(*dead, another, said(Source.PROCESS, Fact.PROCESS_ALIVE, 25), now=26) == "starting"
