"""Which agent of a box speaks. Several report through the same hooks (a nested ``claude -p``, one that a
person started in a terminal): only the run's own changes the run's state, the others are told apart.

A process counts more than a session: two can be in the same session (``claude -c`` beside the first).
"""

from __future__ import annotations

from typing import Any

from msgspec import structs

from thopter.fleet.evidence_window import admit
from thopter.fleet.live import LiveBox
from thopter.model.evidence import Fact
from thopter.model.nouns import Entry, Role
from thopter.model.reading import Program, Reading


def spoken(record: dict[str, Any], reading: Reading) -> Reading:
    """A hook's reading with the process that its record names, where it names one."""
    pid, started = record.get("pid"), record.get("started")
    if not isinstance(pid, int) or isinstance(pid, bool) or not 1 < pid < 1 << 31:
        return reading
    ticks = started if isinstance(started, int) and not isinstance(started, bool) else 0
    return structs.replace(reading, program=Program(pid=pid, started=ticks, here=record.get("here") is True))


def own(live: LiveBox, reading: Reading) -> Reading:
    """A hook's reading when it is of the run's own agent, else one without facts and receipt, after the
    other agent has been told of it.

    The run follows its program into another session when that takes the first one's place (cleared, or
    another one resumed in it), when nothing runs that could be the first, and when the program that was
    launched comes up with an id of its own making.
    """
    if not reading.session or live.run is None or not live.session:
        return reading
    starts = next((e.at_ms for e in reading.evidence if e.fact is Fact.SESSION_STARTED), None)
    if not _is_own(live, reading, starts is not None):
        return another(live, reading)
    if reading.session != live.session:
        live.follow_session(reading.session)
    if starts is not None:
        live.session_ms = max(live.session_ms, starts)
    live.session_left = reading.leaves
    return reading


def _is_own(live: LiveBox, reading: Reading, starts: bool) -> bool:
    program, same = reading.program, reading.session == live.session
    if program is not None and live.pid and live.agent_running:
        return program.pid == live.pid
    if program is not None and starts and not live.agent_running:
        return program.here  # somebody started it where the run's agent was
    if program is not None and live.others.find("", program) is not None:
        return False
    if same:
        return live.agent_running or not live.others.living(reading.session)
    known = live.agent_running and live.others.find(reading.session) is not None
    return starts and not known and _follows(live, reading)


def _follows(live: LiveBox, reading: Reading) -> bool:
    if live.session_left or not live.agent_running:
        return True
    if reading.takes_over and not len(live.others):
        return True
    launched = max((e.at_ms for e in live.evidence if e.fact is Fact.LAUNCHED), default=0)
    seen = [e.at_ms for e in live.evidence if e.fact is Fact.SESSION_STARTED]
    return max(live.session_ms, *seen, 0) < launched


def another(live: LiveBox, reading: Reading) -> Reading:
    """Tell the other agent that this is of; what is left for the run. A session that was the run's own
    before is nobody else's."""
    evidence = [e for e in (admit(e, live.offset_ms) for e in reading.evidence) if live.recent(e)]
    known = live.others.find(reading.session, reading.program)
    if known is not None or reading.program is not None or (evidence and not live.was_own(reading.session)):
        live.others.hear(reading, evidence, live.now_ms())
    return foreign(reading)


def written(live: LiveBox, reading: Reading) -> Reading:
    """The same for a line of a transcript, which never makes a session the run's own, nor an agent known
    that was not. What is said in a session that the run was in before, or comes from, is its record."""
    if not reading.session or not live.session:
        return reading
    if reading.session == live.session:
        # Another agent in the very same session: whose the line is can't be told, so it proves nothing.
        return structs.replace(reading, evidence=()) if live.others.living(reading.session) else reading
    if live.was_own(reading.session) and live.others.find(reading.session) is None:
        return foreign(reading)
    entries = [e for e in reading.entries if live.of_this_run(e)]
    evidence = [e for e in (admit(e, live.offset_ms) for e in reading.evidence) if live.recent(e)]
    words = next((e for e in reversed(entries) if _is_speech(e)), None)
    if words is not None or evidence:
        live.others.said(
            reading.session, words.summary if words else "", words.at_ms if words else 0, evidence,
            live.now_ms(),
        )  # fmt: skip
    return structs.replace(foreign(reading), aside=True)


def _is_speech(entry: Entry) -> bool:
    return entry.role in (Role.ASSISTANT, Role.USER) and not entry.sidechain


def status_is_own(live: LiveBox, reading: Reading) -> bool:
    """Whether a status file is the run's own agent's."""
    if reading.program is not None and live.pid:
        return reading.program.pid == live.pid
    return not reading.session or not live.session or reading.session == live.session


def foreign(reading: Reading) -> Reading:
    """Without what would be taken for the run's own doing."""
    return structs.replace(reading, evidence=(), receipt="", receipt_kind="")
