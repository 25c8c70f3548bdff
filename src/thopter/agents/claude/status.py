"""What Claude Code's own status file says: ``~/.claude/sessions/<pid>.json``."""

from __future__ import annotations

from typing import Any

from thopter.agents.claude.parse import load, moment, text, word
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.reading import Program, Reading

_FACTS = {"busy": Fact.BUSY, "idle": Fact.IDLE, "shell": Fact.IDLE}
_QUESTIONS = ("input needed", "dialog open")


def read(path: str, content: bytes, seen_ms: int) -> Reading:
    """Understand a status file; never raises. It is dated from when that status began, so reading
    it again gives the same evidence with a later ``seen_ms``."""
    data = load(content)
    if isinstance(data, str):
        return Reading(problem=f"status file {word(path)}: {data}")
    session = word(data.get("sessionId"))
    program = _program(data)
    if data.get("kind", "interactive") != "interactive":
        # A run without a terminal, such as a nested ``claude -p``.
        return Reading(session=session, program=program)
    status, waiting_for = word(data.get("status")), word(data.get("waitingFor"))
    since = moment(data.get("statusUpdatedAt")) or moment(data.get("updatedAt"))
    if status == "waiting":
        fact = Fact.QUESTION_ASKED if waiting_for in _QUESTIONS else Fact.PERMISSION_ASKED
    elif status in _FACTS:
        fact = _FACTS[status]
    else:
        return Reading(session=session, program=program, problem=f"status {status!r} is not known")
    if since is None:
        return Reading(session=session, program=program, problem="status file: it has no time")
    said = f"status {status}" + (f": {waiting_for}" if waiting_for else "")
    evidence = Evidence(
        source=Source.SCREEN, fact=fact, at_ms=min(since, seen_ms), seen_ms=seen_ms, detail=said
    )
    return Reading(evidence=(evidence,), session=session, program=program)


def _program(data: dict[str, Any]) -> Program | None:
    """Which process wrote the file, when it says so; ``-p`` (by its entry point) has no screen."""
    pid, started = data.get("pid"), text(data.get("procStart"), 20)
    if not isinstance(pid, int) or isinstance(pid, bool) or not 1 < pid < 1 << 31:
        return None
    ticks = int(started) if started.isascii() and started.isdigit() else 0
    headless = data.get("kind", "interactive") != "interactive" or data.get("entrypoint") == "sdk-cli"
    return Program(pid=pid, started=ticks, cwd=text(data.get("cwd"), 4096), headless=headless)
