"""What came of a question: the turn that took it, and the last the agent said in that turn.

Read from what is stored (entries, evidence) alone, so that a hub that was killed in between finds the
same answer. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from thopter.fleet.evidence_window import CLOSINGS, text
from thopter.fleet.tell import bare
from thopter.model.evidence import Evidence, Fact
from thopter.model.nouns import Entry, Role

SETTLE_MS = 2_000  # what the transcript may be dated after the hook that told of the turn's end
_CUT = 1_000  # characters from which on a receipt may be a part of the words


class Answer(Struct, frozen=True, kw_only=True):
    """The end of a turn. ``whole``: the transcript holds all that the hook says it ended with."""

    said: str
    tools: list[str]
    whole: bool


def same_words(want: str, seen: str) -> bool:
    """Whether a prompt is this message, whatever a terminal did to its white space."""
    want, seen = bare(want), bare(seen)
    if not seen or want == seen:
        return bool(seen)
    return len(seen) >= _CUT and seen in want


def taken_at(words: Sequence[str], entries: Iterable[Entry], offset_ms: int) -> tuple[int, int]:
    """``(index, hub time)`` of the entry by which the agent took one of ``words`` (the message, as it
    was given and as it was entered); ``(-1, 0)`` when there is none yet."""
    for index, entry in enumerate(entries):
        own = entry.role is Role.USER and not entry.sidechain
        if own and any(same_words(word, entry.text) for word in words):
            return index, entry.at_ms + offset_ms
    return -1, 0


def end_of_turn(evidence: Iterable[Evidence], since_ms: int) -> Evidence | None:
    """The first end of a turn at or after ``since_ms``; of several words for it, the hook's."""
    ends = [e for e in evidence if e.fact in CLOSINGS and e.at_ms >= since_ms]
    if not ends:
        return None
    first = min(e.at_ms for e in ends)
    near = [e for e in ends if e.at_ms <= first + SETTLE_MS]
    failed = [e for e in near if e.fact is not Fact.TURN_ENDED]
    return min(failed or near, key=lambda e: (not text(e, "last"), e.at_ms))


def answer(entries: Sequence[Entry], end: Evidence, offset_ms: int) -> Answer:
    """What was said last in the turn that ``end`` ended; ``entries`` begin after the prompt."""
    last = ""
    tools: list[str] = []
    for entry in entries:
        if entry.sidechain or entry.at_ms + offset_ms > end.at_ms + SETTLE_MS:
            continue
        if entry.role is Role.TOOL_USE:
            tools.append(entry.tool or "?")
        elif entry.role is Role.ASSISTANT and entry.text.strip():
            last = entry.text
    whole = "last" in end.data and bare(last).startswith(bare(text(end, "last")))
    return Answer(said=last, tools=tools, whole=whole)
