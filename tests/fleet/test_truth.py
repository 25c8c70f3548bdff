"""Truth, rule by rule: what a person would call the state, given this evidence."""

from __future__ import annotations

import pytest
from evidence_kit import alive, at_work, exited, finished, hook, launched, ms, said, state, status, verdict

from thopter.fleet.evidence_window import admit
from thopter.model.evidence import Evidence, Fact, Source

HOUR = 3600.0
DAY = 24 * HOUR


def test_nothing_known_is_queued() -> None:
    assert state(now=0) == "queued"
    assert state(alive(1), now=2) == "queued"


def test_a_launched_agent_is_starting_until_its_first_turn() -> None:
    assert state(*launched(prompt=True), now=2) == "starting"
    assert state(*launched(prompt=True), status(Fact.IDLE, 0.6), now=2) == "starting"
    assert state(*at_work(at=1), now=2) == "working"


def test_a_launch_that_shows_no_turn_becomes_unknown_not_failed() -> None:
    late = [*launched(prompt=True), alive(130)]
    assert state(*late, now=110) == "starting"
    found = verdict(*late, now=131)
    assert found.state == "unknown"
    assert "no turn was ever seen" in found.contradiction


def test_an_agent_launched_without_a_task_waits_at_its_prompt() -> None:
    assert state(*launched(prompt=False), status(Fact.IDLE, 0.6), now=2) == "waiting/turn_end"


def test_an_agent_that_did_not_take_its_prompt_yet_is_starting_and_at_last_unknown() -> None:
    early = verdict(*launched(prompt=True), status(Fact.IDLE, 0.6, seen=12), now=13)
    assert early.state == "starting"  # a busy machine takes its time; that is no finished turn
    late = verdict(*launched(prompt=True), status(Fact.IDLE, 0.6, seen=600), now=601)
    assert late.state == "unknown"
    assert any(e.fact is Fact.IDLE for e in late.because)
    busy = verdict(*launched(prompt=True), status(Fact.BUSY, 2), status(Fact.IDLE, 5, seen=12), now=13)
    assert (busy.state, busy.reason) == ("waiting", "turn_end")


def test_a_prompt_taken_is_working_at_once() -> None:  # T3-070
    assert state(*finished(at=5), hook(Fact.TURN_STARTED, 60), now=60) == "working"
    assert verdict(*finished(at=5), hook(Fact.TURN_STARTED, 60), now=60).since_ms == ms(60)


def test_a_finished_turn_waits_for_ever_whatever_is_alive_silent_or_frozen() -> None:  # T3-077
    frozen = said(Source.PROVIDER, Fact.BOX_FROZEN, 9)
    silent = said(Source.HEARTBEAT, Fact.BOX_SILENT, 50)
    beats = [alive(t) for t in range(6, 600, 10)]
    process = said(Source.PROCESS, Fact.PROCESS_ALIVE, 590, pid=100)
    for more in ([], beats, [frozen], [silent], [*beats, process, silent, frozen]):
        for now in (5, 6, 60, HOUR, 30 * DAY):
            found = verdict(*finished(at=5), *more, now=now)
            assert (found.state, found.reason, found.since_ms) == ("waiting", "turn_end", ms(5))


def test_a_tool_that_reports_just_after_the_end_does_not_restart_the_turn() -> None:  # T3-077
    late = [hook(Fact.ACTIVITY, 5.1, tool="Bash"), said(Source.TRANSCRIPT, Fact.ACTIVITY, 6.9)]
    assert state(*finished(at=5), *late, now=7) == "waiting/turn_end"


def test_a_tool_used_long_after_the_end_is_a_turn_whose_start_was_not_seen() -> None:
    assert state(*finished(at=5), hook(Fact.ACTIVITY, 30), now=31) == "working"


def test_the_next_prompt_in_the_same_millisecond_as_the_end_is_working() -> None:
    assert state(*finished(at=5), hook(Fact.TURN_STARTED, 5), now=5) == "working"


def test_the_end_is_dated_by_its_first_word() -> None:
    twice = [*finished(at=5), said(Source.TRANSCRIPT, Fact.TURN_ENDED, 5.4)]
    assert verdict(*twice, now=60).since_ms == ms(5)


