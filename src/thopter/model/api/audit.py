"""The audit on the wire."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field


class AuditLine(Struct, kw_only=True):
    """One record. ``by``: who asked for it (``hub``: nobody waited for it); ``name``: of the thopter;
    ``hash``: of this record and all before it."""

    seq: int
    at_ms: int
    kind: str
    by: str = ""
    box: str = ""
    name: str = ""
    run: str = ""
    flow: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    hash: str = ""


class AuditPage(Struct, kw_only=True):
    """Records in order. ``next``: read on after this number; ``head``: the newest number there is."""

    lines: list[AuditLine]
    next: int
    head: int


class AuditFault(Struct, kw_only=True):
    """Something wrong with the chain, at record ``seq`` (0: at none)."""

    seq: int
    text: str


class AuditVerdict(Struct, kw_only=True):
    """Whether the chain is whole. ``head`` is ``NUMBER:HASH``, to be written down elsewhere and given to
    ``expect`` another time; ``anchored``: the newest number in the file of anchors."""

    ok: bool
    records: int
    head: str
    anchors: int = 0
    anchored: int = 0
    expected: str = ""
    file: str = ""
    faults: list[AuditFault] = field(default_factory=list)
