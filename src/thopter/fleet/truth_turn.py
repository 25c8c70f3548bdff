"""The turn of a living agent: is it starting, at work, asking, held up, or has its turn ended.

Hooks and the transcript say when turns begin and end. The agent's status file is weaker: it ends
a turn that nothing else ended (an interrupt fires no hook), and it closes a dialog that it has
itself shown. Reading it again counts: a status still there well after a fact is no race.
"""

from __future__ import annotations

from msgspec import Struct, structs

from thopter.fleet.evidence_window import ASKS, CLOSINGS, Window, call_of, order, text
from thopter.model.evidence import Evidence, Fact, Source, Verdict
from thopter.model.nouns import RunState, WaitReason


class TruthLimits(Struct, frozen=True, kw_only=True):
    """The few lengths of time that truth depends on, in milliseconds.

    ``silence_ms``: a box unheard for longer is not known to work. ``quiet_ms``: the same for an
    agent that shows nothing in a living box. ``start_ms``: a launch that shows no turn.
    ``settle_ms``: facts closer together than this may be told in the wrong order by different
    sources. ``idle_ms``: how long the status must have shown idle before it alone ends a turn.
    ``busy_ms``: how long status file or process may contradict the hooks. ``background_ms``: how
    long an agent with background tasks sits idle before it counts as waiting. ``skew_ms``: what is
    left of clock differences between hub and box after admission.
    """

    silence_ms: int = 30_000
    quiet_ms: int = 600_000
    start_ms: int = 120_000
    settle_ms: int = 2_000
    idle_ms: int = 5_000
    busy_ms: int = 10_000
    background_ms: int = 60_000
    skew_ms: int = 250


_GATEWAY = frozenset({Source.GATEWAY})
_AGENT = frozenset(Source) - _GATEWAY

# After these a person's word is not enough: something outside the box must be mended first.
_NEEDS_MENDING = frozenset(
    {"authentication_failed", "oauth_org_not_allowed", "billing_error", "model_not_found"}
)


def read_turn(life: Window, now_ms: int, limits: TruthLimits) -> Verdict:
    """Derive the state of a living agent from the facts of its present life."""
    turn = _Turn(life, limits)
    ask = turn.open_ask()
    spent = turn.over_budget()
    if spent is not None:
        return spent
    if turn.is_closed():
        return _asking(ask) if ask is not None else turn.disputed(now_ms) or turn.closed()
    if turn.work is None and turn.closing is None:
        return _before_turns(turn, now_ms)
    idle = turn.idle_state()
    if idle == "ended":
        return turn.ended_unheard()
    if ask is not None:
        return _asking(ask)
    if idle == "unsure":
        doubt = turn.doubtful(now_ms)
        if doubt is not None:
            return doubt
    return turn.limited() or turn.working()


def is_asked(life: Window, ask: Evidence, limits: TruthLimits) -> bool:
    """See :func:`thopter.fleet.truth.still_asked`."""
    return _Turn(life, limits).is_asked(ask)


def cut_short(life: Window, limits: TruthLimits) -> Evidence | None:
    """The last sign of work of a life that ended in the middle of a turn; None when its last turn was
    over, or it had none. When the status showed it at rest after that work, the turn counts as over."""
    turn = _Turn(life, limits)
    if turn.work is None or turn.is_closed() or turn.idle_state():
        return None
    return turn.work


