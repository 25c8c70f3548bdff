"""Tokens and tickets for callers over TCP: requests and answers of the hub's API."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Scope = Literal["read", "operate", "approve", "admin"]
TokenName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,59}$")]


class TokenView(Struct, kw_only=True):
    """A token as it is listed; the token itself is told once, when it is made. ``expires_ms`` 0: never.
    ``used_ms``: when it was last shown to this hub since it started, 0 for not yet."""

    name: str
    scopes: list[str]
    created_ms: int = 0
    expires_ms: int = 0
    used_ms: int = 0


class TokenList(Struct, kw_only=True):
    """``GET /v1/tokens``."""

    tokens: list[TokenView]


class CreateToken(Struct, kw_only=True):
    """``POST /v1/tokens``. ``seconds``: how long it is good for, 0 for ever."""

    name: TokenName
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=4)]
    seconds: Annotated[int, Meta(ge=0, le=10 * 366 * 86400)] = 0


class NewToken(Struct, kw_only=True):
    """Its answer: the only time at which the token is told. The hub keeps a digest."""

    token: str
    view: TokenView


class RevokeToken(Struct, kw_only=True):
    """``POST /v1/tokens/revoke``; ``hub`` is the one in the hub's state folder: it is replaced."""

    name: Annotated[str, Meta(min_length=1, max_length=60)]


class TicketRequest(Struct, kw_only=True):
    """``POST /v1/tickets``: a ticket for one WebSocket or one stream of events at exactly ``path``."""

    path: Annotated[str, Meta(min_length=4, max_length=300)]


class Ticket(Struct, kw_only=True):
    """Good once, until ``expires_ms``, as ``?ticket=`` of that path; it may what its caller may."""

    ticket: str
    expires_ms: int