def test_a_working_agent_in_a_silent_box_is_unknown_and_the_evidence_says_since_when() -> None:
    evidence = [*at_work(at=1), alive(10)]
    assert state(*evidence, now=39) == "working"
    found = verdict(*evidence, now=41)
    assert (found.state, found.since_ms) == ("unknown", ms(10))
    assert "silent" in found.problem
    assert any(e.fact is Fact.BOX_ALIVE for e in found.because)
    assert state(*evidence, alive(42), now=43) == "working"


def test_a_box_said_to_be_silent_is_unknown_at_once() -> None:
    quiet = said(Source.HEARTBEAT, Fact.BOX_SILENT, 15)
    assert state(*at_work(at=1), alive(10), quiet, now=16) == "unknown"
    assert state(*at_work(at=1), alive(10), quiet, alive(17), now=18) == "working"


def test_a_frozen_working_agent_is_unknown_until_the_box_lives_again() -> None:
    frozen = said(Source.PROVIDER, Fact.BOX_FROZEN, 20)
    found = verdict(*at_work(), alive(19), frozen, now=21)
    assert found.state == "unknown"
    assert found.because[0] == frozen
    assert state(*at_work(), alive(19), frozen, alive(90), now=91) == "working"


def test_an_agent_that_shows_nothing_for_long_in_a_living_box_is_unknown() -> None:
    beats = [alive(t) for t in range(10, 1000, 10)]
    assert state(*at_work(at=1), *beats, now=500) == "working"
    assert state(*at_work(at=1), *beats, now=700) == "unknown"
    assert state(*at_work(at=1), *beats, status(Fact.BUSY, 1, seen=698), now=700) == "working"


@pytest.mark.parametrize(
    ("fact", "reason"), [(Fact.PERMISSION_ASKED, "permission"), (Fact.QUESTION_ASKED, "question")]
)
def test_a_dialog_waits_until_it_is_answered(fact: Fact, reason: str) -> None:
    asked = [*at_work(), hook(Fact.ACTIVITY, 2, call="a"), hook(fact, 2.001, call="a")]
    assert state(*asked, now=3) == f"waiting/{reason}"
    assert state(*asked, now=DAY) == f"waiting/{reason}"
    answered = said(Source.HUB, Fact.ANSWERED, 9, call="a")
    assert state(*asked, answered, now=9) == "working"
    assert verdict(*asked, answered, now=9).since_ms == ms(1)  # the turn has gone on since it began
    assert state(*asked, hook(Fact.ACTIVITY, 9, call="a"), now=9) == "working"
    assert state(*asked, hook(Fact.TURN_ENDED, 9), now=9) == "waiting/turn_end"


def test_a_tool_running_beside_a_dialog_does_not_answer_it() -> None:
    asked = [*at_work(), hook(Fact.PERMISSION_ASKED, 2, call="a"), hook(Fact.ACTIVITY, 4, call="b")]
    assert state(*asked, now=60) == "waiting/permission"
    side = hook(Fact.ACTIVITY, 8, side=True)
    assert state(*at_work(), hook(Fact.PERMISSION_ASKED, 2), side, now=60) == "waiting/permission"


def test_of_two_dialogs_the_one_still_open_counts() -> None:
    asked = [*at_work(), hook(Fact.PERMISSION_ASKED, 2, call="a"), hook(Fact.QUESTION_ASKED, 2.1, call="b")]
    assert state(*asked, said(Source.HUB, Fact.ANSWERED, 9, call="b"), now=9) == "waiting/permission"
    assert state(*asked, said(Source.HUB, Fact.ANSWERED, 9, call="a"), now=9) == "waiting/question"


def test_a_dialog_answered_in_the_terminal_is_known_by_the_status_alone() -> None:
    asked = [
        *at_work(),
        hook(Fact.PERMISSION_ASKED, 2, call="a"),
        said(Source.SCREEN, Fact.PERMISSION_ASKED, 2.05, 4),
    ]
    answered = [*asked, status(Fact.BUSY, 20)]
    assert state(*answered, now=21) == "working"
    # It stays answered whatever the status shows next, and whatever work comes in before its prompt.
    assert state(*answered, status(Fact.IDLE, 30), now=31) == "working"
    left = [*asked, status(Fact.IDLE, 20, seen=26)]
    assert state(*left, now=26) == "waiting/turn_end"
    assert state(*left, said(Source.TRANSCRIPT, Fact.ACTIVITY, 40, call="z"), now=40) == "working"


def test_a_dialog_that_never_shows_in_the_status_is_not_closed_by_the_old_busy() -> None:
    elicited = [*at_work(), status(Fact.BUSY, 1.1, seen=300), hook(Fact.QUESTION_ASKED, 100)]
    assert state(*elicited, now=301) == "waiting/question"


