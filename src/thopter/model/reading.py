"""What a piece of an agent's input means: facts, entries, and who of a box's agents it came from."""

from __future__ import annotations

from msgspec import Struct

from thopter.model.asks import Ask
from thopter.model.evidence import Evidence
from thopter.model.nouns import Entry


class Program(Struct, frozen=True, kw_only=True):
    """The process that an agent is, as the box numbers it; ``started`` (ticks since the machine's start)
    tells it from a later one of the same number. ``cwd``: its folder. ``here``: it is in the
    terminal of the run's agent. ``headless``: it has no screen."""

    pid: int
    started: int = 0
    cwd: str = ""
    here: bool = False
    headless: bool = False


class Reading(Struct, frozen=True, kw_only=True):
    """What a piece of input means: facts for truth, entries for the transcript."""

    evidence: tuple[Evidence, ...] = ()
    entries: tuple[Entry, ...] = ()
    session: str = ""
    transcript: str = ""  # path of the transcript inside the box, when the input names it
    receipt: str = ""  # text of a user prompt that has reached the agent
    receipt_kind: str = ""  # "taken" (it is the agent's prompt now) or "queued" (it is busy)
    problem: str = ""  # why the input could not be read (skipped and counted)
    takes_over: bool = False  # the session takes the place of the one before in the same program
    leaves: bool = False  # the session ends, but its program goes on with another one
    ask: Ask | None = None  # what a hook that can be held open asks a person
    aside: bool = False  # it is of another agent in the same box
    program: Program | None = None  # the agent that it is about, when the input names its process
