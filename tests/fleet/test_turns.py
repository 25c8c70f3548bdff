"""Which turn took a question, and what was said last in it: from stored entries and evidence alone."""

from __future__ import annotations

import pytest

from thopter.fleet.turns import answer, end_of_turn, same_words, taken_at
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.nouns import Entry, Role

T = 1_800_000_000_000


def entry(role: Role, text: str, at: float, **more: bool | str) -> Entry:
    return Entry(
        session="s", key=f"{at}{text}", at_ms=T + round(at * 1000), role=role, summary=text, text=text, **more
    )


def end(at: float, fact: Fact = Fact.TURN_ENDED, source: Source = Source.HOOK, **data: object) -> Evidence:
    ms = T + round(at * 1000)
    return Evidence(source=source, fact=fact, at_ms=ms, seen_ms=ms, data=data)


TALK = [
    entry(Role.USER, "first?", 1),
    entry(Role.ASSISTANT, "one", 2),
    entry(Role.USER, "second?", 10),
    entry(Role.ASSISTANT, "let me look", 11),
    entry(Role.TOOL_USE, "", 12, tool="Bash"),
    entry(Role.ASSISTANT, "from a subagent", 12.5, sidechain=True),
    entry(Role.TOOL_RESULT, "2", 13),
    entry(Role.ASSISTANT, "two", 14),
    entry(Role.USER, "third?", 20),
    entry(Role.ASSISTANT, "three", 21),
]
ENDS = [end(3, last="one"), end(15, last="two"), end(22, last="three")]


@pytest.mark.parametrize(
    ("words", "said", "tools"), [("first?", "one", []), ("second?", "two", ["Bash"]), ("third?", "three", [])]
)
def test_each_question_gets_the_last_words_of_its_own_turn(words: str, said: str, tools: list[str]) -> None:
    at, taken_ms = taken_at((words,), TALK, 0)
    over = end_of_turn(ENDS, taken_ms)
    assert over is not None
    found = answer(TALK[at + 1 :], over, 0)
    assert (found.said, found.tools, found.whole) == (said, tools, True)


def test_a_question_put_into_a_running_turn_gets_what_that_turn_ended_with() -> None:
    talk = [*TALK[:6], entry(Role.USER, "and this?", 12.7), *TALK[6:]]
    at, taken_ms = taken_at(("and this?",), talk, 0)
    over = end_of_turn(ENDS, taken_ms)
    assert over is not None and answer(talk[at + 1 :], over, 0).said == "two"


def test_a_transcript_that_lags_behind_its_hook_is_not_whole() -> None:
    found = answer(TALK[3:5], ENDS[1], 0)
    assert (found.said, found.whole) == ("let me look", False)
    assert answer(TALK[3:8], end(15), 0).whole is False  # a hook that does not say what the turn ended with


def test_clocks_that_differ_are_brought_together_by_the_offset() -> None:
    away = 3_600_000
    at, taken_ms = taken_at(("second?",), TALK, away)
    shifted = [end(x.at_ms / 1000 - T / 1000 + away / 1000, last=x.data["last"]) for x in ENDS]
    over = end_of_turn(shifted, taken_ms)
    assert over is not None and answer(TALK[at + 1 :], over, away).said == "two"


def test_a_failure_told_beside_the_end_is_what_ended_the_turn() -> None:
    failed = end(15.1, Fact.TURN_FAILED, error="overloaded")
    found = end_of_turn([*ENDS, failed], T + 10_000)
    assert found is not None and found.fact is Fact.TURN_FAILED
    assert end_of_turn(ENDS, T + 30_000) is None
    told = end_of_turn([end(14.9, source=Source.TRANSCRIPT), ENDS[1]], T + 10_000)
    assert told is not None and told.data == {"last": "two"}


def test_a_message_is_known_again_whatever_a_terminal_did_to_its_space_and_no_other_is() -> None:
    assert same_words("a  b\n\tc", "a b c ")
    assert same_words("\u2800/help me", "/help me")
    assert not same_words("continue with it", "continue")
    assert not same_words("x", "")
    long = "word " * 5000
    assert same_words(long, long[:8000])  # the box cuts what it records
    assert not same_words(long, "other " + long[:8000])
    assert taken_at(("never",), TALK, 0) == (-1, 0)
