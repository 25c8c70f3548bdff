"""Reading hooks, transcripts, status and screens: corner cases, and hostile bytes that must not hurt."""

from __future__ import annotations

import json
import random
from typing import Any

import golden
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thopter.agents.claude import ClaudeAgent
from thopter.agents.claude.parse import SUMMARY_MAX, TEXT_MAX, call_id, moment, one_line, tool_summary
from thopter.model.evidence import Fact
from thopter.model.nouns import Role
from thopter.model.sockets import Reading

CLAUDE = ClaudeAgent()
NOW = 1_796_100_000_000
LINES = [
    line.encode()
    for file in golden.sample_files()
    if file.suffix == ".jsonl" and "hooks" not in file.stem
    for line in file.read_text(encoding="utf-8").splitlines()
]
HOOKS = [
    (f.name.split(".")[0], f.read_bytes()) for f in golden.sample_files() if f.parent.name == "claude-hooks"
]
BASE = {"uuid": "u1", "timestamp": "2026-11-30T06:00:00.500Z", "sessionId": "s1"}
AT = 1_796_018_400_500


def transcript(**fields: Any) -> Reading:
    return CLAUDE.read_transcript("-work/s1.jsonl", json.dumps(BASE | fields).encode(), NOW)


def hook(event: str, **fields: Any) -> Reading:
    return CLAUDE.read_hook(event, json.dumps({"session_id": "s1", **fields}).encode(), AT, NOW)


def facts(reading: Reading) -> list[Fact]:
    return [e.fact for e in reading.evidence]


def sound(reading: Reading) -> None:
    """What holds for every reading, whatever came in."""
    for entry in reading.entries:
        assert len(entry.summary) <= SUMMARY_MAX
        assert "\n" not in entry.summary
        assert len(entry.text) <= TEXT_MAX + 60
        assert entry.key
        assert 0 < entry.at_ms <= NOW
        entry.text.encode()
        entry.summary.encode()
    for evidence in reading.evidence:
        assert 0 < evidence.at_ms <= NOW
        assert len(evidence.detail) <= SUMMARY_MAX
        assert "\n" not in evidence.detail
        json.dumps(evidence.data).encode()
    reading.receipt.encode()
    reading.problem.encode()


# ----------------------------------------------------------------------------------------- transcript


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b'{"type":"user"', b"[" * 100_000]
)
def test_a_torn_or_foreign_line_is_a_problem_and_nothing_else(raw: bytes) -> None:
    reading = CLAUDE.read_transcript("p/s.jsonl", raw, NOW)
    assert reading.problem
    assert reading.entries == reading.evidence == ()


def test_a_line_without_a_time_is_counted_and_not_guessed() -> None:
    for time in (None, "yesterday", True, "9999-99-99T00:00:00Z", [], "0001-01-01T00:00:00Z"):
        reading = transcript(type="user", message={"content": "hi"}, timestamp=time)
        assert reading.problem == "transcript line: it has no time"
        assert reading.entries == ()


def test_a_line_dated_into_the_future_is_dated_to_its_reading() -> None:
    reading = transcript(type="user", message={"content": "hi"}, timestamp="2099-01-01T00:00:00Z")
    assert [e.at_ms for e in reading.entries] == [NOW]


def test_kinds_that_only_serve_the_program_say_nothing() -> None:
    for kind in (
        "mode",
        "file-history-snapshot",
        "api-request-blob",
        "ai-title",
        "made-up-tomorrow",
        None,
        7,
    ):
        assert transcript(type=kind) == Reading(session="s1")


