"""The check at each door, before anything else looks at a request: Host, Origin, Sec-Fetch, token.

The same for HTTP and WebSocket, for every path (unknown ones too), on the unix socket and on TCP.
There is no CORS here: no answer ever says that another origin may read it.
"""

from __future__ import annotations

import asyncio
import logging

from thopter.hub.answers import SECURITY_HEADERS, not_allowed, send_error, throttled, unexpected
from thopter.hub.asgi import App, Message, Receive, Scope, Send, headers_named
from thopter.hub.auth import ADMIN, OPERATOR, Holder, Tokens, source_of
from thopter.hub.doors import Door
from thopter.hub.page import Page, send_page
from thopter.hub.peer import announce
from thopter.hub.sessions import LOGIN_PATH, NOBODY, ORIGIN_KEY, cookie_name, cookies_named
from thopter.hub.tickets import ticket_in
from thopter.model.errors import ThopterError

log = logging.getLogger("thopter.hub.guard")

HOLDER_KEY, TICKET_KEY = "thopter.holder", "thopter.ticket"
_SAME_ORIGIN: tuple[list[bytes], ...] = ([], [b"same-origin"], [b"none"])


class Guard:
    """ASGI middleware: lets in who may come, puts the security headers on every answer, and turns
    whatever goes wrong inside into a JSON error with an id that is in the log (never a traceback)."""

    def __init__(self, app: App, door: Door, page: Page) -> None:
        self._app = app
        self._door = door
        self._page = page
        self._hosts = frozenset(host.encode() for host in door.hosts)
        self._throttled = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or one WebSocket."""
        answer = _Answer(send)
        websocket = scope["type"] == "websocket"
        file = await self._page.find(scope["path"]) if scope.get("method") in ("GET", "HEAD") else None
        refusal = self._refusal(scope, file is not None)
        if refusal is not None:
            await send_error(answer, refusal, websocket)
            return
        if file is not None:  # nothing in it is secret, and nobody can log in without it
            await send_page(scope, send, file)
            return
        holder = await self._holder(scope)
        if isinstance(holder, ThopterError):
            await send_error(answer, holder, websocket)
            return
        scope[HOLDER_KEY] = holder
        token = None if self._door.tokens is None else holder.name
        announce(scope, token, ADMIN in holder.scopes)
        try:
            await self._app(scope, receive, answer)
        except ThopterError as error:
            await answer.fail(error, websocket)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: nothing leaves it but JSON
            await answer.fail(unexpected(scope, error), websocket)

    def _refusal(self, scope: Scope, page: bool) -> ThopterError | None:
        hosts = headers_named(scope, b"host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return not_allowed(
                "this hub does not answer to that Host",
                "on TCP use exactly the address it listens on",
                status=421,
            )
        origins = headers_named(scope, b"origin")
        scope[ORIGIN_KEY] = self._door.origin_of(hosts[0].lower().decode())
        if origins and origins != [scope[ORIGIN_KEY].encode()]:
            return not_allowed("another origin may not call this hub")
        if headers_named(scope, b"sec-fetch-site") not in _SAME_ORIGIN and not (page and _followed(scope)):
            return not_allowed("another site may not call this hub")
        return None

    async def _holder(self, scope: Scope) -> Holder | ThopterError:
        """Who calls, or why they may not; wrong guesses are counted by where they come from."""
        tokens = self._door.tokens
        if tokens is None:
            return OPERATOR
        given = headers_named(scope, b"authorization")
        ticket = None if given else ticket_in(scope["query_string"])
        by_cookie = not given and ticket is None and scope["type"] == "http"
        if by_cookie and _logs_in(scope):
            return NOBODY
        by_cookie = by_cookie and bool(cookies_named(scope, cookie_name(scope)))
        if ticket is not None:
            holder = self._by_ticket(tokens, ticket, scope)
            scope[TICKET_KEY] = True
        elif by_cookie:
            holder = await self._by_cookie(tokens, scope)
        else:
            holder = await tokens.holder(given, tokens.throttle.clock.now_ms())
        if holder is not None:
            self._throttled = False
            return holder
        wait = tokens.throttle.failed(caller_source(scope))
        if wait:
            if not self._throttled:
                log.warning("failed attempts at %s are being throttled", self._door.label)
                self._throttled = True
            return throttled(wait)
        log.info("an attempt without a right token at %s", self._door.label)
        if not given and ticket is None and (by_cookie or headers_named(scope, b"sec-fetch-site")):
            return not_allowed(
                "this page is not logged in", "thopter dashboard", status=401, reason="session"
            )
        hint = "send 'Authorization: Bearer TOKEN'; see 'thopter token'"
        if ticket is not None:
            hint = "a ticket is good once, for one path, for half a minute: POST /v1/tickets makes another"
        return not_allowed("a right token is needed here", hint, status=401)

    def _by_ticket(self, tokens: Tokens, ticket: str, scope: Scope) -> Holder | None:
        """Who comes with a ticket. A WebSocket with one comes from a page, so it must say from which."""
        found = tokens.tickets.redeem(ticket, scope["path"])
        if scope["type"] == "websocket" and not headers_named(scope, b"origin"):
            return None
        return found

    async def _by_cookie(self, tokens: Tokens, scope: Scope) -> Holder | None:
        """Who comes with a cookie and its key. A change says from which page it comes; whatever comes from
        elsewhere than a page of ours, as far as the browser tells, is nobody's."""
        site, origin = headers_named(scope, b"sec-fetch-site"), headers_named(scope, b"origin")
        if site not in ([], [b"same-origin"]) or (scope["method"] not in ("GET", "HEAD") and not origin):
            return None
        if not tokens.loaded.is_set():
            await tokens.known()
        return tokens.pages.holder(scope, tokens.throttle.clock.now_ms())


def _logs_in(scope: Scope) -> bool:
    """Whether this is a page that wants to log in: it has nothing to show yet but its code."""
    asks = scope["method"] == "POST" and scope["path"] == LOGIN_PATH
    return asks and bool(headers_named(scope, b"origin"))


def _followed(scope: Scope) -> bool:
    """True when somebody followed a link to here (in a mail, in a note): the page itself may be opened so;
    it comes without their cookie, and in no frame."""
    asked = headers_named(scope, b"sec-fetch-mode"), headers_named(scope, b"sec-fetch-dest")
    return asked == ([b"navigate"], [b"document"])


def caller_source(scope: Scope) -> str:
    """Where a caller is; see :func:`source_of`."""
    client = scope.get("client")
    return source_of(str(client[0])) if client else ""


class _Answer:
    """``send`` that adds the security headers and knows whether an answer has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] in _STARTS:
            self.begun = True
            message["headers"] = [*message.get("headers", ()), *SECURITY_HEADERS]
        await self._send(message)

    async def fail(self, error: ThopterError, websocket: bool) -> None:
        """Answer the error; when half an answer is out already, cut the connection instead, so that
        the client can't take it for a whole one."""
        if self.begun:
            raise _CutOff(error.message)
        await send_error(self, error, websocket)


_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


class _CutOff(Exception):
    """Raised to the server so that it closes the connection in the middle of an answer."""
