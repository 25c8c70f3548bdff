"""Sessions of the page: links to log in with, logins, and who is logged in; requests and answers."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

Role = Literal["viewer", "operator", "admin"]


class LinkRequest(Struct, kw_only=True):
    """``POST /v1/sessions/links``: a link for somebody who may do that much."""

    role: Role = "admin"


class LoginLink(Struct, kw_only=True):
    """Its answer: good once, until ``expires_ms``. The code is behind the ``#``, so that no browser sends it.
    ``qr``: the address as a QR code, rows of ``0`` and ``1`` without a margin. ``local``: other machines
    can't reach that address."""

    url: str
    role: Role
    expires_ms: int
    local: bool = True
    qr: list[str] = field(default_factory=list)


class LoginRequest(Struct, kw_only=True):
    """``POST /v1/sessions``. ``device``: what the person calls it; empty: told from the browser."""

    code: Annotated[str, Meta(min_length=1, max_length=100)]
    device: Annotated[str, Meta(max_length=60)] = ""


class SessionView(Struct, kw_only=True):
    """Somebody's page that is logged in. ``agent``: what its browser says it is; ``current``: who asks."""

    id: str
    role: Role
    device: str
    agent: str
    created_ms: int
    seen_ms: int
    expires_ms: int
    current: bool = False


class Login(Struct, kw_only=True):
    """The answer to a login, with a cookie: ``key`` is told this once and goes into ``X-Thopter``."""

    session: SessionView
    key: str


class SessionList(Struct, kw_only=True):
    """``GET /v1/sessions``: an admin's has all, others see their own."""

    sessions: list[SessionView]


class Ended(Struct, kw_only=True):
    """``POST /v1/sessions/end-all``: how many were ended."""

    ended: int