class _Turn:
    """The newest facts about turns. ``work`` is the newest hard sign that one is going on."""

    def __init__(self, life: Window, limits: TruthLimits) -> None:
        self.life = life
        self.limits = limits
        self.started = life.last(Fact.TURN_STARTED)
        self.activity = life.last(Fact.ACTIVITY, sources=_AGENT)
        self.work = _newest(self.started, self.activity, life.last(*ASKS, Fact.ANSWERED))
        self.closing = life.last(*CLOSINGS)
        self.status = life.last_status()

    @property
    def in_background(self) -> bool:
        """The last turn ended with tasks going on that will wake the agent."""
        if self.closing is None or self.closing.fact is not Fact.TURN_ENDED:
            return False
        # Several sources tell one end; only a hook knows of background tasks.
        since = _at(self.started)
        return any(e.data.get("background") for e in self.life.all(Fact.TURN_ENDED) if e.at_ms > since)

    def is_closed(self) -> bool:
        """The last turn has ended and no new one begun. A tool's report that comes in within
        ``settle_ms`` of the end is a straggler, not a new turn."""
        end = self.closing
        if end is None or self.in_background:
            return False
        if self.started is not None and self.started.at_ms >= end.at_ms:
            return False
        return self.activity is None or self.activity.at_ms <= end.at_ms + self.limits.settle_ms

    def idle_state(self) -> str:
        """What the status says of a turn whose end no hook told: ``ended``; ``unsure`` when idle
        is too close to the last sign of work to know which came first; empty when it says nothing.
        """
        idle, sign = self.status, _newest(self.work, self.closing)
        if idle is None or idle.fact is not Fact.IDLE or sign is None:
            return ""
        if self.started is not None and idle.at_ms <= self.started.at_ms:
            return ""
        shown = shown_until(idle)
        if self.in_background:
            return "ended" if shown > sign.at_ms + self.limits.background_ms else ""
        settle = self.limits.settle_ms
        if idle.at_ms < sign.at_ms - settle:
            # Work was seen clearly after this idle began: only a much later reading outweighs it.
            return "ended" if shown > sign.at_ms + self.limits.busy_ms else ""
        held = idle.source is Source.HOOK or shown > idle.at_ms + self.limits.idle_ms
        return "ended" if held and shown > sign.at_ms + settle else "unsure"

    def ended_unheard(self) -> Verdict:
        """Waiting, by the status alone, since the last sign of work."""
        sign = _newest(self.work, self.closing)
        return _waiting(WaitReason.TURN_END, _at(sign, self.status), self.status, sign)

    def doubtful(self, now_ms: int) -> Verdict | None:
        """Until the status is read again nobody knows; in the first moments it is still at work."""
        near = [e for e in (self.status, self.work) if e is not None]
        if now_ms <= max(e.at_ms for e in near) + self.limits.busy_ms:
            return None
        return _unknown(near, "the status went idle in the same moment as the last sign of work")

    def open_ask(self) -> Evidence | None:
        """Return the oldest ask that nothing has answered and no end of turn has overtaken."""
        since = max((e.at_ms for e in (self.started, self.closing) if e is not None), default=None)
        asks = [a for a in self.life.all(*ASKS) if since is None or a.at_ms >= since]
        return next((a for a in asks if not self._answered(a)), None)

    def is_asked(self, ask: Evidence) -> bool:
        """Whether this very ask is open still; of several that are open each for itself."""
        ends = [e.at_ms for e in (self.started, self.closing) if e is not None]
        if not ask.data.get("side") and max(ends, default=0) > ask.at_ms:
            return False
        shown = self.status
        if shown is not None and shown.fact in ASKS and shown.at_ms >= ask.at_ms:
            return not self._used(ask)  # some dialog is on the screen: this one's, for all that is known
        return not self._answered(ask)

    def _answered(self, ask: Evidence) -> bool:
        return self._used(ask) or self._shown_closed(ask)

    def _used(self, ask: Evidence) -> bool:
        call = call_of(ask)
        for answer in self.life.all(Fact.ANSWERED):
            if answer.at_ms >= ask.at_ms and (not call or call_of(answer) in ("", call)):
                return True
        for use in self.life.all(Fact.ACTIVITY):
            # Hooks come in order; a transcript's line about the asking call may be dated after it.
            margin = 0 if use.source is Source.HOOK else self.limits.settle_ms
            if use.source is Source.GATEWAY or use.at_ms <= ask.at_ms + margin:
                continue
            # With a call named, only that call's own use proves an answer: others run in parallel.
            if call_of(use) == call if call else not (use.data.get("side") or self._still_asks(use)):
                return True
        return False

    def _shown_closed(self, ask: Evidence) -> bool:
        """A dialog that shows in the status shows as waiting; a status that began after the ask, and
        stood, was no longer that. (A dialog that never shows there leaves the old status.)"""
        in_status = ask.source is Source.SCREEN
        later = [e for e in (self.life.last(Fact.BUSY), self.life.last(Fact.IDLE)) if e is not None]
        for one in (e for e in later if e.at_ms > ask.at_ms):
            if one.fact is Fact.IDLE:
                stood = shown_until(one) > one.at_ms + self.limits.idle_ms
            else:
                stood = in_status or shown_until(one) > ask.at_ms + self.limits.settle_ms
            if stood:
                return True
        status = self.status
        return in_status and status is not None and status.fact in ASKS and status.at_ms > ask.at_ms

    def _still_asks(self, use: Evidence) -> bool:
        """The status was read well after this use, and the dialog of before was still open."""
        status = self.status
        return (
            status is not None
            and status.fact in ASKS
            and status.at_ms <= use.at_ms
            and shown_until(status) > use.at_ms + self.limits.settle_ms
        )

    def limited(self) -> Verdict | None:
        """Held up by a rate limit, when nothing has got through since; dated from the last work."""
        hit = self.life.last(Fact.RATE_LIMITED)
        through = _newest(self.work, self.life.last(Fact.ACTIVITY, sources=_GATEWAY))
        if hit is None or (through is not None and through.at_ms >= hit.at_ms):
            return None
        return _waiting(WaitReason.RATE_LIMIT, _at(through, hit), hit, through)

    def over_budget(self) -> Verdict | None:
        """Its last model call was not made, as it may spend no more, and nobody has raised that or told it
        anything since. No dialog of its own can be open: it goes no further."""
        hit = self.life.last(Fact.OVER_BUDGET)
        since = _newest(
            self.started, self.life.last(Fact.BUDGET_RAISED, Fact.ANSWERED),
            self.life.last(Fact.ACTIVITY, sources=_GATEWAY),
        )  # fmt: skip
        if hit is None or (since is not None and order(since) > order(hit)):
            return None
        return structs.replace(_waiting(WaitReason.BUDGET, hit.at_ms, hit), problem=hit.detail)

    def working(self) -> Verdict:
        """At work since its turn began; when that was not seen, since the latest moment before."""
        begun = self.started
        if not self.in_background and (begun is None or _at(self.closing, begun) > begun.at_ms):
            begun = self.closing
        begun = begun or self.life.last(Fact.LAUNCHED, Fact.SESSION_STARTED) or self.work or self.closing
        because = [e for e in (_newest(self.work, self.closing), begun) if e is not None]
        if self.status is not None and self.status.fact is Fact.BUSY:
            because.append(self.status)
        return Verdict(state=RunState.WORKING, since_ms=_at(begun), because=distinct(because))

    def disputed(self, now_ms: int) -> Verdict | None:
        """The turn has ended by the hooks, but the status has been busy for long since."""
        end, busy = self.closing, self.status
        if end is None or busy is None or busy.fact is not Fact.BUSY:
            return None
        if busy.at_ms <= end.at_ms + self.limits.settle_ms or now_ms - busy.at_ms < self.limits.busy_ms:
            return None
        return _unknown([busy, end], "the turn has ended, yet the agent's status is busy")

    def closed(self) -> Verdict:
        """The verdict of an ended turn, dated from the first word of its end."""
        ends = [e for e in self.life.all(*CLOSINGS) if not self._reopened(e)]
        since = _at(ends[0])
        failure = next((e for e in reversed(ends) if e.fact is Fact.TURN_FAILED), None)
        if failure is None:
            asked = self.declared()
            if asked is not None:
                return _waiting(WaitReason.QUESTION, since, asked, ends[-1])
            return _waiting(WaitReason.TURN_END, since, ends[-1])
        word = text(failure, "error")
        hit, raised = self.life.last(Fact.OVER_BUDGET), self.life.last(Fact.BUDGET_RAISED)
        if word == "billing_error" and hit is not None and raised is not None and raised.at_ms >= hit.at_ms:
            return _waiting(WaitReason.TURN_END, since, raised, failure)  # that is mended
        problem = ": ".join(w for w in (word or "the turn failed", failure.detail) if w)
        if word in _NEEDS_MENDING:
            return Verdict(state=RunState.FAILED, since_ms=since, because=(failure,), problem=problem)
        reason = WaitReason.RATE_LIMIT if word == "rate_limit" else WaitReason.TURN_END
        limit = self.life.last(Fact.RATE_LIMITED) if word == "rate_limit" else None
        because = (failure,) if limit is None else (failure, limit)
        return Verdict(
            state=RunState.WAITING, reason=reason, since_ms=since, because=because, problem=problem
        )

    def declared(self) -> Evidence | None:
        """The agent's own word, in the turn that has ended, that it needs a person."""
        said = self.life.last(Fact.DECLARED_WAITING, Fact.DECLARED_OPEN)
        if said is None or said.fact is Fact.DECLARED_OPEN or said.at_ms < _at(self.started):
            return None
        return said

    def _reopened(self, end: Evidence) -> bool:
        """Work was seen between this end and the last one, so it ended an earlier turn."""
        last = _at(self.closing)
        if self.started is not None and end.at_ms <= self.started.at_ms <= last and end is not self.closing:
            return True
        work = self.activity
        return work is not None and end.at_ms + self.limits.settle_ms < work.at_ms <= last


