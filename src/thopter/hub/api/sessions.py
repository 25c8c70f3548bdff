"""Routes about the page's sessions: links to log in with, the login, who is logged in, ending it."""

from __future__ import annotations

import re

from thopter.hub.answers import bad_request, not_allowed, throttled
from thopter.hub.auth import ADMIN, READ
from thopter.hub.life import Hub
from thopter.hub.qr import rows_of
from thopter.hub.routes import Call, NoQuery, Route
from thopter.hub.sessions import LIFE_MS, LOGIN, LOGIN_PATH, own_id, set_cookie
from thopter.kit.sanitize import one_line
from thopter.model.api import Nothing
from thopter.model.api.sessions import (
    Ended,
    LinkRequest,
    Login,
    LoginLink,
    LoginRequest,
    Role,
    SessionList,
    SessionView,
)
from thopter.model.errors import NotFound
from thopter.store.page_sessions import SessionRow

_AGENT_MAX = 300
_LOGIN_MAX = 4096  # anybody may send it


async def make_link(call: Call[NoQuery, LinkRequest]) -> LoginLink:
    """A link that logs somebody in, once. Opens a loopback address when the hub listens on none."""
    base = await call.hub.page_address(call.visit.origin)
    role = call.body.role
    code, expires_ms = call.hub.tokens.pages.link(role)
    await call.fleet.page_sessions.offered(role, expires_ms)
    url = f"{base}/login#{code}"
    local = re.match(r"https?://(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:|$)", base) is not None
    return LoginLink(url=url, role=role, expires_ms=expires_ms, local=local, qr=rows_of(url))


async def log_in(call: Call[NoQuery, LoginRequest]) -> Login:
    """Make a session of a link's code; the answer sets the cookie and tells the key."""
    tokens, visit = call.hub.tokens, call.visit
    role = tokens.pages.redeem(call.body.code)
    if role is None:
        wait = tokens.throttle.failed(visit.source)
        if wait:
            raise throttled(wait)
        raise not_allowed(
            "this link is not good any more: it was used, or is older than five minutes",
            "make another: thopter dashboard",
            status=401,
            reason="link",
        )
    device, agent = one_line(call.body.device, 60).strip(), one_line(visit.agent, _AGENT_MAX)
    made = tokens.pages.fresh(role, device, agent)
    await call.fleet.page_sessions.begin(made.row)
    tokens.pages.add(made.row)
    call.headers.append((b"set-cookie", set_cookie(visit.origin, made.cookie, LIFE_MS // 1000)))
    return Login(session=view_of(call.hub, made.row, made.row.id), key=made.key)


async def list_sessions(call: Call[NoQuery, Nothing]) -> SessionList:
    """Who is logged in: all for an admin, else one's own."""
    mine = own_id(call.holder)
    rows = [r for r in await call.hub.sessions(call.parts) if ADMIN in call.holder.scopes or r.id == mine]
    return SessionList(sessions=[view_of(call.hub, row, mine) for row in rows])


async def end_session(call: Call[NoQuery, Nothing]) -> Nothing:
    """End one: an admin any, others their own. What is open with it is cut off."""
    mine = own_id(call.holder)
    wanted = mine if call.key == "current" else call.key
    if not wanted:
        raise bad_request("you have no session: you call with a token or from this machine")
    may = wanted == mine or ADMIN in call.holder.scopes  # others are none of a viewer's business
    why = "logged out" if wanted == mine else "revoked"
    gone = await call.fleet.page_sessions.end([wanted], why) if may else []
    if not gone:
        raise NotFound(f"there is no session {wanted[:80]!r}", hint="see 'thopter dashboard --list'")
    _let_go(call, gone, mine)
    return Nothing()


async def end_all_sessions(call: Call[NoQuery, Nothing]) -> Ended:
    """End all, the caller's own too; unused links are worth nothing any more."""
    call.hub.tokens.pages.drop_links()
    gone = await call.fleet.page_sessions.end(None, "logged out everywhere")
    _let_go(call, gone, own_id(call.holder))
    return Ended(ended=len(gone))


def _let_go(call: Call[NoQuery, Nothing], gone: list[str], mine: str) -> None:
    if mine in gone:
        call.headers.append((b"set-cookie", set_cookie(call.visit.origin, "", 0)))
    for id_ in gone:
        call.hub.tokens.pages.remove(id_)


def view_of(hub: Hub, row: SessionRow, mine: str) -> SessionView:
    """A session as it is shown to the session ``mine``."""
    role: Role = "admin" if row.role == "admin" else "operator" if row.role == "operator" else "viewer"
    return SessionView(
        id=row.id, role=role, device=row.device, agent=row.agent, created_ms=row.created_ms,
        seen_ms=hub.tokens.pages.seen_ms(row), expires_ms=row.expires_ms, current=row.id == mine,
    )  # fmt: skip


ROUTES = (
    Route(
        method="GET",
        path=LOGIN_PATH,
        summary="Pages that are logged in: an admin sees all, others their own",
        scope=READ,
        handler=list_sessions,
        response=SessionList,
    ),
    Route(
        method="POST",
        path=LOGIN_PATH,
        summary="Log a page in with the code of a link; needs no token, and an Origin",
        scope=LOGIN,
        handler=log_in,
        request=LoginRequest,
        response=Login,
        body_max=_LOGIN_MAX,
        status=201,
        mutating=True,
        repeatable=True,
    ),
    Route(
        method="POST",
        path="/v1/sessions/links",
        summary="A link that logs a page in: good once, for five minutes",
        scope=ADMIN,
        handler=make_link,
        request=LinkRequest,
        response=LoginLink,
        status=201,
        mutating=True,
        repeatable=True,
    ),
    Route(
        method="POST",
        path="/v1/sessions/end-all",
        summary="Log every page out, and end what is open with it",
        scope=ADMIN,
        handler=end_all_sessions,
        response=Ended,
        mutating=True,
        repeatable=True,
    ),
    Route(
        method="DELETE",
        path="/v1/sessions/{id}",
        summary="Log one page out ('current': the caller's); an admin any, others their own",
        scope=READ,
        handler=end_session,
        mutating=True,
        repeatable=True,
    ),
)
