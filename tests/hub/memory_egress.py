"""Policies and egress for the fleet in memory: as little as the routes need."""

from __future__ import annotations

from thopter.model.api.egress import (
    Allowed,
    AllowRequest,
    EgressView,
    Finding,
    Findings,
    PolicyBook,
    PolicyText,
    TryRequest,
    Verdict,
)


class MemoryEgress:
    """See ``thopter.hub.ports.egress.EgressPort``."""

    async def policies(self) -> PolicyBook:
        return PolicyBook(file="policy.toml", source="shipped", default="default")

    async def check(self, req: PolicyText) -> Findings:
        return Findings(problems=[Finding(line=1, text="empty")] if not req.text else [], warnings=[])

    async def test(self, req: TryRequest) -> Verdict:
        return Verdict(verdict="deny", policy=req.policy or "default", reason="in memory")

    async def view(self, name: str, limit: int, everything: bool) -> EgressView:
        return EgressView(name=name, policy="default", why="the default", up=True)

    async def allow(self, name: str, req: AllowRequest) -> Allowed:
        return Allowed(host=req.host, port=req.port, scope=req.scope, policy="default")
