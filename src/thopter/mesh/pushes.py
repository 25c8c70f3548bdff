"""The calls about pushes; see :class:`thopter.mesh.client.HubClient` for what all promise."""

from __future__ import annotations

from thopter.mesh.client import HubClient
from thopter.model.api import Nothing
from thopter.model.api.pushes import PushList, PushRequest


def view(hub: HubClient, name: str) -> PushList:
    """How a thopter's branches stand upstream."""
    return hub._get(hub._of(name, "pushes"), PushList)


def order(hub: HubClient, name: str, request: PushRequest) -> PushList:
    """Bring a branch upstream; durable when this returns."""
    return hub._post(hub._of(name, "pushes"), request, PushList)


def refresh(hub: HubClient, name: str) -> PushList:
    """Bring what is new upstream into the mirrors of a thopter."""
    return hub._post(hub._of(name, "refresh"), Nothing(), PushList, timeout=1800.0)
