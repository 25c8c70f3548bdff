"""A verdict in words: the state, since when, and the evidence it rests on, for ``thopter status NAME``."""

from __future__ import annotations

from thopter.fleet.evidence_window import number
from thopter.model.evidence import Evidence, Fact, Verdict
from thopter.model.nouns import WaitReason

_FACTS = {
    Fact.LAUNCHED: "launched",
    Fact.SESSION_STARTED: "its session started",
    Fact.TURN_STARTED: "it took a prompt",
    Fact.ACTIVITY: "at work",
    Fact.PERMISSION_ASKED: "it asks for a permission",
    Fact.QUESTION_ASKED: "it asks a question",
    Fact.ANSWERED: "it was answered",
    Fact.TURN_ENDED: "its turn ended",
    Fact.INTERRUPTED: "its turn was interrupted",
    Fact.TURN_FAILED: "its turn failed",
    Fact.RATE_LIMITED: "rate limited",
    Fact.SESSION_ENDED: "its session ended",
    Fact.BUSY: "its status is busy",
    Fact.IDLE: "its status is idle",
    Fact.PROCESS_ALIVE: "its process is alive",
    Fact.PROCESS_EXITED: "its process exited",
    Fact.BOX_ALIVE: "the box answered",
    Fact.BOX_SILENT: "the box does not answer",
    Fact.BOX_FROZEN: "the box was frozen",
    Fact.BOX_GONE: "the box is gone",
    Fact.STOP_REQUESTED: "a stop was asked for",
    Fact.DECLARED_DONE: "declared done",
    Fact.DECLARED_WAITING: "it says that it needs a person",
    Fact.DECLARED_OPEN: "declared not done",
}
_REASONS = {
    WaitReason.PERMISSION: "for a permission",
    WaitReason.QUESTION: "for an answer",
    WaitReason.TURN_END: "for you, its turn has ended",
    WaitReason.RATE_LIMIT: "for its rate limit",
}


def explain(verdict: Verdict, now_ms: int) -> list[str]:
    """Return lines for a person: headline first, then what is wrong, then evidence, strongest first."""
    reason = f" {_REASONS[verdict.reason]}" if verdict.reason is not None else ""
    since = f", since {span(now_ms - verdict.since_ms)}" if verdict.since_ms else ""
    lines = [f"{verdict.state.value}{reason}{since}"]
    lines += [f"problem: {verdict.problem}"] if verdict.problem else []
    lines += [f"contradiction: {verdict.contradiction}"] if verdict.contradiction else []
    return lines + [evidence_line(item, now_ms) for item in verdict.because]


def evidence_line(item: Evidence, now_ms: int) -> str:
    """Return one piece of evidence as ``source: what, how long ago``."""
    words = _FACTS[item.fact]
    code = number(item, "code") if item.fact is Fact.PROCESS_EXITED else None
    if item.detail:
        words += f" ({item.detail})"
    elif code is not None:
        words += f" (code {code})" if code >= 0 else f" (signal {-code})"
    return f"{item.source.value}: {words}, {span(now_ms - item.at_ms)} ago"


def span(ms: int) -> str:
    """Return a length of time in its largest whole unit, ``0 s`` for the future."""
    seconds = max(0, ms) // 1000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
