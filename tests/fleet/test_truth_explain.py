"""The words for a verdict, as ``thopter status NAME`` shows them."""

from __future__ import annotations

import pytest
from evidence_kit import alive, at_work, exited, finished, hook, ms, said, status, verdict
from msgspec import structs

from thopter.fleet.explain import evidence_line, explain, span
from thopter.model.evidence import Fact, Source
from thopter.model.nouns import RunState, WaitReason


def test_work_is_explained_by_its_latest_sign_and_the_signs_of_life() -> None:
    tool = structs.replace(hook(Fact.ACTIVITY, 11), detail="PreToolUse Bash")
    process = said(Source.PROCESS, Fact.PROCESS_ALIVE, 12, pid=100)
    assert explain(verdict(*at_work(at=1), tool, process, alive(12.5), now=13), ms(13)) == [
        "working, since 12 s",
        "hook: at work (PreToolUse Bash), 2 s ago",
        "hook: it took a prompt, 12 s ago",
        "process: its process is alive, 1 s ago",
        "heartbeat: the box answered, 0 s ago",
    ]


def test_waiting_says_for_what_and_failures_say_why() -> None:
    assert explain(verdict(*finished(at=5), now=65), ms(65))[0] == (
        "waiting for you, its turn has ended, since 1 min"
    )
    dead = explain(verdict(*at_work(), exited(9, code=-9), now=3700), ms(3700))
    assert dead[:2] == ["failed, since 1 h", "problem: the agent's process was killed by SIGKILL"]
    assert "process: its process exited (signal 9), 1 h ago" in dead


def test_a_contradiction_shows_both_sides() -> None:
    lines = explain(verdict(*finished(at=5), status(Fact.BUSY, 20, seen=90), now=90), ms(90))
    assert lines[0].startswith("unknown")
    assert lines[1].startswith("contradiction:")
    assert any("status is busy" in x for x in lines)
    assert any("turn ended" in x for x in lines)


@pytest.mark.parametrize("fact", Fact)
def test_every_fact_has_words(fact: Fact) -> None:
    assert evidence_line(hook(fact, 5), ms(6)).startswith("hook: ")


def test_every_state_and_reason_has_a_headline() -> None:
    base = verdict(*finished(at=5), now=6)
    for state in RunState:
        assert explain(structs.replace(base, state=state, reason=None), ms(6))[0].startswith(state.value)
    for reason in WaitReason:
        assert explain(structs.replace(base, reason=reason), ms(6))[0].startswith("waiting for")


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [
        (-5, "0 s"),
        (999, "0 s"),
        (59_999, "59 s"),
        (60_000, "1 min"),
        (7_200_000, "2 h"),
        (172_800_000, "2 d"),
    ],
)
def test_spans_are_told_in_their_largest_unit(milliseconds: int, words: str) -> None:
    assert span(milliseconds) == words
