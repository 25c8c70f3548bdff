"""What the shell needs of the record of the page's sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from thopter.store.page_sessions import SessionRow


class PageSessionsPort(Protocol):
    """See :class:`thopter.fleet.page_sessions.PageSessions`."""

    async def all(self) -> list[SessionRow]:
        """Every session that is kept."""

    async def offered(self, role: str, expires_ms: int) -> None:
        """Record that a link was made."""

    async def begin(self, row: SessionRow) -> None:
        """Record a login; Conflict when there are too many."""

    async def end(self, ids: Sequence[str] | None, why: str) -> list[str]:
        """Forget these (None: all); returns those that were there."""

    async def seen(self, when: Mapping[str, int]) -> None:
        """Note when sessions were last used."""
