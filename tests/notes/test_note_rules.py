"""Which situations ring, by table and by property: one note an episode, held for a stated reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thopter.fleet.note_rules import Rules, Situation, prompted_ms, ring, rules_of, shown_ms, write
from thopter.kit.settings import Settings, parse
from thopter.model.errors import BadInput
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.notes import CHOICES, NoteKind
from thopter.model.nouns import BoxState, RunState, WaitReason

NOW = 1_800_000_000_000
ALL = Rules(on=frozenset(NoteKind))
WORKING, WAITING, UNKNOWN = RunState.WORKING, RunState.WAITING, RunState.UNKNOWN


def at(state: RunState, reason: WaitReason | None = None, **more: object) -> Situation:
    given: dict[str, object] = {"run": "run_1", "at_ms": NOW, "since_ms": NOW - 1000, "shown_ms": NOW}
    return Situation(state=state, reason=reason, **{**given, **more})  # type: ignore[arg-type]


def settings(**given: object) -> Settings:
    return Settings({f"notify.{k}": parse(f"notify.{k}", v, "test") for k, v in given.items()})


@pytest.mark.parametrize(
    ("situation", "kind"),
    [
        (at(WAITING, WaitReason.PERMISSION), NoteKind.WAITING_PERMISSION),
        (at(WAITING, WaitReason.QUESTION), NoteKind.WAITING_QUESTION),
        (at(WAITING, WaitReason.TURN_END), NoteKind.TURN_END),
        (at(WAITING, WaitReason.RATE_LIMIT), NoteKind.RATE_LIMIT),
        (at(RunState.DONE), NoteKind.DONE),
        (at(RunState.FAILED), NoteKind.FAILED),
        (at(RunState.STOPPED), NoteKind.STOPPED),
        (at(RunState.QUEUED), None),
        (at(WORKING), None),
        (at(WORKING, shown_ms=NOW - 599_000), None),
        (at(WORKING, shown_ms=NOW - 600_000), NoteKind.STUCK),
        (at(UNKNOWN, shown_ms=NOW - 600_000, recorded_ms=NOW), NoteKind.STUCK),
        (at(WORKING, shown_ms=NOW - 600_000, box_state=BoxState.FROZEN), None),
        (at(WORKING, shown_ms=NOW - 600_000, answers=False), None),
        (at(WORKING, shown_ms=0), None),
        (at(UNKNOWN, recorded_ms=NOW - 299_000), None),
        (at(UNKNOWN, recorded_ms=NOW - 300_000), NoteKind.UNKNOWN),
        (at(UNKNOWN, recorded_ms=NOW - 300_000, box_state=BoxState.LOST), NoteKind.UNKNOWN),
        (at(UNKNOWN, recorded_ms=NOW - 300_000, box_state=BoxState.SUSPENDED), None),
    ],
)
def test_what_rings(situation: Situation, kind: NoteKind | None) -> None:
    found = ring(situation, ALL)
    assert (found.kind if found else None) == kind
    if found is not None:
        assert found.held == ""
        assert ring(situation, Rules(on=frozenset(NoteKind) - {found.kind})) is None


@pytest.mark.parametrize(
    ("more", "held"),
    [
        ({"muted": True}, "muted"),
        ({"people": 1}, "somebody is at its terminal"),
        ({"over": True}, "over before it could be sent"),
        ({"prompted_ms": NOW - 29_000}, "within 30 s of your message"),
        ({"prompted_ms": NOW - 30_000}, ""),
    ],
)
def test_what_holds_a_note_back(more: dict[str, object], held: str) -> None:
    found = ring(at(WAITING, WaitReason.TURN_END, **more), ALL)
    assert found is not None
    assert found.held == held


def test_a_question_rings_however_fresh_the_message_was() -> None:
    found = ring(at(WAITING, WaitReason.PERMISSION, prompted_ms=NOW), ALL)
    assert found is not None
    assert found.held == ""


def test_a_quiet_period_of_nothing_holds_nothing() -> None:
    rules = rules_of(settings(quiet_seconds=0))
    found = ring(at(WAITING, WaitReason.TURN_END, prompted_ms=NOW), rules)
    assert found is not None
    assert found.held == ""


def test_only_a_persons_prompt_counts_for_the_quiet_period() -> None:
    def said(source: Source, fact: Fact, at_ms: int, detail: str = "") -> Evidence:
        return Evidence(source=source, fact=fact, at_ms=at_ms, seen_ms=at_ms, detail=detail)

    evidence = [
        said(Source.HOOK, Fact.TURN_STARTED, 1000),
        said(Source.HOOK, Fact.ACTIVITY, 9000, "Bash"),  # a tool's result, of type "user" in a transcript
        said(Source.TRANSCRIPT, Fact.ACTIVITY, 9500),
        said(Source.HOOK, Fact.TURN_STARTED, 9600, "task notification"),
        said(Source.SCREEN, Fact.BUSY, 9900),
    ]
    assert prompted_ms(evidence) == 1000
    assert shown_ms(evidence) == 9600
    assert prompted_ms([]) == shown_ms([]) == 0


def test_the_old_switch_turns_off_ends_of_turns_only() -> None:
    rules = rules_of(settings(stop=False))
    assert NoteKind.TURN_END not in rules.on
    assert NoteKind.WAITING_QUESTION in rules.on
    assert rules_of(settings(on="")).on == frozenset()
    with pytest.raises(BadInput, match="which means nothing"):
        settings(on="done,lunch")


def test_being_attached_may_be_told_to_matter_not() -> None:
    found = ring(at(RunState.FAILED, people=2), rules_of(settings(when_attached=True)))
    assert found is not None
    assert found.held == ""


situations = st.builds(
    Situation,
    run=st.just("run_1"),
    at_ms=st.integers(NOW, NOW + 10**7),
    state=st.sampled_from(RunState),
    reason=st.none() | st.sampled_from(WaitReason),
    since_ms=st.integers(NOW - 10**7, NOW),
    recorded_ms=st.integers(NOW - 10**7, NOW),
    prompted_ms=st.integers(0, NOW),
    shown_ms=st.integers(0, NOW),
    box_state=st.sampled_from(BoxState),
    answers=st.booleans(),
    people=st.integers(0, 2),
    muted=st.booleans(),
    over=st.booleans(),
)
rules = st.builds(
    Rules,
    on=st.frozensets(st.sampled_from(NoteKind)),
    quiet_ms=st.integers(0, 10**6),
    stuck_ms=st.integers(0, 10**6),
    unknown_ms=st.integers(0, 10**6),
    when_attached=st.booleans(),
)


@given(situations, rules, st.integers(0, 10**8))
def test_time_alone_never_makes_a_second_note_of_one_episode(s: Situation, r: Rules, later: int) -> None:
    import msgspec

    now, then = ring(s, r), ring(msgspec.structs.replace(s, at_ms=s.at_ms + later), r)
    if now is not None:
        assert then is not None
        assert then.key == now.key or now.kind is NoteKind.UNKNOWN  # a silence can turn out to be stuck


@given(situations, rules)
def test_who_is_there_or_muted_is_not_rung(s: Situation, r: Rules) -> None:
    found = ring(s, r)
    if found is not None:
        assert found.kind in r.on
        if s.muted or (s.people and not r.when_attached):
            assert found.held


@given(st.text(), st.text(), st.sampled_from(NoteKind))
def test_a_letter_is_safe_whatever_a_box_says(detail: str, task: str, kind: NoteKind) -> None:
    letter = write(kind, settings(title="{name} {what} {task}", click="https://x/{name}"), {
        "name": "heron", "detail": detail, "task": task,
    })  # fmt: skip
    for text in (letter.title, letter.body, letter.tags, letter.click):
        assert text.isprintable()
    assert len(letter.title) <= 120
    assert len(letter.body) <= 500
    assert letter.title.startswith("heron")
    assert letter.click == "https://x/heron"


def test_what_is_put_in_is_not_read_as_a_pattern_and_secrets_are_taken_out() -> None:
    words = {"name": "heron", "detail": "{task} key sk-ant-api03-abcdefghijklmnop \x1b]8;;http://evil\x07x"}
    letter = write(NoteKind.FAILED, settings(text="{detail} {unknown} {"), words | {"task": "T"})
    assert letter.body == "{task} key [hidden] x {unknown} {"
    assert letter.title == "heron has failed"
    assert (letter.priority, letter.tags) == ("high", "x")


def test_priority_tags_and_title_are_settings() -> None:
    chosen = settings(priority="min", tags="work, me", title="T {name}: {what} in {repo}")
    letter = write(NoteKind.DONE, chosen, {"name": "a", "repo": "/srv/p", "detail": "x"})
    assert letter.title == "T a: is done in /srv/p"
    assert (letter.priority, letter.tags) == ("min", "white_check_mark,work,me")


def test_every_kind_but_a_test_can_be_chosen() -> None:
    assert set(CHOICES) == {k.value for k in NoteKind} - {"test"}
    assert parse("notify.on", " done , failed ", "x").value == " done , failed "
