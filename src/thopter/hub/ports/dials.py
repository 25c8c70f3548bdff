"""What the hub's shell needs for connections into boxes."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from thopter.hub.ports.works import ExecSession


class DialsPort(Protocol):
    """Connections to ports inside boxes."""

    def open(self, name: str, port: int) -> AbstractAsyncContextManager[ExecSession]:
        """Connect on entering (NotNow when nothing listens there), close on leaving."""
