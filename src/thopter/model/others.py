"""A further agent in a thopter's box, beside the one of its run: who it is and what is known of it."""

from __future__ import annotations

from msgspec import Struct

from thopter.model.evidence import Evidence

NUMBER_FIRST = 2  # the run's own agent is the first


def numbered(name: str) -> tuple[str, int]:
    """``("bee", 3)`` for ``bee.3``; ``(name, 0)`` for what names a thopter (its names hold no dot)."""
    stem, dot, number = name.rpartition(".")
    good = dot and number.isascii() and number.isdigit() and len(number) < 10 and int(number) >= NUMBER_FIRST
    return (stem, int(number)) if good else (name, 0)


class OtherAgent(Struct, frozen=True, kw_only=True):
    """As recorded. ``number`` names it for as long as its box is there (``NAME.2``) and is given once.

    ``session`` is the one it is in now; ``pid`` and ``started`` (ticks) its process, 0 while not known.
    ``by``: started by the run's ``agent``, or by a ``person`` in a terminal of their own; empty: not
    known. ``evidence`` is its window; ``state`` and ``reason`` what it showed when last told of.
    """

    number: int
    session: str = ""
    pid: int = 0
    started: int = 0
    by: str = ""
    cwd: str = ""
    tty: str = ""
    pane: str = ""
    headless: bool = False
    first_ms: int = 0
    changed_ms: int = 0
    said: str = ""
    said_ms: int = 0
    state: str = ""
    reason: str = ""
    evidence: tuple[Evidence, ...] = ()
