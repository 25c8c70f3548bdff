"""What is said to the real Claude Code reaches the model as the person's own words, with a receipt."""

from __future__ import annotations

import random

import pytest
from claude_lab import Lab, live, scenario, versions

from thopter.model.nouns import Role
from thopter.model.sockets import Keys

pytestmark = [pytest.mark.claude, pytest.mark.timeout(300)]

_dice = random.Random(7)
_WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "parsing", "reports", "hours")


def paragraph(length: int) -> str:
    """Words of about that many characters in all."""
    words: list[str] = []
    while sum(map(len, words)) + len(words) < length:
        words.append(_dice.choice(_WORDS))
    return " ".join(words)


MESSAGES = {
    "one line": "please list the files",
    "thirty lines": "\n".join(f"line {i}: {paragraph(40)}" for i in range(30)),
    "5 kB": "\n".join(paragraph(160) for _ in range(31)),
    "one long line": paragraph(3000),
    "quotes": "say \"hi\" and 'ho' `cmd` $HOME $(id) ; | & > < * ? [a] {b} ~ %s \\n \\t \\\\ end",
    "unknown command": "/login page is broken",
    "known command": "/help is a word here",
    "path": "/etc/hosts must be read",
    "shell mode": "!ls is not for the shell",
    "question mark": "?",
    "dash": "- a list\n- of things",
    "option": "--help me",
    "hash": "# heading\n\ntext below",
    "at": "@x please look",
    "at the end": "look at @README",
    "backslash at the end": "ends with a backslash \\",
    "backslashes": "a \\\nb \\\nc",
    "unicode": "héllo wörld 🎉👩‍👩‍👧❤️ 1️⃣ 漢字かな 한국어 עברית می‌خواهم",
    "colon": "I am :smile",
    "blank lines": "a\n\n\nb\n  indented\n    more",
    "semicolons": "one; two;\nthree;",
    "digit": "1",
    "key names": "C-c Enter Escape",
    "quit in a sentence": "exit the loop",
    "code": "def f():\n    return 1\n\n    # x\nclass A:\n    pass",
    "ends with a command": "the tool is called /help",
}


@versions
@live
async def test_every_message_arrives_exactly(version: str) -> None:
    async with Lab(version, scenario()) as lab:
        lab.start()
        await lab.up()
        for number, (name, text) in enumerate(MESSAGES.items(), 1):
            await lab.say(text)
            await lab.rest(number)
            want = text.strip()
            receipt = lab.events("UserPromptSubmit")[-1].reading.receipt
            assert receipt.strip("\u2800 ") == want, name
            assert lab.asked()[-1].prompt.strip("\u2800 ") == want, name
        assert len(lab.asked()) == len(MESSAGES)
        said = [e.text.strip("\u2800 ") for e in lab.entries() if e.role is Role.USER]
        assert said == [text.strip() for text in MESSAGES.values()]
        taken = [r for r in lab.readings() if r.receipt_kind == "taken"]
        assert [r.receipt.strip("\u2800 ") for r in taken] == said


@versions
@live
async def test_what_no_terminal_carries_is_left_out_and_the_rest_arrives(version: str) -> None:
    sent = {
        "a\x1b[201~b\x1b[31mc\x07": "a[201~b[31mc",
        "tab\there\rnext\r\nlast": "tab    here\nnext\nlast",
        "zero\u200bwidth\u2060and\ufeffmarks\u202e": "zerowidthandmarks",
        "lone \ud83d surrogate": "lone ? surrogate",
    }
    async with Lab(version, scenario()) as lab:
        lab.start()
        await lab.up()
        for number, (text, want) in enumerate(sent.items(), 1):
            await lab.say(text)
            await lab.rest(number)
            assert lab.asked()[-1].prompt == want


@versions
@live
async def test_a_very_long_message_arrives_whole(version: str) -> None:
    async with Lab(version, scenario()) as lab:
        lab.start()
        await lab.up()
        for number, size in enumerate((20_000, 900_000), 1):
            text = "\n".join(paragraph(90) for _ in range(size // 100))
            await lab.say(text)
            await lab.rest(number)
            assert lab.asked()[-1].prompt == text
            assert lab.events("UserPromptSubmit")[-1].reading.receipt.strip() == text


@versions
@live
async def test_what_a_person_had_half_typed_does_not_mix_with_a_message(version: str) -> None:
    async with Lab(version, scenario()) as lab:
        lab.start()
        await lab.up()
        half = (Keys(text="half a thought"), Keys(keys=("C-j",)), Keys(text="and more", pause_ms=300))
        await lab.press(half)
        await lab.until("the draft", lambda: "half a thought" in lab.screen())
        await lab.say("the message")
        await lab.rest(1)
        assert lab.asked()[-1].prompt == "the message"