def test_one_line_with_several_blocks_gives_one_entry_a_block_with_keys_of_their_own() -> None:
    content = [
        {"type": "text", "text": "first"},
        {"type": "thinking", "thinking": "secret thoughts"},
        {"type": "tool_use", "name": "Bash", "input": {"command": "ls"}},
        {"type": "text", "text": "   "},
    ]
    reading = transcript(type="assistant", message={"content": content})
    assert [(e.key, e.role, e.summary) for e in reading.entries] == [
        ("u1:0", Role.ASSISTANT, "first"),
        ("u1:2", Role.TOOL_USE, "Bash: ls"),
    ]
    assert not any("secret" in e.text for e in reading.entries)


def test_a_tool_result_of_blocks_is_told_with_its_error() -> None:
    content = [
        {
            "type": "tool_result",
            "is_error": True,
            "content": [
                {"type": "text", "text": "one"},
                {"type": "image", "source": {}},
                {"type": "text", "text": "two"},
            ],
        }
    ]
    reading = transcript(type="user", message={"content": content})
    (entry,) = reading.entries
    assert (entry.role, entry.text, entry.is_error) == (Role.TOOL_RESULT, "one\n[image]\ntwo", True)
    assert facts(reading) == [Fact.ACTIVITY]
    assert reading.receipt == ""


def test_a_person_who_begins_with_a_tag_is_still_a_person() -> None:
    reading = transcript(type="user", message={"content": "<b>bold</b> please"})
    assert [e.role for e in reading.entries] == [Role.USER]
    assert reading.receipt == "<b>bold</b> please"


@pytest.mark.parametrize(
    "said",
    [
        "<command-name>/compact</command-name>",
        "<local-command-stdout>x</local-command-stdout>",
        "<bash-input>ls</bash-input>",
    ],
)
def test_what_the_program_writes_in_the_users_place_is_not_the_users(said: str) -> None:
    reading = transcript(type="user", message={"content": said})
    assert [e.role for e in reading.entries] == [Role.SYSTEM]
    assert (reading.receipt, reading.evidence) == ("", ())


def test_meta_lines_are_system_entries() -> None:
    reading = transcript(type="user", isMeta=True, message={"content": "context for the model"})
    assert [e.role for e in reading.entries] == [Role.SYSTEM]
    assert (reading.receipt, reading.evidence) == ("", ())


def test_pasted_content_is_the_users_words() -> None:
    said = '\n\n<pasted_content id="44ee">\nline one\nline two\n</pasted_content id="44ee">\n'
    reading = transcript(type="user", message={"content": said})
    assert reading.receipt.strip() == "line one\nline two"
    assert reading.entries[0].text.strip() == "line one\nline two"


def test_a_subagent_has_no_turns_and_gives_no_receipts() -> None:
    raw = json.dumps(BASE | {"type": "user", "message": {"content": "do it"}}).encode()
    reading = CLAUDE.read_transcript("-work/s1/subagents/agent-a.jsonl", raw, NOW)
    assert [e.sidechain for e in reading.entries] == [True]
    assert (reading.evidence, reading.receipt, reading.session) == ((), "", "s1")


def test_the_session_is_known_from_the_file_when_the_line_does_not_say() -> None:
    raw = json.dumps({"type": "mode"}).encode()
    assert CLAUDE.read_transcript("-work/abc.jsonl", raw, NOW).session == "abc"
    assert CLAUDE.read_transcript("-work/abc/subagents/agent-a.jsonl", raw, NOW).session == "abc"


def test_an_enormous_result_is_cut_and_says_so() -> None:
    content = [{"type": "tool_result", "content": "x" * 3_000_000}]
    (entry,) = transcript(type="user", message={"content": content}).entries
    assert entry.text.endswith(f"… ({3_000_000 - TEXT_MAX} more characters)")
    assert len(entry.summary) == SUMMARY_MAX


def test_a_cut_emoji_does_not_spoil_the_line() -> None:
    raw = json.dumps(BASE | {"type": "user", "message": {"content": "half \ud83c"}}).encode()
    reading = CLAUDE.read_transcript("p/s.jsonl", raw, NOW)
    assert reading.entries[0].text == "half ?"
    sound(reading)