def _before_turns(turn: _Turn, now_ms: int) -> Verdict:
    """No turn was ever seen in this life: not launched, coming up, or at its prompt."""
    life, status = turn.life, turn.status
    launched = life.last(Fact.LAUNCHED)
    up = life.last(Fact.SESSION_STARTED, Fact.PROCESS_ALIVE)
    begun = launched or up
    if status is not None and status.fact is Fact.BUSY:
        return Verdict(state=RunState.WORKING, since_ms=status.at_ms, because=(status,))
    prompted = None if launched is None else launched.data.get("prompt")
    if status is not None and status.fact is Fact.IDLE and _at_prompt(turn, status, begun, prompted):
        problem = "launched with a prompt, but no turn was seen" if prompted else ""
        verdict = _waiting(WaitReason.TURN_END, _at(life.last(Fact.SESSION_STARTED), status), status)
        return structs.replace(verdict, problem=problem)
    if begun is None:
        return Verdict(state=RunState.QUEUED)
    because = distinct([e for e in (status, up, launched) if e is not None])
    if now_ms - begun.at_ms > turn.limits.start_ms:
        return _unknown(because, "launched long ago, and no turn was ever seen", begun.at_ms)
    return Verdict(state=RunState.STARTING, since_ms=begun.at_ms, because=because)