def test_an_interrupt_without_a_hook_is_known_by_the_transcript() -> None:
    said_so = said(Source.TRANSCRIPT, Fact.INTERRUPTED, 9)
    assert state(*at_work(), hook(Fact.ACTIVITY, 8), said_so, now=10) == "waiting/turn_end"
    assert state(*at_work(), said_so, hook(Fact.ACTIVITY, 9.8), now=10) == "waiting/turn_end"
    assert state(*at_work(), said_so, hook(Fact.TURN_STARTED, 9.6), now=10) == "working"


def test_an_interrupt_without_any_word_is_known_by_the_idle_status_once_it_is_read_again() -> None:
    turn = [*at_work(), hook(Fact.ACTIVITY, 8)]
    assert state(*turn, status(Fact.IDLE, 9), now=10) == "working"
    assert state(*turn, status(Fact.IDLE, 9, seen=15), now=15) == "waiting/turn_end"
    assert state(*turn, status(Fact.IDLE, 9), alive(60), now=61) == "unknown"


def test_an_idle_from_before_or_around_the_start_of_a_turn_means_nothing() -> None:
    assert state(*at_work(at=5), status(Fact.IDLE, 4.9, seen=5.1), now=6) == "working"
    assert state(*at_work(at=5), status(Fact.IDLE, 5.02), status(Fact.BUSY, 5.05), now=20) == "working"


def test_an_idle_notification_ends_a_turn_whose_end_was_lost() -> None:
    assert state(*at_work(at=1), hook(Fact.IDLE, 70), now=71) == "waiting/turn_end"


def test_background_tasks_keep_an_agent_working_until_it_has_long_been_idle() -> None:
    ended = [*at_work(), hook(Fact.TURN_ENDED, 5, background=1), alive(60)]
    assert state(*ended, status(Fact.IDLE, 5.1, seen=30), now=61) == "working"
    assert state(*ended, said(Source.TRANSCRIPT, Fact.TURN_ENDED, 5.2), now=61) == "working"
    assert state(*ended, status(Fact.IDLE, 5.1, seen=66), now=66) == "waiting/turn_end"
    assert state(*ended, hook(Fact.TURN_STARTED, 40), hook(Fact.TURN_ENDED, 50), now=61) == "waiting/turn_end"


def test_a_rate_limited_agent_waits_until_something_gets_through() -> None:
    hit = [*at_work(at=1), *(said(Source.GATEWAY, Fact.RATE_LIMITED, t) for t in (4, 8, 16))]
    found = verdict(*hit, alive(17), now=18)
    assert (found.state, found.reason, found.since_ms) == ("waiting", "rate_limit", ms(1))
    assert state(*hit, said(Source.GATEWAY, Fact.ACTIVITY, 20), now=21) == "working"
    assert state(*hit, hook(Fact.ACTIVITY, 20), now=21) == "working"
    assert state(*hit, hook(Fact.TURN_ENDED, 20), now=21) == "waiting/turn_end"
    assert state(*hit, alive(17), now=60) == "unknown"  # it goes on by itself, so silence hides it


def test_a_rate_limit_after_the_turn_is_a_side_request_and_changes_nothing() -> None:
    hit = said(Source.GATEWAY, Fact.RATE_LIMITED, 9)
    assert state(*finished(at=5), hit, said(Source.GATEWAY, Fact.ACTIVITY, 11), now=12) == "waiting/turn_end"


@pytest.mark.parametrize("word", ["authentication_failed", "billing_error", "model_not_found"])
def test_a_turn_that_failed_for_what_only_the_operator_can_mend_is_failed(word: str) -> None:
    found = verdict(*at_work(), hook(Fact.TURN_FAILED, 5, error=word), status(Fact.IDLE, 5.1), now=60)
    assert found.state == "failed"
    assert word in found.problem
    again = [*at_work(), hook(Fact.TURN_FAILED, 5, error=word), hook(Fact.TURN_STARTED, 90)]
    assert state(*again, now=90) == "working"


@pytest.mark.parametrize("word", ["server_error", "overloaded", "invalid_request", "unknown", ""])
def test_a_turn_that_failed_for_what_a_word_can_mend_waits_and_names_the_problem(word: str) -> None:
    found = verdict(*at_work(), hook(Fact.TURN_FAILED, 5, error=word), now=HOUR)
    assert (found.state, found.reason) == ("waiting", "turn_end")
    assert (word or "the turn failed") in found.problem