# ---------------------------------------------------------------------------------------------- hooks


def test_an_unknown_hook_is_counted() -> None:
    reading = hook("BrandNewEvent")
    assert reading.problem == "hook BrandNewEvent is not known"
    assert reading.evidence == ()


def test_leaving_is_told_from_going_on() -> None:
    assert facts(hook("SessionEnd", reason="clear")) == []
    assert facts(hook("SessionEnd", reason="resume")) == []
    assert facts(hook("SessionEnd", reason="logout")) == [Fact.SESSION_ENDED]
    assert facts(hook("SessionEnd")) == [Fact.SESSION_ENDED]


def test_a_finished_background_task_does_not_count_as_going_on() -> None:
    tasks = [{"status": "running"}, {"status": "completed"}, "odd", {"status": "pending"}]
    (ended,) = hook("Stop", background_tasks=tasks).evidence
    assert ended.data == {"background": 2}
    (ended,) = hook("Stop", background_tasks=[{"status": "completed"}]).evidence
    assert ended.data == {}


def test_a_prompt_that_boxd_cut_is_still_a_receipt_of_its_beginning() -> None:
    assert hook("UserPromptSubmit", prompt="long words …[cut]").receipt == "long words "


def test_a_stop_inside_a_subagent_ends_no_turn() -> None:
    assert facts(hook("Stop", agent_id="a1")) == [Fact.ACTIVITY]
    assert facts(hook("StopFailure", agent_id="a1", error="rate_limit")) == [Fact.ACTIVITY]


def test_a_call_is_the_same_with_a_relative_path_and_with_answers() -> None:
    absolute = call_id("Write", {"file_path": "/w/a.txt", "content": "x"}, "/w")
    assert call_id("Write", {"file_path": "a.txt", "content": "x"}, "/w") == absolute
    assert call_id("Write", {"file_path": "./b/../a.txt", "content": "x"}, "/w") == absolute
    assert call_id("Write", {"file_path": "b.txt", "content": "x"}, "/w") != absolute
    asked = {"questions": [{"question": "q"}]}
    assert call_id("AskUserQuestion", asked, "") == call_id(
        "AskUserQuestion", {**asked, "answers": {"q": "a"}}, ""
    )


def test_a_call_is_the_same_when_boxd_has_cut_a_long_text_in_it() -> None:
    whole = {"file_path": "/a", "content": "y" * 90_000}
    cut = {"file_path": "/a", "content": "y" * 6000 + "…[cut]"}
    assert call_id("Write", whole, "/") == call_id("Write", cut, "/")


@pytest.mark.parametrize(
    ("tool", "given", "said"),
    [
        ("Read", {"file_path": "/a b"}, "Read: /a b"),
        ("Edit", {"file_path": "x", "old_string": "o"}, "Edit: x"),
        ("Bash", {"command": "echo  a\n b" + "c" * 200}, "Bash: echo a b" + "c" * 111 + "…"),
        ("Glob", {"pattern": "**/*.py"}, "Glob: **/*.py"),
        ("Grep", {"pattern": "p", "path": "src"}, "Grep: p in src"),
        ("Grep", {"pattern": "p"}, "Grep: p"),
        ("WebFetch", {"url": "https://x"}, "WebFetch: https://x"),
        ("Task", {"description": "d"}, "Task: d"),
        ("Agent", {"description": "d"}, "Agent: d"),
        ("mcp__x__y", {"a": 1}, 'mcp__x__y: {"a": 1}'),
        ("Read", {"file_path": 7}, 'Read: {"file_path": 7}'),
        ("Odd", None, "Odd: {}"),
    ],
)
def test_a_tool_call_in_one_line(tool: str, given: Any, said: str) -> None:
    assert tool_summary(tool, given) == said


# --------------------------------------------------------------------------------------------- status


