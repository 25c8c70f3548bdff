"""Routes about who may call over TCP: tokens, and the tickets that stand for one in a web page."""

from __future__ import annotations

from thopter.hub.answers import bad_request
from thopter.hub.auth import ADMIN, READ, fresh_token
from thopter.hub.routes import Call, NoQuery, Route
from thopter.hub.tickets import TICKET_SECONDS
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


async def list_tokens(call: Call[NoQuery, Nothing]) -> TokenList:
    """All tokens, the hub's own first."""
    used = call.hub.tokens.used_ms
    own = TokenView(name="hub", scopes=["admin"], used_ms=used.get("hub", 0))
    rows = [
        TokenView(
            name=r.name,
            scopes=list(r.scopes),
            created_ms=r.created_ms,
            expires_ms=r.expires_ms,
            used_ms=used.get(r.name, 0),
        )
        for r in await call.fleet.tokens.all()
    ]
    return TokenList(tokens=[own, *rows])


async def create_token(call: Call[NoQuery, CreateToken]) -> NewToken:
    """Make one; the answer is the only place where it is told."""
    token = fresh_token()
    row = await call.fleet.tokens.add(call.body.name, token, list(call.body.scopes), call.body.seconds)
    call.hub.tokens.add(row.name, row.digest, row.scopes, row.expires_ms)
    view = TokenView(
        name=row.name, scopes=list(row.scopes), created_ms=row.created_ms, expires_ms=row.expires_ms
    )
    return NewToken(token=token, view=view)


async def revoke_token(call: Call[NoQuery, RevokeToken]) -> Nothing:
    """Accept one no more; the hub's own is replaced."""
    name = call.body.name
    await call.fleet.tokens.revoke(name)
    if name == "hub":
        call.hub.tokens.renew()
    else:
        call.hub.tokens.remove(name)
    return Nothing()


async def create_ticket(call: Call[NoQuery, TicketRequest]) -> Ticket:
    """Make a ticket for the caller."""
    path = call.body.path
    if not path.startswith("/v1/") or "?" in path or not path.isascii() or not path.isprintable():
        raise bad_request("a ticket is for a path such as /v1/events, without a query", status=422)
    until = call.hub.clock.now_ms() + int(TICKET_SECONDS * 1000)
    return Ticket(ticket=call.hub.tokens.tickets.issue(path, call.holder), expires_ms=until)


ROUTES = (
    Route(
        method="GET",
        path="/v1/tokens",
        summary="Tokens for callers over TCP: what they may and when they were used",
        scope=ADMIN,
        handler=list_tokens,
        response=TokenList,
    ),
    Route(
        method="POST",
        path="/v1/tokens",
        summary="Make a token; it is told once",
        scope=ADMIN,
        handler=create_token,
        request=CreateToken,
        response=NewToken,
        status=201,
        mutating=True,
        repeatable=True,
    ),
    Route(
        method="POST",
        path="/v1/tokens/revoke",
        summary="Accept a token no more and end its conversations; the hub's own is replaced",
        scope=ADMIN,
        handler=revoke_token,
        request=RevokeToken,
        mutating=True,
    ),
    Route(
        method="POST",
        path="/v1/tickets",
        summary="A ticket with which a web page opens one WebSocket or one stream of events",
        scope=READ,
        handler=create_ticket,
        request=TicketRequest,
        response=Ticket,
        status=201,
        alone=True,
    ),
)
