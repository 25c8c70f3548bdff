"""Logged-in pages: links that are good once, the cookie and the key that stand for a session.

A browser sends a cookie to every port of a host, so also to a preview of a box's port. Alone it is worth
nothing: each call carries the page's key too, in a header, and that is kept where only the page's own
origin (port and all) can read it. Only digests are kept here and in the store.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING

from msgspec import Struct

from thopter.hub.asgi import Scope, headers_named
from thopter.hub.holders import ADMIN, APPROVE, OPERATE, READ, Holder, expanded
from thopter.model.ids import new_id

if TYPE_CHECKING:
    from thopter.kit.clock import Clock
    from thopter.store.page_sessions import SessionRow

ORIGIN_KEY = "thopter.origin"
LOGIN_PATH, LOGIN = "/v1/sessions", "login"
NOBODY = Holder("(login)", frozenset({LOGIN}))
ROLES: dict[str, tuple[str, ...]] = {
    "viewer": (READ,),
    "operator": (READ, OPERATE, APPROVE),
    "admin": (ADMIN,),
}
LINK_SECONDS = 300.0
LIFE_MS = 30 * 86_400_000
IDLE_MS = 14 * 86_400_000
PREFIX = "page:"  # of their holders' names; no token can be called so
_COOKIE_PREFIX, _KEY_PREFIX = "ths_", "thk_"
_LINKS = 64  # not used yet; the oldest goes first
_SECRET_MAX = 100


class _Link(Struct, frozen=True):
    role: str
    until: float


class _Known(Struct, frozen=True):
    row: SessionRow
    holder: Holder


class Fresh(Struct, frozen=True):
    """A session just made: what its browser is told, this once."""

    row: SessionRow
    cookie: str
    key: str


class Sessions:
    """The sessions and the unused links of one hub."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._links: OrderedDict[bytes, _Link] = OrderedDict()
        self._known: dict[str, _Known] = {}
        self._seen: dict[str, int] = {}
        self._untold: dict[str, int] = {}

    def link(self, role: str) -> tuple[str, int]:
        """Make a code that logs in once; it and the time at which it ends."""
        code = secrets.token_urlsafe(32)
        while len(self._links) >= _LINKS:
            self._links.popitem(last=False)
        self._links[_raw(code)] = _Link(role, self._clock.monotonic() + LINK_SECONDS)
        return code, self._clock.now_ms() + int(LINK_SECONDS * 1000)

    def redeem(self, code: str) -> str | None:
        """The role that a code gives, or None. Whatever the answer, it can't be used again."""
        found = self._links.pop(_raw(code), None)
        return found.role if found is not None and found.until > self._clock.monotonic() else None

    def drop_links(self) -> None:
        """No link that was made is good any more."""
        self._links.clear()

    def fresh(self, role: str, device: str, agent: str) -> Fresh:
        """Make a session; it counts when it was added."""
        from thopter.store.page_sessions import SessionRow  # the store is slow to import

        cookie, key = _COOKIE_PREFIX + secrets.token_urlsafe(32), _KEY_PREFIX + secrets.token_urlsafe(32)
        now = self._clock.now_ms()
        row = SessionRow(
            id=new_id("ses", now), digest=_raw(cookie).hex(), key_digest=_raw(key).hex(), role=role,
            device=device or device_of(agent), agent=agent, created_ms=now, seen_ms=now,
            expires_ms=now + LIFE_MS,
        )  # fmt: skip
        return Fresh(row, cookie, key)

    def add(self, row: SessionRow) -> None:
        """Accept it from now on."""
        holder = Holder(PREFIX + row.id, expanded(ROLES.get(row.role, ())), row.expires_ms, asyncio.Event())
        self._known[row.digest] = _Known(row, holder)
        self._seen[row.id] = row.seen_ms

    def remove(self, id_: str) -> None:
        """Accept it no more; its conversations end."""
        for digest in [d for d, known in self._known.items() if known.row.id == id_]:
            holder = self._known.pop(digest).holder
            if holder.over is not None:
                holder.over.set()
        self._seen.pop(id_, None)
        self._untold.pop(id_, None)

    def holder(self, scope: Scope, now_ms: int) -> Holder | None:
        """Whose cookie and key these are; None without both, or when the session is over."""
        cookies = cookies_named(scope, cookie_name(scope))
        keys = headers_named(scope, b"x-thopter")
        if len(cookies) != 1 or len(keys) != 1 or max(len(cookies[0]), len(keys[0])) > _SECRET_MAX:
            return None
        known = self._known.get(hashlib.sha256(cookies[0]).hexdigest())
        right = known.row.key_digest if known is not None else "0" * 64
        same = hmac.compare_digest(hashlib.sha256(keys[0]).digest(), bytes.fromhex(right))
        if known is None or not same or self.over(known.row, now_ms):
            return None
        self._seen[known.row.id] = self._untold[known.row.id] = now_ms
        return known.holder

    def over(self, row: SessionRow, now_ms: int) -> bool:
        """Whether a session has come to its end by itself."""
        seen = self._seen.get(row.id, row.seen_ms)
        return now_ms >= row.expires_ms or now_ms >= seen + IDLE_MS

    def seen_ms(self, row: SessionRow) -> int:
        """When it was last used."""
        return self._seen.get(row.id, row.seen_ms)

    def take_untold(self) -> dict[str, int]:
        """Which were used since this was last asked, and when: to be written down."""
        found, self._untold = self._untold, {}
        return found


def own_id(holder: Holder) -> str:
    """The session that somebody calls with, or ""."""
    return holder.name[len(PREFIX) :] if holder.name.startswith(PREFIX) else ""


def cookie_name(scope: Scope) -> bytes:
    """What the cookie is called at the origin of this request: two hubs on one machine have two ports and one
    jar; by https no other host and no plain page can set it (``__Host-``)."""
    origin = str(scope.get(ORIGIN_KEY, ""))
    port = re.search(r":(\d+)$", origin.partition("//")[2])
    name = "thopter" + (f"-{port[1]}" if port else "")
    return (f"__Host-{name}" if origin.startswith("https:") else name).encode()


def set_cookie(scope_origin: str, value: str, seconds: int) -> bytes:
    """The header's value that gives the cookie to the browser; ``seconds`` 0 takes it away."""
    name = cookie_name({ORIGIN_KEY: scope_origin}).decode()
    secure = "; Secure" if scope_origin.startswith("https:") else ""
    return f"{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}".encode()


def cookies_named(scope: Scope, name: bytes) -> list[bytes]:
    """All values of a cookie, in order."""
    found = []
    for header in headers_named(scope, b"cookie"):
        for pair in header.split(b";"):
            key, equals, value = pair.strip().partition(b"=")
            if equals and key == name:
                found.append(value)
    return found


def device_of(agent: str) -> str:
    """What to call a device whose person said nothing: from the browser's own words."""
    system = next((n for n in ("iPhone", "iPad", "Android", "Windows", "Mac", "Linux") if n in agent), "")
    browsers = (("Edg", "Edge"), ("Firefox", "Firefox"), ("Chrome", "Chrome"), ("Safari", "Safari"))
    browser = next((name for mark, name in browsers if mark in agent), "")
    return " on ".join(each for each in (browser, system) if each) or "a browser"


def _raw(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
