"""What the shell needs of logs of thopters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from thopter.model.api.log import LogLines


class LogsPort(Protocol):
    """See :class:`thopter.fleet.session_log.SessionLogs`. Thopters that are gone are found too."""

    def entries(self, name: str) -> AsyncIterator[bytes]:
        """Every entry, one JSON object a line."""

    def raw(self, name: str) -> AsyncIterator[bytes]:
        """The transcripts as the agent wrote them."""

    def page(self, name: str, refresh: int) -> AsyncIterator[bytes]:
        """The conversation as one safe page of HTML."""

    async def steps(self, name: str) -> LogLines:
        """What the hub did with it."""
