"""A subscription login with a refresh token: how it is kept, read from an agent's own file, and renewed.

Refresh tokens rotate: each is good once, and using an old one ends the whole login. So a login belongs to one
keeper. Nothing here is ever shown: ``repr`` leaves the tokens out.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from thopter.kit.secrets import Secret
from thopter.model.errors import BadInput, NotAllowed, ThopterError

KIND = "oauth"
_SECONDS = 30.0
_ANSWER_MAX = 1 << 16
# RFC 6749 section 5.2: what no later try can change. A bare 403 may come from something on the way.
_ENDS = frozenset({"invalid_grant", "invalid_client", "unauthorized_client"})


class LoginEnded(NotAllowed):
    """The login is over: its refresh token is used up, revoked or expired. Only a new login helps."""

    code = "login_ended"
    default_hint = "log in again, then: thopter reauth --login-file FILE"


class Login(Struct, frozen=True, kw_only=True):
    """``access`` is good until ``expires_ms``; ``refresh`` gets the next one at ``token_url``. ``ended``: why
    it can't be renewed any more."""

    access: str
    refresh: str
    expires_ms: int
    token_url: str
    client_id: str
    scopes: tuple[str, ...] = ()
    ended: str = ""

    def __repr__(self) -> str:
        return f"Login(expires_ms={self.expires_ms}, ended={self.ended!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("expires_ms", self.expires_ms), ("ended", self.ended)]


def to_secret(login: Login) -> Secret:
    """As the secret store keeps it."""
    return Secret(kind=KIND, secret=msgspec.json.encode(login).decode("ascii"))


def from_secret(secret: Secret) -> Login:
    """Read it back; BadInput (without a word of it) when it is damaged."""
    try:
        return msgspec.json.decode(secret.secret, type=Login)
    except msgspec.DecodeError:
        raise BadInput("the stored login is damaged", hint="thopter reauth --login-file FILE") from None


def read_login_file(text: bytes, token_url: str, client_id: str) -> Login:
    """Read an agent's own login file (Claude Code's ``~/.claude/.credentials.json``); raises BadInput."""
    bad = BadInput("that is no login file of Claude Code", hint="it is ~/.claude/.credentials.json")
    try:
        tree = msgspec.json.decode(text)
        found = tree["claudeAiOauth"]
        login = Login(
            access=found["accessToken"], refresh=found["refreshToken"], expires_ms=int(found["expiresAt"]),
            token_url=token_url, client_id=client_id, scopes=tuple(found.get("scopes") or ()),
        )  # fmt: skip
        return checked(msgspec.convert(msgspec.to_builtins(login), Login))
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError, TypeError, ValueError):
        raise bad from None


def checked(login: Login) -> Login:
    """Return it when both tokens can stand in a header; raises BadInput."""
    for token in (login.access, login.refresh):
        if not 8 <= len(token) <= 8192 or not token.isascii() or not token.isprintable() or " " in token:
            raise BadInput("the login's tokens are empty, too long or not printable ASCII")
    return login


async def refresh(login: Login, now_ms: int) -> Login:
    """Get the next tokens: the old refresh token is used up when this returns. LoginEnded when the other side
    refuses it; ThopterError for anything that may pass (it was not reached, it is overloaded)."""
    import httpx2

    body = {"grant_type": "refresh_token", "refresh_token": login.refresh, "client_id": login.client_id}
    body |= {"scope": " ".join(login.scopes)} if login.scopes else {}
    try:
        async with httpx2.AsyncClient(timeout=_SECONDS, follow_redirects=False) as client:
            answer = await client.post(login.token_url, json=body)
    except (httpx2.HTTPError, httpx2.InvalidURL) as e:
        raise ThopterError(f"the login can't be renewed: {type(e).__name__}") from None
    said = _body(answer.content[:_ANSWER_MAX])
    error = said.get("error")
    why = str((error.get("type") if isinstance(error, dict) else error) or "")
    if answer.status_code in (400, 401, 403) and why in _ENDS:
        raise LoginEnded(f"the login has ended: {why}")
    if answer.status_code != 200:
        raise ThopterError(f"the login can't be renewed: HTTP {answer.status_code}")
    try:
        access, following = str(said["access_token"]), str(said.get("refresh_token") or login.refresh)
        expires_ms = now_ms + int(said["expires_in"]) * 1000
        fresh = msgspec.structs.replace(
            login, access=access, refresh=following, expires_ms=expires_ms, ended=""
        )
        return checked(fresh)
    except (KeyError, TypeError, ValueError, BadInput):
        raise ThopterError("the login can't be renewed: the answer makes no sense") from None


def _body(raw: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
