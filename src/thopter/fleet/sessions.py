"""Which session of a run's agent speaks: others in the same box (a nested ``claude -p``, say) report
through the same hooks, and must not change the run's state."""

from __future__ import annotations

from msgspec import structs

from thopter.fleet.live import LiveBox
from thopter.model.evidence import Fact
from thopter.model.sockets import Reading


def own(live: LiveBox, reading: Reading) -> Reading:
    """A hook's reading when it is of the run's own session, else one without facts and receipt.

    The run follows its program into another session when that takes the first one's place (cleared, or
    another one resumed in it), when nothing runs that could be the first, and when the program that was
    launched comes up with an id of its own making.
    """
    if not reading.session or live.run is None or not live.session:
        return reading
    starts = next((e.at_ms for e in reading.evidence if e.fact is Fact.SESSION_STARTED), None)
    if reading.session != live.session:
        if starts is None or not _follows(live, reading):
            return foreign(reading)
        live.follow_session(reading.session)
    if starts is not None:
        live.session_ms = max(live.session_ms, starts)
    live.session_left = reading.leaves
    return reading


def written(live: LiveBox, reading: Reading) -> Reading:
    """The same for a line of a transcript, which never makes a session the run's own; what was said in
    another one stays part of the record."""
    if not reading.session or not live.session or reading.session == live.session:
        return reading
    return foreign(reading)


def foreign(reading: Reading) -> Reading:
    """Without what would be taken for the run's own doing."""
    return structs.replace(reading, evidence=(), receipt="", receipt_kind="")


def _follows(live: LiveBox, reading: Reading) -> bool:
    if reading.takes_over or live.session_left or not live.agent_running:
        return True
    launched = max((e.at_ms for e in live.evidence if e.fact is Fact.LAUNCHED), default=0)
    seen = [e.at_ms for e in live.evidence if e.fact is Fact.SESSION_STARTED]
    return max(live.session_ms, *seen, 0) < launched
