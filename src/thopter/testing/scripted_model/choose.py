"""Which script answers a request, and at which turn: decided from the request alone (no memory).

A conversation's prompts claim scripts; the newest claim wins, and the number of assistant messages
since it is the turn. So retries, resumed sessions, subagents and parallel sessions all just work.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct, field

from thopter.model.errors import BadInput
from thopter.testing.scripted_model.scenario import Scenario, Script, Turn

MARK = re.compile(r"\bscript:([A-Za-z0-9][A-Za-z0-9_.-]{0,63})")
_REMINDER = re.compile(r"<system-reminder>(.*?)</system-reminder>", re.S)
# How Claude Code hands over a message that came in mid-turn: these words, the message, an instruction.
_MID_TURN = re.compile(
    r"\s*The user sent a new message while you were working:\n(.*?)"
    r"(?:\n\n(?:IMPORTANT: After completing|This is how Claude Code surfaces)[^\n]*)?\s*\Z",
    re.S,
)
_PASTED = re.compile(r"</?pasted_content id=\"?[0-9A-Za-z]+\"?>\n?")
_INTERRUPTED = "[Request interrupted by user"
_CWD = re.compile(r"working directory: *([^\s<>\"']+)", re.I)


class Prompt(Struct, frozen=True):
    """A person's own words in a conversation; ``index`` is that of the message they stand in."""

    index: int
    text: str


class Choice(Struct, frozen=True, kw_only=True):
    """What to answer with. ``script`` is empty for the default and side answers; ``words`` are the
    values of ``${…}``."""

    turn: Turn
    script: str = ""
    number: int = 0
    side: bool = False
    words: Mapping[str, str] = field(default_factory=dict)


class _Claim(Struct, frozen=True):
    index: int
    script: Script
    groups: Mapping[str, str]


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for block in content:
            if isinstance(block, dict) and block.get("type") == "text":
                yield str(block.get("text", ""))


def _own_words(text: str, *, person: bool) -> Iterator[str]:
    """What a person wrote in a text block: not reminders, except messages sent in mid-turn.
    ``person`` is false for the program's own messages (role ``system``)."""
    for hidden in _REMINDER.findall(text):
        if hit := _MID_TURN.match(hidden):
            yield hit[1]
    rest = _REMINDER.sub("", text).strip()
    if hit := _MID_TURN.match(rest):
        yield hit[1]
    elif person and rest and not rest.startswith(_INTERRUPTED):
        yield _PASTED.sub("", rest).strip()


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise BadInput("messages: a list of messages is required")
    return messages


def prompts(body: Mapping[str, Any]) -> list[Prompt]:
    """Every prompt of the conversation, oldest first."""
    return [
        Prompt(index, words)
        for index, message in enumerate(_messages(body))
        if message.get("role") in ("user", "system")
        for text in _texts(message.get("content"))
        for words in _own_words(text, person=message.get("role") == "user")
    ]


def _answers(messages: list[dict[str, Any]], first: int, last: int) -> int:
    """Count assistant messages between two places; one that was interrupted is to be played again."""
    count = 0
    for index in range(first, last):
        if messages[index].get("role") != "assistant":
            continue
        after = messages[index + 1] if index + 1 < len(messages) else {}
        count += not any(t.lstrip().startswith(_INTERRUPTED) for t in _texts(after.get("content")))
    return count


def _claims(scenario: Scenario, found: list[Prompt]) -> list[_Claim]:
    claims: list[_Claim] = []
    for prompt in found:
        claim = _claim(scenario, prompt, {c.script.name for c in claims})
        if claim:
            claims.append(claim)
    return claims


def _claim(scenario: Scenario, prompt: Prompt, before: set[str]) -> _Claim | None:
    mark = MARK.search(prompt.text)
    if mark:
        script = scenario.find(mark[1])
        if script is None:
            known = ", ".join(s.name for s in scenario.script) or "none"
            raise BadInput(f"there is no script {mark[1]!r} (known: {known})")
        return _Claim(prompt.index, script, {})
    for script in scenario.script:
        if not script.match or (script.after and not before.intersection(script.after)):
            continue
        hit = re.search(script.match, prompt.text, re.I | re.S)
        if hit:
            return _Claim(prompt.index, script, {k: (v or "").strip() for k, v in hit.groupdict().items()})
    return None


def _place(messages: list[dict[str, Any]], claims: list[_Claim], end: int) -> tuple[_Claim, int] | None:
    """The claim to play before message ``end``, and its turn; None when all are played out."""
    extra = 0
    for at in range(len(claims) - 1, -1, -1):
        claim = claims[at]
        played = _answers(messages, claim.index, end) + extra
        turns = len(claim.script.turns)
        if claim.script.resume and not claim.script.turns[-1].tools:
            # Its closing words would end the turn: they are left out when there is work to go back to.
            turns -= _place(messages, claims[:at], claim.index) is not None
        if played < turns:
            return claim, played
        if not claim.script.resume:
            return None
        end, extra = claim.index, played - turns
    return None


def choose(scenario: Scenario, body: Mapping[str, Any]) -> Choice:
    """Decide the answer to one ``/v1/messages`` body; BadInput when it is not one, or names a
    script that is not there."""
    messages, found = _messages(body), prompts(body)
    newest = found[-1].text if found else ""
    words = {
        "cwd": _cwd(body),
        "prompt": newest if len(newest) <= 400 else newest[:400] + "…",
        "scripts": ", ".join(s.name for s in scenario.script) or "none",
    }
    if not body.get("tools"):
        return Choice(turn=scenario.side, side=True, words=words)
    claims = _claims(scenario, found)
    place = _place(messages, claims, len(messages))
    if place is None:
        start = found[-1].index if found else 0
        number = min(_answers(messages, start, len(messages)), len(scenario.default) - 1)
        return Choice(turn=scenario.default[number], number=number, words=words)
    claim, number = place
    return Choice(
        turn=claim.script.turns[number],
        script=claim.script.name,
        number=number,
        words={**words, **claim.groups},
    )


def _cwd(body: Mapping[str, Any]) -> str:
    """Where the client works, as Claude Code tells the model; ``.`` when it does not."""
    system = body.get("system")
    texts = [*_texts(system), *(t for m in _messages(body)[:2] for t in _texts(m.get("content")))]
    return next((hit[1] for t in texts if (hit := _CWD.search(t))), ".")