def status(**fields: Any) -> Reading:
    data = {"sessionId": "s1", "kind": "interactive", "statusUpdatedAt": AT, **fields}
    return CLAUDE.read_status("7.json", json.dumps(data).encode(), NOW)


def test_a_status_is_dated_from_when_it_began() -> None:
    (evidence,) = status(status="idle").evidence
    assert (evidence.fact, evidence.at_ms, evidence.seen_ms) == (Fact.IDLE, AT, NOW)


def test_every_status_that_is_known() -> None:
    assert facts(status(status="busy")) == [Fact.BUSY]
    assert facts(status(status="shell")) == [Fact.IDLE]
    assert facts(status(status="waiting", waitingFor="permission prompt")) == [Fact.PERMISSION_ASKED]
    assert facts(status(status="waiting", waitingFor="input needed")) == [Fact.QUESTION_ASKED]
    assert facts(status(status="waiting")) == [Fact.PERMISSION_ASKED]


def test_a_status_that_cannot_be_used_is_a_problem() -> None:
    assert status(status="dreaming").problem
    assert status(status="idle", statusUpdatedAt="soon", updatedAt=None).problem
    assert CLAUDE.read_status("7.json", b'{"sessionId": "s1', NOW).problem


def test_a_nested_run_without_a_terminal_says_nothing_about_the_agent() -> None:
    assert status(status="busy", kind="print") == Reading(session="s1")


# ----------------------------------------------------------------------------------------------- fuzz


@given(st.binary(max_size=400), st.text(max_size=30))
def test_arbitrary_bytes_never_hurt(raw: bytes, name: str) -> None:
    for reading in (
        CLAUDE.read_transcript(name, raw, NOW),
        CLAUDE.read_hook(name, raw, AT, NOW),
        CLAUDE.read_status(name, raw, NOW),
        CLAUDE.read_screen(raw.decode("utf-8", "replace"), NOW),
    ):
        sound(reading)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
_KEYS = sorted(
    {k for line in LINES for k in json.loads(line)} | {k for _, body in HOOKS for k in json.loads(body)}
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict):
        found += [p for k, v in value.items() for p in _places(v, (*path, k))]
    elif isinstance(value, list):
        found += [p for i, v in enumerate(value) for p in _places(v, (*path, i))]
    return found


def _changed(raw: bytes, dice: random.Random, put: Any) -> bytes:
    """A sample with one place replaced, removed or renamed."""
    data = json.loads(raw)
    path = dice.choice(_places(data)[1:])
    holder = data
    for step in path[:-1]:
        holder = holder[step]
    if dice.random() < 0.3 and isinstance(holder, dict):
        holder[dice.choice(_KEYS)] = holder.pop(path[-1])
    elif dice.random() < 0.2:
        del holder[path[-1]]
    else:
        holder[path[-1]] = put
    return json.dumps(data).encode()


@settings(max_examples=300)
@given(st.randoms(use_true_random=False), _JSON)
def test_changed_samples_never_hurt(dice: random.Random, put: Any) -> None:
    sound(CLAUDE.read_transcript("-work/s.jsonl", _changed(dice.choice(LINES), dice, put), NOW))
    event, body = dice.choice(HOOKS)
    sound(CLAUDE.read_hook(event, _changed(body, dice, put), AT, NOW))


@given(st.sampled_from(LINES), st.integers(min_value=0, max_value=4000))
def test_torn_samples_never_hurt(line: bytes, cut: int) -> None:
    sound(CLAUDE.read_transcript("-work/s.jsonl", line[:cut], NOW))


@given(st.text(), st.integers(min_value=1, max_value=50))
def test_one_line_is_one_short_line(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert not set(line) & set("\n\r\t\x1b\x00")


@given(st.text(max_size=45) | st.floats() | st.integers() | st.booleans() | st.none())
def test_a_moment_is_a_positive_time_or_none(value: Any) -> None:
    found = moment(value)
    assert found is None or 0 < found < 1e15
