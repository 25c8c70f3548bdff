"""The calls about policies and egress; see :class:`thopter.mesh.client.HubClient` for what all promise."""

from __future__ import annotations

from thopter.mesh.client import HubClient
from thopter.mesh.http import query
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


def policies(hub: HubClient) -> PolicyBook:
    """Every policy, and whether the file is in force."""
    return hub._get("/v1/policies", PolicyBook)


def check(hub: HubClient, text: str) -> Findings:
    """Look at a text as if it were the policy file."""
    return hub._post("/v1/policies/check", PolicyText(text=text), Findings)


def test(hub: HubClient, url: str, method: str = "GET", policy: str = "", name: str = "") -> Verdict:
    """Would that go out, by a policy or for a thopter?"""
    request = TryRequest(url=url, method=method, policy=policy, name=name)
    return hub._post("/v1/policies/test", request, Verdict)


def view(hub: HubClient, name: str, limit: int = 100, everything: bool = False) -> EgressView:
    """What a thopter may, and what it was refused."""
    return hub._get(hub._of(name, "egress") + query(limit=limit, all=everything), EgressView)


def allow(hub: HubClient, name: str, request: AllowRequest) -> Allowed:
    """Allow a thopter a host; durable when this returns (``once``: for as long as the gateway lives)."""
    verb = "egress/always" if request.scope == "always" else "egress/allow"
    return hub._post(hub._of(name, verb), request, Allowed)
