"""Events: append-only facts numbered by the hub; what SSE streams and audits are made of."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field


class Event(Struct, frozen=True, kw_only=True):
    """One event. ``seq`` is 0 until the store has numbered it; readers ignore unknown kinds.

    Kinds so far: ``hub.started``, ``box.created``, ``box.state``, ``box.destroyed``,
    ``run.created``, ``run.state``, ``run.told``, ``flow.step``, ``flow.done``, ``entry``
    (data is an Entry), ``note``, ``message`` (a kept message changed its state), ``label`` (note or
    status line set), ``box.said`` (what the box's own ``thopter-status`` reported).
    ``egress.denied``, ``egress.asked`` (of a box by the egress gateway), ``egress.allowed`` (by a person).
    ``run.budget`` (``data.level``: near, spent, raised, unpriced).
    ``approval.asked`` and ``approval.answered`` (``data.state`` says how).
    """

    kind: str
    at_ms: int
    seq: int = 0
    box: str = ""
    run: str = ""
    flow: str = ""
    data: dict[str, Any] = field(default_factory=dict)
