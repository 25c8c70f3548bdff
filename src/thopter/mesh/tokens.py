"""The calls about tokens; see :class:`thopter.mesh.client.HubClient` for what all promise."""

from __future__ import annotations

from thopter.mesh.client import HubClient
from thopter.model.api import Nothing
from thopter.model.api.tokens import (
    CreateToken,
    NewToken,
    RevokeToken,
    Ticket,
    TicketRequest,
    TokenList,
    TokenView,
)


def tokens(hub: HubClient) -> list[TokenView]:
    """All tokens; never what they are."""
    return hub._get("/v1/tokens", TokenList).tokens


def create(hub: HubClient, request: CreateToken) -> NewToken:
    """Make one; the only time at which it is told. Conflict when the name is taken."""
    return hub._post("/v1/tokens", request, NewToken)


def revoke(hub: HubClient, name: str) -> None:
    """Accept it no more."""
    hub._post("/v1/tokens/revoke", RevokeToken(name=name), Nothing)


def ticket(hub: HubClient, path: str) -> Ticket:
    """A ticket for one WebSocket or stream of events at ``path``."""
    return hub._post("/v1/tickets", TicketRequest(path=path), Ticket)
