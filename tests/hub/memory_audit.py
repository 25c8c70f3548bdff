"""The audit in memory, for tests of the hub's shell."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from thopter.model.api.audit import AuditPage, AuditVerdict
from thopter.model.errors import BadInput


class MemoryAudit:
    """See ``thopter.hub.ports.audit.AuditPort``."""

    async def page(self, want: Any, after: int, limit: int, last: bool, wait_ms: int) -> AuditPage:
        return AuditPage(lines=[], next=after, head=0)

    async def export(self) -> AsyncIterator[bytes]:
        yield b""

    async def verify(self, expect: str) -> AuditVerdict:
        if expect:
            raise BadInput("a head is NUMBER:HASH")
        return AuditVerdict(ok=True, records=0, head="0:" + "0" * 64)
