"""What the shell needs of the audit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from thopter.model.api.audit import AuditPage, AuditVerdict
from thopter.store.audit import Wanted


class AuditPort(Protocol):
    """See :class:`thopter.fleet.audit.Audits`."""

    async def page(self, want: Wanted, after: int, limit: int, last: bool, wait_ms: int) -> AuditPage:
        """Records in order, waiting for more when there are none."""

    def export(self) -> AsyncIterator[bytes]:
        """All of it, a line each."""

    async def verify(self, expect: str) -> AuditVerdict:
        """Look over the whole chain."""
