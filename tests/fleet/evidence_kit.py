"""Short words for evidence in tests: ``hook(Fact.TURN_ENDED, 5)`` is dated 5 s after ``T``."""

from __future__ import annotations

from thopter.fleet.truth import fold
from thopter.model.evidence import Evidence, Fact, Source, Verdict

T = 1_800_000_000_000


def ms(seconds: float) -> int:
    """Return the moment ``seconds`` after ``T``."""
    return T + round(seconds * 1000)


def said(source: Source, fact: Fact, at: float, seen: float | None = None, **data: object) -> Evidence:
    """Return evidence dated ``at`` seconds, read at once unless ``seen`` says later."""
    return Evidence(
        source=source, fact=fact, at_ms=ms(at), seen_ms=ms(at if seen is None else seen), data=data
    )


def hook(fact: Fact, at: float, **data: object) -> Evidence:
    """Return what a hook told."""
    return said(Source.HOOK, fact, at, **data)


def status(fact: Fact, at: float, seen: float | None = None) -> Evidence:
    """Return a reading of the status file."""
    return said(Source.SCREEN, fact, at, seen)


def alive(at: float) -> Evidence:
    """Return a heartbeat."""
    return said(Source.HEARTBEAT, Fact.BOX_ALIVE, at)


def exited(at: float, code: int | None = 0, pid: int = 100) -> Evidence:
    """Return the end of the agent's process."""
    data = {"pid": pid} if code is None else {"pid": pid, "code": code}
    return said(Source.PROCESS, Fact.PROCESS_EXITED, at, **data)


def launched(at: float = 0.0, **data: object) -> list[Evidence]:
    """Return a launch: the hub's word, boxd's, and the session's."""
    return [
        said(Source.HUB, Fact.LAUNCHED, at, **data),
        said(Source.PROCESS, Fact.PROCESS_ALIVE, at + 0.01, pid=100),
        hook(Fact.SESSION_STARTED, at + 0.5),
    ]


def at_work(at: float = 1.0) -> list[Evidence]:
    """Return a launch and a first prompt taken at ``at``."""
    return [*launched(prompt=True), hook(Fact.TURN_STARTED, at)]


def finished(at: float = 5.0) -> list[Evidence]:
    """Return a first turn that has ended at ``at``."""
    return [*at_work(), hook(Fact.TURN_ENDED, at)]


def verdict(*evidence: Evidence, now: float) -> Verdict:
    """Fold at ``now`` seconds."""
    return fold(evidence, ms(now))


def state(*evidence: Evidence, now: float) -> str:
    """Return ``state`` or ``state/reason`` at ``now`` seconds."""
    found = verdict(*evidence, now=now)
    return found.state.value + (f"/{found.reason.value}" if found.reason else "")
