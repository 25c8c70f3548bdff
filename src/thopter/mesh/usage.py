"""What runs used of their models, by the hub's API."""

from __future__ import annotations

from thopter.mesh.client import HubClient
from thopter.mesh.http import query
from thopter.model.api.usage import UsageReport


def usage_report(hub: HubClient, name: str = "", everything: bool = False) -> UsageReport:
    """By run: of one thopter, or of all; ``everything``: also of those that are gone."""
    return hub._get("/v1/usage" + query(name=name, all=everything), UsageReport)
