"""What thopters may spend of their models, by the hub's API."""

from __future__ import annotations

from thopter.mesh.client import HubClient
from thopter.model.api.budget import BudgetRequest, BudgetView


def view(hub: HubClient, name: str) -> BudgetView:
    """What it may spend, and has spent."""
    return hub._get(hub._of(name, "budget"), BudgetView)


def change(hub: HubClient, name: str, request: BudgetRequest) -> BudgetView:
    """Let it spend more, or another amount; in force when this returns."""
    return hub._post(hub._of(name, "budget"), request, BudgetView, timeout=60.0)
