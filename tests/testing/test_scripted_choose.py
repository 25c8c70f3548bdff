"""Which script answers, and at which turn: from the conversation alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thopter.model.errors import BadInput
from thopter.testing.scripted_model import Scenario, load_scenario, parse_scenario
from thopter.testing.scripted_model.choose import Choice, choose, prompts

TOOLS = [{"name": "Bash"}]
MID = "The user sent a new message while you were working:\n"


def turns(*words: str, tool_last: bool = False) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [{"say": w, "tools": [{"name": "T"}]} for w in words]
    if not tool_last:
        made[-1].pop("tools")
    return made


SCENARIO = parse_scenario(
    {
        "script": [
            {
                "name": "aside",
                "match": r"stop, do (?P<what>.+?) first",
                "resume": True,
                "turns": turns("a1", "a2", "a3"),
            },
            {"name": "later", "match": "readme", "after": ["job"], "turns": turns("l1")},
            {"name": "job", "match": "json flag", "turns": turns("j1", "j2", "j3", "j4")},
            {"name": "other", "turns": turns("o1", "o2")},
        ],
        "default": [{"say": "d1 ${prompt}"}, {"say": "d2"}],
    },
    "test",
)


def user(*texts: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": t} for t in texts]}


def result(*texts: str) -> dict[str, Any]:
    return {
        "role": "user",
        "content": [
            {"type": "tool_result", "content": "done"},
            *({"type": "text", "text": t} for t in texts),
        ],
    }


def said(text: str = "x") -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def pick(*messages: dict[str, Any], scenario: Scenario = SCENARIO, **body: Any) -> Choice:
    return choose(scenario, {"messages": list(messages), "tools": TOOLS, **body})


def at(choice: Choice) -> tuple[str, int]:
    return choice.script, choice.number


def test_a_marker_picks_a_script_and_assistant_messages_count_its_turns() -> None:
    assert at(pick(user("please script:other now"))) == ("other", 0)
    assert at(pick(user("script:other"), said(), result())) == ("other", 1)


def test_the_words_of_a_prompt_pick_a_script_whatever_their_case() -> None:
    assert at(pick(user("add a JSON Flag please"))) == ("job", 0)


def test_a_marker_wins_over_words() -> None:
    assert at(pick(user("script:other for the json flag"))) == ("other", 0)


def test_the_newest_prompt_wins() -> None:
    talk = (user("json flag"), said(), result(), said(), user("script:other"))
    assert at(pick(*talk)) == ("other", 0)
    assert at(pick(*talk, said(), result())) == ("other", 1)


def test_a_script_may_need_another_before_it() -> None:
    assert at(pick(user("readme please"))) == ("", 0)
    assert at(pick(user("json flag"), said(), result(), user("readme please"))) == ("later", 0)


def test_a_prompt_that_no_script_claims_lets_the_one_under_way_go_on() -> None:
    assert at(pick(user("json flag"), said(), result(), user("hurry up"))) == ("job", 1)


def test_when_all_is_played_the_default_answers_and_counts_for_itself() -> None:
    talk = (user("script:other"), said(), result(), said(), user("thanks"))
    assert at(pick(*talk)) == ("", 0)
    assert at(pick(*talk, said(), user("and again"))) == ("", 0)
    assert pick(*talk, said()).number == 1
    assert pick(*talk, said(), said(), said()).number == 1


def test_an_aside_goes_back_to_what_it_interrupted() -> None:
    talk = [user("json flag"), said(), result(), said(), result(), user("stop, do the dishes first")]
    found = []
    for _ in range(4):
        choice = pick(*talk)
        found.append(at(choice))
        talk += [said(), result()]
    assert found == [("aside", 0), ("aside", 1), ("job", 2), ("job", 3)]
    assert pick(*talk[:6]).words["what"] == "the dishes"


def test_an_aside_says_its_closing_words_when_there_is_nothing_to_go_back_to() -> None:
    talk = [user("stop, do it first")]
    found = []
    for _ in range(4):
        found.append(at(pick(*talk)))
        talk += [said(), result()]
    assert found == [("aside", 0), ("aside", 1), ("aside", 2), ("", 1)]


def test_an_interrupted_answer_is_played_again() -> None:
    cut = user("[Request interrupted by user]", "go on")
    assert at(pick(user("json flag"), said(), result(), said("half an ans"), cut)) == ("job", 1)
    tool_cut = result("[Request interrupted by user for tool use]")
    assert at(pick(user("json flag"), said(), tool_cut, user("go on"))) == ("job", 0)


@pytest.mark.parametrize(
    "injected",
    [
        result(MID + "script:other\n\nThis is how Claude Code surfaces messages the user sends mid-turn."),
        {
            "role": "system",
            "content": MID + "script:other\n\nIMPORTANT: After completing your current task, you MUST",
        },
        user(f"<system-reminder>\n{MID}script:other\n</system-reminder>"),
    ],
    ids=["beside a result", "as a system message", "as a reminder"],
)
def test_a_message_sent_in_mid_turn_counts_as_a_prompt(injected: dict[str, Any]) -> None:
    talk = (user("json flag"), said(), injected)
    assert at(pick(*talk)) == ("other", 0)
    assert prompts({"messages": list(talk)})[-1].text == "script:other"


def test_reminders_results_and_system_messages_are_no_prompts() -> None:
    talk = [
        user("<system-reminder>script:job is a marker</system-reminder>", "hello"),
        {"role": "system", "content": "script:job"},
        said("script:job"),
        {"role": "user", "content": [{"type": "tool_result", "content": "script:job"}]},
    ]
    assert [p.text for p in prompts({"messages": talk})] == ["hello"]


def test_pasted_words_are_the_words() -> None:
    wrapped = '\n<pasted_content id="44ee">\nline one\nline two\n</pasted_content id="44ee">\n'
    assert prompts({"messages": [user(wrapped)]})[-1].text == "line one\nline two"


def test_a_request_without_tools_is_a_side_request() -> None:
    assert pick(user("json flag"), tools=[]).side
    assert not pick(user("json flag")).side


def test_the_folder_of_the_client_is_known() -> None:
    system = [{"type": "text", "text": " - Primary working directory: /work/report\n - more"}]
    assert pick(user("x"), system=system).words["cwd"] == "/work/report"
    beside = {"role": "system", "content": "# Environment\n - Primary working directory: /w/two\n"}
    assert pick(user("x"), beside).words["cwd"] == "/w/two"
    assert pick(user("x")).words["cwd"] == "."


def test_an_unknown_script_is_an_error_that_names_the_known() -> None:
    with pytest.raises(BadInput, match=r"no script 'nope' \(known: aside, later, job, other\)"):
        pick(user("script:nope"))


@pytest.mark.parametrize("body", [{}, {"messages": None}, {"messages": ["x"]}, {"messages": {}}])
def test_what_is_no_conversation_is_an_error(body: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="messages"):
        choose(SCENARIO, body)


_TEXT = st.sampled_from(
    ["json flag", "stop, do x first", "readme", "hm", "[Request interrupted by user]", "script:other"]
)
_MESSAGE = st.one_of(
    st.lists(_TEXT, min_size=1, max_size=3).map(lambda t: user(*t)), st.just(said()), st.just(result())
)


@given(st.lists(_MESSAGE, max_size=20))
def test_any_conversation_has_an_answer_and_always_the_same(messages: list[dict[str, Any]]) -> None:
    choice = pick(*messages)
    assert choice == pick(*messages)
    script = SCENARIO.find(choice.script) if choice.script else None
    known = script.turns if script else SCENARIO.default
    assert choice.turn is known[choice.number]


@pytest.mark.parametrize("prompt_text", ["also update the README", "stop, do X first"])
def test_the_demo_knows_what_people_say_meanwhile(prompt_text: str) -> None:
    demo = load_scenario("demo")
    talk = (user("add a --json flag to the report command and test it"), said(), result(), user(prompt_text))
    choice = pick(*talk, scenario=demo)
    assert choice.script in ("readme-json", "first")
    assert choice.number == 0
