"""The calls about secrets; see :class:`thopter.mesh.client.HubClient` for what all promise."""

from __future__ import annotations

from thopter.mesh.client import HubClient
from thopter.model.api import Nothing
from thopter.model.api.secrets import (
    BindRequest,
    Bound,
    Change,
    SecretChanged,
    SecretList,
    SecretView,
    UnbindRequest,
    Unbound,
)


def secrets(hub: HubClient) -> list[SecretView]:
    """Names, and where each may be used."""
    return hub._get("/v1/secrets", SecretList).secrets


def bind(hub: HubClient, request: BindRequest) -> Bound:
    """Let boxes of a policy use a secret on a host; durable when this returns."""
    return hub._post("/v1/secrets/bind", request, Bound)


def unbind(hub: HubClient, request: UnbindRequest) -> Unbound:
    """Take that back."""
    return hub._post("/v1/secrets/unbind", request, Unbound)


def changed(hub: HubClient, name: str, change: Change) -> None:
    """Let gateways use what is stored now."""
    hub._post("/v1/secrets/changed", SecretChanged(name=name, change=change), Nothing)
