"""What the routes about approvals need from inside."""

from __future__ import annotations

from typing import Protocol

from thopter.model.api.approvals import AnswerRequest, Approval


class ApprovalsPort(Protocol):
    """``thopter.fleet.approvals.Approvals``."""

    async def asked(self, name: str, everything: bool) -> list[Approval]:
        """Those of one thopter (``name`` may be a unique prefix) or of all, oldest first."""

    async def answer(self, key: str, req: AnswerRequest) -> Approval:
        """Answer one, by its id."""
