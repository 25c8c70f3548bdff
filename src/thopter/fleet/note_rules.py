"""Which notes are sent: one pure function from what is known of a thopter to at most one note.

It has no clock, no I/O and no memory. Each note has a key that names its episode (this waiting, this
silence); the store keeps one note for a key, so that a waiting run rings the phone once, however
often it is looked at and however often the hub restarts.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from thopter.kit.redact import Redactor
from thopter.kit.sanitize import one_line
from thopter.kit.settings import Settings, split
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.notes import Letter, NoteKind
from thopter.model.nouns import BoxState, RunState, WaitReason

_WAITS = {
    WaitReason.PERMISSION: NoteKind.WAITING_PERMISSION,
    WaitReason.QUESTION: NoteKind.WAITING_QUESTION,
    WaitReason.TURN_END: NoteKind.TURN_END,
    WaitReason.RATE_LIMIT: NoteKind.RATE_LIMIT,
}
_ENDS = {
    RunState.DONE: NoteKind.DONE,
    RunState.FAILED: NoteKind.FAILED,
    RunState.STOPPED: NoteKind.STOPPED,
}
_QUIET = frozenset({NoteKind.TURN_END, NoteKind.DONE})  # what somebody who has just spoken sees anyway
_AT_WORK = (RunState.STARTING, RunState.WORKING, RunState.UNKNOWN)
_SIGNS = frozenset({Source.HOOK, Source.TRANSCRIPT, Source.GATEWAY, Source.HUB})
_PRESENT = (BoxState.READY, BoxState.LOST)  # a frozen or suspended box is silent because it was told to be

WHAT = {
    NoteKind.WAITING_PERMISSION: "asks for permission",
    NoteKind.WAITING_QUESTION: "has a question",
    NoteKind.TURN_END: "waits for you",
    NoteKind.RATE_LIMIT: "is held up by a rate limit",
    NoteKind.DONE: "is done",
    NoteKind.FAILED: "has failed",
    NoteKind.STOPPED: "has stopped",
    NoteKind.STUCK: "shows nothing any more",
    NoteKind.UNKNOWN: "can't be seen",
    NoteKind.BUDGET: "has used up its budget",
    NoteKind.DISK: "stands still",
    NoteKind.TEST: "can reach you",
}
BUDGET_WHAT = {"near": "nears its budget", "unpriced": "asks for a model without a price"}
_TAGS = {
    NoteKind.WAITING_PERMISSION: "raised_hand",
    NoteKind.WAITING_QUESTION: "question",
    NoteKind.TURN_END: "bell",
    NoteKind.RATE_LIMIT: "hourglass",
    NoteKind.DONE: "white_check_mark",
    NoteKind.FAILED: "x",
    NoteKind.STOPPED: "stop_sign",
    NoteKind.STUCK: "hourglass",
    NoteKind.UNKNOWN: "ghost",
    NoteKind.BUDGET: "moneybag",
    NoteKind.DISK: "floppy_disk",
    NoteKind.TEST: "wave",
}
_URGENT = frozenset(
    {
        NoteKind.WAITING_PERMISSION,
        NoteKind.WAITING_QUESTION,
        NoteKind.FAILED,
        NoteKind.BUDGET,
        NoteKind.DISK,
    }
)
_TITLE_MAX = 120
_BODY_MAX = 500
_redact = Redactor()


class Situation(Struct, frozen=True, kw_only=True):
    """What is known of one run at ``at_ms`` (all times in milliseconds, hub clock).

    ``since_ms``: since when the state lasts; ``recorded_ms``: when it was recorded (the same after a
    restart of the hub); ``prompted_ms``: last prompt of a person; ``shown_ms``: last sign of work;
    ``answers``: its box answers; ``people``: how many are at its terminal; ``over``: it has left
    this state since.
    """

    run: str
    at_ms: int
    state: RunState
    reason: WaitReason | None = None
    since_ms: int = 0
    recorded_ms: int = 0
    prompted_ms: int = 0
    shown_ms: int = 0
    box_state: BoxState = BoxState.READY
    answers: bool = True
    people: int = 0
    muted: bool = False
    over: bool = False


class Rules(Struct, frozen=True, kw_only=True):
    """The settings ``notify.*`` that decide."""

    on: frozenset[NoteKind]
    quiet_ms: int = 30_000
    stuck_ms: int = 600_000
    unknown_ms: int = 300_000
    when_attached: bool = False


class Ring(Struct, frozen=True):
    """A note to be recorded; ``held``: why it is sent to nobody, or empty."""

    kind: NoteKind
    key: str
    held: str = ""


def rules_of(settings: Settings) -> Rules:
    """Read the rules."""
    on = {NoteKind(part) for part in split(str(settings.get("notify.on")))}
    if not settings.get("notify.stop"):
        on.discard(NoteKind.TURN_END)
    return Rules(
        on=frozenset(on),
        quiet_ms=settings.get("notify.quiet_seconds") * 1000,
        stuck_ms=settings.get("notify.stuck_minutes") * 60_000,
        unknown_ms=settings.get("notify.unknown_minutes") * 60_000,
        when_attached=settings.get("notify.when_attached"),
    )


def ring(s: Situation, rules: Rules) -> Ring | None:
    """Decide. None: there is nothing to tell (any more, or yet)."""
    found = _about(s, rules)
    if found is None or found[0] not in rules.on:
        return None
    kind, episode = found
    return Ring(kind, f"{s.run}:{kind}:{episode}", _held(s, kind, rules))


def _about(s: Situation, rules: Rules) -> tuple[NoteKind, int] | None:
    """What there is to tell, and the moment that names its episode."""
    if s.state is RunState.WAITING and s.reason is WaitReason.BUDGET:
        return None  # an event of its own tells that
    if s.state is RunState.WAITING and s.reason is not None:
        return _WAITS[s.reason], s.since_ms
    if s.state in _ENDS:
        return _ENDS[s.state], s.since_ms
    if s.state not in _AT_WORK or s.box_state not in _PRESENT:
        return None
    if s.answers and s.shown_ms and s.at_ms - s.shown_ms >= rules.stuck_ms > 0:
        return NoteKind.STUCK, s.shown_ms
    if s.state is RunState.UNKNOWN and s.at_ms - s.recorded_ms >= rules.unknown_ms > 0:
        return NoteKind.UNKNOWN, s.recorded_ms
    return None


def _held(s: Situation, kind: NoteKind, rules: Rules) -> str:
    if s.muted:
        return "muted"
    if s.over:
        return "over before it could be sent"
    if s.people and not rules.when_attached:
        return "somebody is at its terminal"
    if kind in _QUIET and s.prompted_ms and s.at_ms - s.prompted_ms < rules.quiet_ms:
        return f"within {rules.quiet_ms // 1000} s of your message"
    return ""


def prompted_ms(evidence: Iterable[Evidence]) -> int:
    """When a person last gave it something to do. Tool results, the agent's own notifications of
    background tasks and all other signs of work do not count."""
    said = (e for e in evidence if e.fact is Fact.TURN_STARTED and e.detail != "task notification")
    return max((e.at_ms for e in said), default=0)


def shown_ms(evidence: Iterable[Evidence]) -> int:
    """When it last showed a sign of work; its status file, read again and again, is none."""
    return max((e.at_ms for e in evidence if e.source in _SIGNS), default=0)


def write(kind: NoteKind, settings: Settings, words: dict[str, str]) -> Letter:
    """Put the letter together. ``words`` (name, state, task, repo, detail) may come from a box: they
    are made safe and put in as text, never read as a pattern; what looks like a secret is taken out.
    """
    safe = {k: _redact(one_line(v, _BODY_MAX)) for k, v in words.items()} | {
        "what": words.get("what") or WHAT[kind]
    }
    tags = [_TAGS[kind], *split(str(settings.get("notify.tags")))]
    urgent = "high" if kind in _URGENT else "default"
    return Letter(
        title=one_line(_fill(str(settings.get("notify.title")), safe), _TITLE_MAX) or "thopter",
        body=one_line(_fill(str(settings.get("notify.text")), safe), _BODY_MAX),
        priority=str(settings.get("notify.priority")) or urgent,
        tags=",".join(tags),
        click=_fill(str(settings.get("notify.click")), {"name": safe.get("name", "")}),
    )


def _fill(template: str, words: dict[str, str]) -> str:
    """Replace ``{word}`` once, from left to right: what is put in is not looked at again."""
    out, at = [], 0
    while (start := template.find("{", at)) >= 0:
        end = template.find("}", start)
        name = template[start + 1 : end] if end > 0 else ""
        if name in words:
            out += [template[at:start], words[name]]
            at = end + 1
        else:
            out.append(template[at : start + 1])
            at = start + 1
    return "".join([*out, template[at:]])
