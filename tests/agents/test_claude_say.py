"""What is pressed to say something: pure, without a program."""

from __future__ import annotations

import json
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thopter.agents.claude import ClaudeAgent
from thopter.agents.claude.clean import own_words
from thopter.agents.claude.keys import SAY_MAX, TYPED_MAX
from thopter.model.errors import BadInput
from thopter.model.sockets import Keys

CLAUDE = ClaudeAgent()


def typed(steps: tuple[Keys, ...]) -> str:
    """The text that these steps enter, checked for how they enter it."""
    out: list[str] = []
    burst = 0
    for step in steps[1:-1]:
        assert [bool(step.text), bool(step.paste), bool(step.keys)].count(True) == 1
        if step.text:
            burst += len(step.text)
            assert burst <= 800, "what is read at once would count as pasted"
            assert "\n" not in step.text
            out.append(step.text)
        elif step.paste:
            assert not out
            out.append(step.paste)
        else:
            assert set(step.keys) <= {"C-j", "End"}
            out += ["\n"] * step.keys.count("C-j")
            burst = 0 if "End" in step.keys else burst
    return "".join(out)


@settings(max_examples=200)
@given(st.text(min_size=1, max_size=2000))
def test_any_text_is_entered_as_its_words_or_refused(text: str) -> None:
    try:
        words = own_words(text)
        steps = CLAUDE.say(text)
    except BadInput:
        return
    assert typed(steps) == words
    assert steps[-1].keys == ("Enter",)
    assert not any(unicodedata.category(c) == "Cc" and c != "\n" for c in words)
    words.encode()
    # Nothing is lost but what cannot be seen, and white space.
    seen = re.sub(
        r"\s",
        "",
        "".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cs", "Cf", "Mn", "Lo", "Cn")),
    )
    kept = re.sub(
        r"[\s\u2800?]",
        "",
        "".join(c for c in words if unicodedata.category(c) not in ("Cf", "Mn", "Lo", "Cn")),
    )
    assert kept == re.sub(r"[\u2800?]", "", seen)


@given(st.text(alphabet="abc!/#@\\ \n.-_?:", min_size=1, max_size=30))
def test_no_text_is_a_command_a_mode_or_unfinished(text: str) -> None:
    try:
        words = own_words(text)
    except BadInput:
        assert not text.strip()
        return
    assert words[0] not in "!?"
    assert not re.match(r"\s*/[A-Za-z0-9_][A-Za-z0-9:_-]*(\s|$)", words)
    assert not words.endswith("\\")
    assert not re.search(r"(^|\s)@\S*$", words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello", "hello"),
        ("/help", "\u2800/help"),
        ("  /help me", "\u2800/help me"),
        ("/etc/hosts is wrong", "/etc/hosts is wrong"),
        ("/ is the root", "/ is the root"),
        ("!ls", " !ls"),
        ("ends with \\", "ends with \\ "),
        ("see @README", "see @README "),
        ("a\tb", "a    b"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("\n\nmiddle  \n\n", "middle"),
        ("x\x1b[200~y\x1b[201~\x07", "x[200~y[201~"),
        ("family 👩‍👩‍👧 heart ❤️ key 1️⃣ flag 🏳️‍🌈", "family 👩‍👩‍👧 heart ❤️ key 1️⃣ flag 🏳️‍🌈"),
        ("می‌خواهم क्‍ष", "می‌خواهم क्‍ष"),
        ("z\u200be\u2060r\ufeffo\u202e", "zero"),
        ("a\u200db a\ufe0fb", "ab ab"),
        ("half \ud800", "half ?"),
    ],
)
def test_words_are_changed_as_little_as_can_be(text: str, words: str) -> None:
    assert own_words(text) == words


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\x00", "a\x00b", "\u200b", "\x1b\x07"])
def test_what_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(BadInput) as refused:
        CLAUDE.say(text)
    assert refused.value.hint


@pytest.mark.parametrize("text", ["exit", " quit ", ":q", ":wq!", "exit\n"])
def test_a_word_that_would_end_the_agent_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="command to quit"):
        CLAUDE.say(text)


def test_long_texts_are_pasted_and_longer_ones_refused() -> None:
    steps = CLAUDE.say("word " * (TYPED_MAX // 5 + 10))
    assert sum(bool(s.paste) for s in steps) == 1
    assert len(CLAUDE.say("\n".join(["x"] * 300))) < 10
    longest = "x" * (SAY_MAX - 2)
    frame = json.dumps({"op": "tmux.keys", "steps": [s.paste for s in CLAUDE.say(longest)]})
    assert len(frame) < 1 << 20
    for text in (longest + "x", "漢" * 170_000):
        with pytest.raises(BadInput, match="too long") as refused:
            CLAUDE.say(text)
        assert "file" in refused.value.hint


def test_the_input_line_is_emptied_before_a_message_and_after_an_interrupt() -> None:
    assert set(CLAUDE.say("x")[0].keys) == {"C-u", "End"}
    space, stop, clear = CLAUDE.interrupt()
    assert (space.text, stop.text) == (" ", "\x1b[27u")
    assert clear == CLAUDE.say("x")[0]
    assert sum(len(k) + 1 for k in clear.keys) < 4096  # one message to the tmux server