def test_a_turn_ended_by_the_rate_limit_waits_for_it_for_ever() -> None:
    assert state(*at_work(), hook(Fact.TURN_FAILED, 5, error="rate_limit"), now=DAY) == "waiting/rate_limit"


def test_hooks_that_say_ended_and_a_status_long_busy_since_are_unknown_and_both_are_shown() -> None:
    busy = [*finished(at=5), status(Fact.BUSY, 20, seen=60)]
    assert state(*busy, now=25) == "waiting/turn_end"
    found = verdict(*busy, now=61)
    assert found.state == "unknown"
    assert {e.fact for e in found.because} >= {Fact.BUSY, Fact.TURN_ENDED}
    assert found.contradiction
    assert state(*busy, status(Fact.IDLE, 70), now=71) == "waiting/turn_end"


def test_a_status_alone_tells_work_from_waiting_when_no_hook_ever_comes() -> None:
    bare = [said(Source.HUB, Fact.LAUNCHED, 0, prompt=True), status(Fact.IDLE, 0.5), alive(90)]
    assert state(*bare, status(Fact.BUSY, 3), now=91) == "working"
    assert state(*bare, status(Fact.BUSY, 3), status(Fact.IDLE, 40), now=91) == "waiting/turn_end"


def test_evidence_of_the_day_before_does_not_matter_to_a_new_launch() -> None:
    old = [*at_work(), hook(Fact.PERMISSION_ASKED, 3), exited(9, code=1)]
    assert state(*old, *launched(at=DAY, prompt=True), now=DAY + 1) == "starting"


def test_a_lying_date_can_not_outlast_the_truth() -> None:
    forever = admit(said(Source.TRANSCRIPT, Fact.TURN_ENDED, 1000 * DAY, seen=5))
    assert forever.at_ms == ms(5)
    assert state(*at_work(), forever, hook(Fact.TURN_STARTED, 9), now=10) == "working"


def test_data_of_any_shape_is_survived() -> None:
    strange = [
        hook(fact, 5, call=[1], error={}, code="x", pid=None, background={}, prompt="") for fact in Fact
    ]
    for item in strange:
        verdict(*at_work(), item, now=9)
    verdict(*strange, now=9)
    assert verdict(*strange, now=9) == verdict(*reversed(strange), now=9)


def test_an_old_record_that_is_read_late_proves_life_but_decides_nothing() -> None:
    read_late = said(Source.HOOK, Fact.TURN_ENDED, 2, seen=45)
    turn = [*at_work(at=1), hook(Fact.TURN_STARTED, 3), hook(Fact.ACTIVITY, 4)]
    assert state(*turn, now=50) == "unknown"
    assert verdict(*turn, read_late, now=50).since_ms == ms(3)
    assert state(*turn, read_late, now=50) == "working"


def declared(fact: Fact, at: float) -> Evidence:
    """Return what the agent or a person says of the work."""
    return said(Source.DECLARED, fact, at)


def test_done_is_what_somebody_declares_until_a_new_prompt_or_the_word_is_taken_back() -> None:
    done = declared(Fact.DECLARED_DONE, 6)
    assert state(*finished(5), done, now=7) == "done"
    assert state(*at_work(), declared(Fact.DECLARED_DONE, 3), hook(Fact.TURN_ENDED, 5), now=6) == "done"
    assert state(*finished(5), done, hook(Fact.TURN_STARTED, 8), now=9) == "working"
    assert state(*finished(5), done, declared(Fact.DECLARED_OPEN, 8), now=9) == "waiting/turn_end"
    assert state(*finished(5), done, exited(8, code=1), now=9) == "done"


def test_an_agent_that_says_it_needs_a_person_waits_for_one_when_its_turn_ends() -> None:
    needs = declared(Fact.DECLARED_WAITING, 3)
    assert state(*at_work(), needs, now=4) == "working"
    ended = [*at_work(), needs, hook(Fact.TURN_ENDED, 5)]
    assert state(*ended, now=6) == "waiting/question"
    assert verdict(*ended, now=6).because[0] == needs
    assert state(*ended, declared(Fact.DECLARED_OPEN, 7), now=8) == "waiting/turn_end"
    again = [*ended, hook(Fact.TURN_STARTED, 10), hook(Fact.TURN_ENDED, 12)]
    assert state(*again, now=13) == "waiting/turn_end"  # said in an earlier turn
