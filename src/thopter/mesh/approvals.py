"""What agents ask, and answering it, by the hub's API."""

from __future__ import annotations

from thopter.mesh.client import HubClient
from thopter.mesh.http import query, quote
from thopter.model.api import approvals as api
from thopter.model.errors import BadInput


class ApprovalsClient:
    """The calls of ``hub/api/approvals.py`` on one hub; errors as those of :class:`HubClient`."""

    def __init__(self, hub: HubClient) -> None:
        self._hub = hub

    def asked(self, name: str = "", everything: bool = False) -> list[api.Approval]:
        """Of one thopter or of all, oldest first; ``everything``: also those that are over."""
        words = query(name=name, all=everything)
        return self._hub._get("/v1/approvals" + words, api.ApprovalList).approvals

    def answer(self, approval: api.Approval, request: api.AnswerRequest) -> api.Approval:
        """Answer one; its digest must be in the request."""
        key = approval.id
        if not key or key in (".", ".."):  # a path segment of this kind means another address
            raise BadInput(f"{key!r} does not name an approval", hint="see 'thopter approvals'")
        return self._hub._post(f"/v1/approvals/{quote(key)}", request, api.Approval)