def _at_prompt(turn: _Turn, idle: Evidence, begun: Evidence | None, prompted: object) -> bool:
    """Idle before any turn was seen. With a prompt on its way that is the moment before it goes in
    (however long a busy machine takes for it), unless the status was busy in between."""
    busy = turn.life.last(Fact.BUSY)
    if prompted is False or begun is None or (busy is not None and busy.at_ms <= idle.at_ms):
        return True
    return prompted is not True and shown_until(idle) > begun.at_ms + turn.limits.busy_ms


def _asking(ask: Evidence) -> Verdict:
    reason = WaitReason.PERMISSION if ask.fact is Fact.PERMISSION_ASKED else WaitReason.QUESTION
    return _waiting(reason, ask.at_ms, ask)


def _waiting(reason: WaitReason, since_ms: int, *because: Evidence | None) -> Verdict:
    basis = distinct([e for e in because if e is not None])
    return Verdict(state=RunState.WAITING, reason=reason, since_ms=since_ms, because=basis)


def _unknown(
    because: list[Evidence] | tuple[Evidence, ...], words: str, since_ms: int | None = None
) -> Verdict:
    since = max(e.at_ms for e in because) if since_ms is None else since_ms
    return Verdict(state=RunState.UNKNOWN, since_ms=since, because=tuple(because), contradiction=words)


def _newest(*items: Evidence | None) -> Evidence | None:
    return max((i for i in items if i is not None), key=order, default=None)


def _at(*items: Evidence | None) -> int:
    """Return the time of the first that is there, else 0."""
    return next((i.at_ms for i in items if i is not None), 0)


def shown_until(status: Evidence) -> int:
    """Return until when a status is known to have held: a file can be read again, a hook cannot."""
    return max(status.at_ms, status.seen_ms) if status.source is Source.SCREEN else status.at_ms


def distinct(items: list[Evidence]) -> tuple[Evidence, ...]:
    """Drop repetitions, keeping order."""
    return tuple({order(i): i for i in items}.values())
