"""What the API tells of further agents in a thopter's box."""

from __future__ import annotations

from msgspec import Struct, field

from thopter.model.evidence import Evidence


class AgentView(Struct, kw_only=True):
    """One agent of the box that is not the run's own; ``name`` is ``NAME.2`` for the first of them.

    ``state`` and ``reason`` are as those of a thopter, and ``ended`` when its process is over (``problem``
    says how, when that was not as it should be). ``by``: who started it, ``agent`` or ``person``, empty
    when that is not known. ``because``: what its state rests on, strongest first. Words are a box's.
    """

    name: str
    number: int
    session: str = ""
    kind: str = ""
    state: str = ""
    reason: str = ""
    since_ms: int = 0
    by: str = ""
    pid: int = 0
    tty: str = ""
    pane: str = ""
    cwd: str = ""
    headless: bool = False
    first_ms: int = 0
    last_message: str = ""
    last_message_ms: int = 0
    problem: str = ""
    contradiction: str = ""
    because: list[Evidence] = field(default_factory=list)
