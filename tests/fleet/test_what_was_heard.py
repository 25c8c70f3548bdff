"""Which messages a conversation holds, and which ended lives were in the middle of their work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thopter.fleet.heard import Said, heard_in, in_turn
from thopter.fleet.unsent import ended_in_work
from thopter.model.evidence import Evidence, Fact, Source
from thopter.store.talk import Letter, Outcome


def letter(key: str, text: str, sent: int = 10, entries: int = 0, **more: Any) -> Letter:
    more = {"kind": "said", "state": "delivered", "ordinal": sent} | more
    return Letter(
        id=key, box="b", run="r", text=text, created_ms=sent, changed_ms=sent, sent_ms=sent,
        entries=entries, outcome=Outcome(receipt="queued"), **more,
    )  # fmt: skip


def prompts(*texts: str, first: int = 1) -> list[Said]:
    return [Said(ordinal=first + n, at_ms=20 + n, text=t) for n, t in enumerate(texts)]


def heard(letters: Sequence[Letter], said: Sequence[Said]) -> set[str]:
    return heard_in(letters, said, lambda x: (x.text, "⠀" + x.text))


def test_a_message_in_the_conversation_is_heard_whatever_its_white_space() -> None:
    assert heard([letter("a", "go  on\nnow")], prompts("go on now")) == {"a"}
    assert heard([letter("a", "/clear")], prompts("⠀/clear")) == {"a"}


def test_words_within_other_words_are_not_the_message() -> None:
    assert heard([letter("a", "go")], prompts("good morning", "let it go", "go on")) == set()


def test_one_prompt_answers_for_one_message_only() -> None:
    twice = [letter("a", "go on", 10), letter("b", "go on", 11)]
    assert heard(twice, prompts("go on")) == {"a"}
    assert heard(twice, prompts("go on", "go on")) == {"a", "b"}


def test_a_heard_message_keeps_its_prompt_when_its_twin_is_looked_for() -> None:
    old = letter("a", "go on", 10, heard_ms=15)
    assert heard([letter("b", "go on", 11), old], prompts("go on")) == {"a"}


def test_a_prompt_from_before_the_message_was_sent_is_not_it() -> None:
    assert heard([letter("a", "go on", entries=3)], prompts("go on", first=3)) == set()
    assert heard([letter("a", "go on", entries=3)], prompts("go on", first=4)) == {"a"}


def test_several_that_were_queued_come_as_one_prompt() -> None:
    queued = [letter("a", "note 1", 10), letter("b", "note 2\nand 3", 11), letter("c", "note 4", 12)]
    assert heard(queued, prompts("note 1\nnote 2\nand 3")) == {"a", "b"}
    assert heard([letter("a", "note 1"), letter("b", "note 1", 11)], prompts("note 1\nnote 1")) == {"a", "b"}


def test_a_message_that_waits_again_claims_no_prompt() -> None:
    waiting = letter("a", "go on", 10, state="queued")
    assert heard([waiting, letter("b", "go on", 11)], prompts("go on")) == {"b"}


def test_the_copied_past_of_a_fork_does_not_answer_for_its_prompt() -> None:
    begun = letter("p", "go on", 60_000, kind="prompt")
    assert heard([begun], prompts("go on")) == set()
    assert heard([begun], [Said(ordinal=9, at_ms=60_200, text="go on")]) == {"p"}


def test_a_long_message_may_show_cut() -> None:
    assert heard([letter("a", "word " * 1000)], prompts("word " * 400)) == {"a"}


def test_going_on_comes_first_then_what_was_said_before_then_the_rest() -> None:
    rest = letter("new", "x", 0, state="queued", ordinal=1)
    first, second = letter("a", "x", 10, ordinal=7), letter("b", "x", 11, ordinal=6)
    go = letter("g", "x", 0, kind="go_on", ordinal=9)
    assert [x.id for x in in_turn([rest, second, go, first])] == ["g", "a", "b", "new"]


# ------------------------------------------------------------------------------------ cut short


def fact(what: Fact, at: int, source: Source = Source.HOOK, **data: Any) -> Evidence:
    return Evidence(source=source, fact=what, at_ms=at, seen_ms=at, data=data)


LIFE = [fact(Fact.LAUNCHED, 1_000, Source.HUB), fact(Fact.SESSION_STARTED, 2_000)]
AT_WORK = [*LIFE, fact(Fact.TURN_STARTED, 10_000), fact(Fact.ACTIVITY, 12_000, tool="Bash")]
DIED = fact(Fact.PROCESS_EXITED, 15_000, Source.PROCESS, code=-9)


def test_a_death_in_the_middle_of_a_turn_is_told_from_one_at_rest() -> None:
    assert ended_in_work([*AT_WORK, DIED]) is not None
    assert ended_in_work([*AT_WORK, fact(Fact.TURN_ENDED, 14_000), DIED]) is None
    assert ended_in_work([*LIFE, DIED]) is None


def test_a_turn_that_a_person_interrupted_is_over() -> None:
    told = fact(Fact.INTERRUPTED, 14_000, Source.TRANSCRIPT)
    shown = fact(Fact.IDLE, 14_000, Source.SCREEN)
    assert ended_in_work([*AT_WORK, told, DIED]) is None
    assert ended_in_work([*AT_WORK, shown, DIED]) is None


def test_who_stopped_the_agent_does_not_want_it_to_go_on_but_who_put_it_to_sleep_does() -> None:
    stop = fact(Fact.STOP_REQUESTED, 14_000, Source.HUB)
    sleep = fact(Fact.STOP_REQUESTED, 14_000, Source.HUB, pause=True)
    left = fact(Fact.SESSION_ENDED, 14_000, reason="prompt_input_exit")
    assert ended_in_work([*AT_WORK, stop, DIED]) is None
    assert ended_in_work([*AT_WORK, left, DIED]) is None
    assert ended_in_work([*AT_WORK, sleep, DIED]) is not None


def test_only_the_life_that_ended_last_counts() -> None:
    again = [fact(Fact.LAUNCHED, 20_000, Source.HUB), fact(Fact.SESSION_STARTED, 21_000)]
    assert ended_in_work([*AT_WORK, DIED, *again]) is None, "the second life had no turn"


def test_an_open_dialog_is_work_that_was_cut_short() -> None:
    assert ended_in_work([*AT_WORK, fact(Fact.PERMISSION_ASKED, 13_000, tool="Bash"), DIED]) is not None
