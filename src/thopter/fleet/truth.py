"""Truth: one pure function folds evidence into a state (DESIGN 6; docs/explanation/truth.md).

``fold`` has no clock, no I/O and no memory. It promises:

* order-independent: precedence is by event time, ties by a fixed order, never by arrival;
* time alone leads to ``unknown`` at most: with the same evidence and a later ``now`` the state is
  the same or ``unknown``, and what only somebody's act can end (a finished turn, a dialog, done,
  failed, stopped) stays for ever;
* signs of life alone never turn one definite state into another.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import structs

from thopter.fleet.evidence_window import BOX_SOURCES, Window, number
from thopter.fleet.truth_turn import TruthLimits, distinct, is_asked, read_turn
from thopter.model.evidence import Evidence, Fact, Source, Verdict
from thopter.model.nouns import RunState, WaitReason

_HOOKS = frozenset({Source.HOOK})
_AGENT_VOICES = frozenset({Source.HOOK, Source.TRANSCRIPT, Source.SCREEN, Source.GATEWAY})
_SIGNAL_NAMES = {
    1: "SIGHUP",
    2: "SIGINT",
    3: "SIGQUIT",
    6: "SIGABRT",
    9: "SIGKILL",
    11: "SIGSEGV",
    15: "SIGTERM",
}


DEFAULT = TruthLimits()


def fold(evidence: Iterable[Evidence], now_ms: int, *, limits: TruthLimits = DEFAULT) -> Verdict:
    """Derive the state of one run from its evidence at ``now_ms`` (hub clock). Never raises."""
    whole = Window.of(evidence)
    life = _present_life(whole, limits)
    over = _done(life) or _ended_life(life, limits) or _gone(life, whole, limits)
    return over or _through_silence(read_turn(life, now_ms, limits), whole, now_ms, limits)


def still_asked(evidence: Iterable[Evidence], ask: Evidence, *, limits: TruthLimits = DEFAULT) -> bool:
    """Whether the dialog of ``ask`` is open, for all that the evidence says."""
    return is_asked(_present_life(Window.of(evidence), limits), ask, limits)


def _present_life(whole: Window, limits: TruthLimits) -> Window:
    """Return what belongs to the agent's present life; facts from before are history.

    A life begins with a launch, or with the return of a dead agent that nobody launched (somebody
    started it by hand in its terminal).
    """
    launched, exited = whole.last(Fact.LAUNCHED), whole.last(Fact.PROCESS_EXITED)
    start = None if launched is None else launched.at_ms
    if exited is not None and (start is None or exited.at_ms >= start) and _came_back(whole, exited, limits):
        return whole.since(exited.at_ms + 1)
    return whole.since(start)


def _came_back(whole: Window, exited: Evidence, limits: TruthLimits) -> bool:
    """There is another process, that nobody launched: boxd names one, or a session began."""
    session = whole.last(Fact.SESSION_STARTED)
    if session is not None and session.at_ms > exited.at_ms + limits.settle_ms:
        return True
    dead = number(exited, "pid")
    later = [e for e in whole.all(Fact.PROCESS_ALIVE) if e.at_ms > exited.at_ms]
    return dead is not None and any(number(e, "pid") not in (None, dead) for e in later)


def _done(life: Window) -> Verdict | None:
    """Declared done: stays so until a new turn begins or somebody takes the word back, whatever
    becomes of process and box."""
    said = life.last(Fact.DECLARED_DONE, Fact.DECLARED_OPEN)
    if said is None or said.fact is Fact.DECLARED_OPEN:
        return None
    started = life.last(Fact.TURN_STARTED)
    if started is not None and started.at_ms > said.at_ms:
        return None
    return Verdict(state=RunState.DONE, since_ms=said.at_ms, because=(said,))


def _ended_life(life: Window, limits: TruthLimits) -> Verdict | None:
    """The agent's process is dead, or its session said goodbye."""
    exited, ended = life.last(Fact.PROCESS_EXITED), _goodbye(life, limits)
    if exited is not None:
        late = life.last(Fact.TURN_STARTED, Fact.ACTIVITY, sources=_HOOKS)
        if late is not None and late.at_ms > exited.at_ms + limits.settle_ms:
            return _contradiction(exited, late, "the agent's process has exited, yet its hooks go on")
        return _exit_verdict(exited, ended, life, limits)
    if ended is None:
        return None
    alive = life.last(Fact.PROCESS_ALIVE)
    if alive is not None and alive.at_ms > ended.at_ms + limits.busy_ms:
        return _contradiction(ended, alive, "the agent's session has ended, yet its process goes on")
    return Verdict(state=RunState.STOPPED, since_ms=ended.at_ms, because=(ended,))


