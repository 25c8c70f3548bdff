"""What the shell needs of policies and egress."""

from __future__ import annotations

from typing import Protocol

from thopter.model.api.egress import (
    Allowed,
    AllowRequest,
    EgressView,
    Findings,
    PolicyBook,
    PolicyText,
    TryRequest,
    Verdict,
)


class EgressPort(Protocol):
    """See :class:`thopter.fleet.egress.Egress`."""

    async def policies(self) -> PolicyBook:
        """Every policy, and whether the file is in force."""

    async def check(self, req: PolicyText) -> Findings:
        """Look at a text as if it were the policy file."""

    async def test(self, req: TryRequest) -> Verdict:
        """Would that go out?"""

    async def view(self, name: str, limit: int, everything: bool) -> EgressView:
        """What a thopter may, and what it was refused."""

    async def allow(self, name: str, req: AllowRequest) -> Allowed:
        """A person's word about a host."""