def _goodbye(life: Window, limits: TruthLimits) -> Evidence | None:
    """The end of the session, unless it has gone on since."""
    ended = life.last(Fact.SESSION_ENDED)
    again, work = life.last(Fact.SESSION_STARTED, Fact.TURN_STARTED), life.last(Fact.ACTIVITY)
    if ended is None or (again is not None and again.at_ms > ended.at_ms):
        return None
    return None if work is not None and work.at_ms > ended.at_ms + limits.settle_ms else ended


def _exit_verdict(exited: Evidence, ended: Evidence | None, life: Window, limits: TruthLimits) -> Verdict:
    stop = life.last(Fact.STOP_REQUESTED)
    since = exited.at_ms
    if stop is not None and stop.at_ms <= exited.at_ms + limits.skew_ms:
        return Verdict(state=RunState.STOPPED, since_ms=since, because=(exited, stop))
    if ended is not None:
        # Its process is going since it said so; the state must not start anew when the exit is seen.
        return Verdict(state=RunState.STOPPED, since_ms=min(since, ended.at_ms), because=(exited, ended))
    code = number(exited, "code")
    if code == 0:
        return Verdict(state=RunState.STOPPED, since_ms=since, because=(exited,))
    return Verdict(state=RunState.FAILED, since_ms=since, because=(exited,), problem=_exit_words(code))


def _exit_words(code: int | None) -> str:
    if code is None:
        return "the agent's process is gone; how it ended is not known"
    if code < 0:
        name = _SIGNAL_NAMES.get(-code, f"signal {-code}")
        return f"the agent's process was killed by {name}"
    return f"the agent's process exited with code {code}"


def _gone(life: Window, whole: Window, limits: TruthLimits) -> Verdict | None:
    """The box does not exist any more, by its provider's word, and has not answered since."""
    gone = whole.last(Fact.BOX_GONE)
    if gone is None:
        return None
    seen = whole.heard_ms
    if seen is not None and seen > gone.at_ms + limits.skew_ms:
        return None
    stop = life.last(Fact.STOP_REQUESTED)
    if stop is not None:
        return Verdict(state=RunState.STOPPED, since_ms=gone.at_ms, because=(gone, stop))
    return Verdict(state=RunState.FAILED, since_ms=gone.at_ms, because=(gone,), problem="its box is gone")


def _contradiction(one: Evidence, other: Evidence, words: str) -> Verdict:
    first, second = sorted((one, other), key=lambda e: e.at_ms, reverse=True)
    return Verdict(state=RunState.UNKNOWN, since_ms=first.at_ms, because=(first, second), contradiction=words)


def _ends_by_itself(verdict: Verdict) -> bool:
    """A state that goes over into another with nobody's help can't be known through silence."""
    if verdict.reason is WaitReason.RATE_LIMIT:
        return verdict.because[0].fact is Fact.RATE_LIMITED  # still trying; a failed turn has given up
    return verdict.state in (RunState.STARTING, RunState.WORKING)


def _through_silence(verdict: Verdict, whole: Window, now_ms: int, limits: TruthLimits) -> Verdict:
    """Turn what ends by itself into ``unknown`` when nobody can have seen it go on."""
    signs = [e for e in (whole.last(Fact.PROCESS_ALIVE), whole.last(Fact.BOX_ALIVE)) if e is not None]
    verdict = structs.replace(verdict, because=distinct([*verdict.because, *signs]))
    if not _ends_by_itself(verdict):
        return verdict
    seen = whole.heard_ms
    heard = verdict.since_ms if seen is None else seen
    frozen, silent = whole.last(Fact.BOX_FROZEN), whole.last(Fact.BOX_SILENT)
    if frozen is not None and not any(_lives_after(i, frozen) for i in whole.items):
        return _lost_sight(verdict, frozen.at_ms, "the box is frozen", frozen)
    if silent is not None and heard < silent.at_ms:
        return _lost_sight(verdict, heard, "the box does not answer", silent)
    if now_ms - heard > limits.silence_ms:
        return _lost_sight(verdict, heard, "the box has been silent")
    voice = max((i.seen_ms for i in whole.items if i.source in _AGENT_VOICES), default=heard)
    if verdict.state is not RunState.STARTING and now_ms - voice > limits.quiet_ms:
        return _lost_sight(verdict, voice, "the agent has shown nothing for long")
    return verdict


def _lives_after(item: Evidence, frozen: Evidence) -> bool:
    return item.source in BOX_SOURCES and item.fact is not Fact.BOX_FROZEN and item.at_ms > frozen.at_ms


def _lost_sight(was: Verdict, since_ms: int, why: str, first: Evidence | None = None) -> Verdict:
    because = was.because if first is None else distinct([first, *was.because])
    problem = f"{why}; it was {was.state.value}"
    return Verdict(state=RunState.UNKNOWN, since_ms=since_ms, because=because, problem=problem)
