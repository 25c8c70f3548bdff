"""What a box is attached to: one endpoint, one credential, and how both are checked."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from thopter.gateway.connection import Limits
from thopter.gateway.http1 import safe_value
from thopter.model.budget import Terms
from thopter.model.errors import BadInput

#: What an OAuth token needs beside the bearer header to be taken by the Messages API.
OAUTH_BETA = "oauth-2025-04-20"

#: Headers the operator may not set: they frame the request or are set by us.
_OURS = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "upgrade",
        "te",
        "trailer",
        "keep-alive",
        "accept-encoding",
        "expect",
    }
)


class Credential(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a box's calls are authenticated. Never shown: ``repr`` leaves the secret out.

    ``bearer`` sends ``Authorization: Bearer``, ``x-api-key`` that header, ``oauth`` is ``bearer`` plus
    the beta marker that subscription tokens need.
    """

    kind: Literal["bearer", "x-api-key", "oauth"]
    secret: str

    def __repr__(self) -> str:
        return f"Credential(kind={self.kind!r}, secret=***)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # msgspec makes one that would show everything
        return [("kind", self.kind)]

    @property
    def is_oauth(self) -> bool:
        """Whether this is a subscription's token (they are recognisable by their prefix)."""
        return self.kind == "oauth" or (self.kind == "bearer" and self.secret.startswith("sk-ant-oat"))

    def headers(self) -> list[tuple[str, str]]:
        """The headers that authenticate."""
        if self.kind == "x-api-key":
            return [("x-api-key", self.secret)]
        return [("authorization", f"Bearer {self.secret}")]


class Endpoint(Struct, frozen=True, kw_only=True):
    """A checked upstream: ``prefix`` starts with '/' or is empty, and never ends with one."""

    url: str
    scheme: str
    host: str
    port: int
    prefix: str

    @property
    def authority(self) -> str:
        """What stands in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"


class Attach(Struct, frozen=True, kw_only=True):
    """The ``attach`` request. ``headers`` are added to every call (for operators' own model proxies);
    ``ca_pem`` holds extra trusted certificates; ``limits`` overrides single bounds; ``terms`` say what the
    calls are charged to and what they may spend."""

    box: str
    upstream: str
    run: str = ""
    auth: Credential | None = None
    headers: dict[str, str] = {}
    ca_pem: str = ""
    limits: Limits = Limits()
    terms: Terms = Terms()


def parse_endpoint(url: str) -> Endpoint:
    """Check a base URL such as ``https://api.anthropic.com`` or ``http://127.0.0.1:9/prefix``."""
    hint = "a base URL looks like https://api.anthropic.com"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadInput("the model endpoint's URL can't be read", hint=hint) from None
    host = parts.hostname or ""
    if parts.username is not None or parts.password is not None:
        raise BadInput("the model endpoint's URL must not carry a user or a password", hint=hint)
    plain = host.isascii() and host.isprintable() and not set(host) & set(" /\\@?#%<>\"'")
    if parts.scheme not in ("http", "https") or not host or not plain:
        raise BadInput(f"{url[:200]!r} is not an http or https address", hint=hint)
    if parts.query or parts.fragment or "%" in parts.path or ".." in parts.path or not safe_value(parts.path):
        raise BadInput("the model endpoint's URL must be a plain address with an optional path", hint=hint)
    prefix = parts.path.rstrip("/")
    port = port or {"http": 80, "https": 443}[parts.scheme]
    endpoint = Endpoint(url="", scheme=parts.scheme, host=host, port=port, prefix=prefix)
    return msgspec.structs.replace(endpoint, url=f"{parts.scheme}://{endpoint.authority}{prefix}")


def parse_attach(request: Mapping[str, Any]) -> Attach:
    """Check an ``attach`` request; no message ever quotes the secret."""
    auth = request.get("auth")
    if isinstance(auth, Mapping) and auth.get("kind") not in ("bearer", "x-api-key", "oauth"):
        raise BadInput("auth.kind must be 'bearer', 'x-api-key' or 'oauth'")
    try:
        attach = msgspec.convert(request, Attach)
    except msgspec.ValidationError as e:
        raise BadInput(f"attach: {e}") from None
    secrets = list(attach.headers.values()) + ([attach.auth.secret] if attach.auth else [])
    for secret in secrets:
        if not secret or len(secret) > 8192 or not safe_value(secret) or secret != secret.strip():
            raise BadInput("a credential or header value is empty, too long or not printable ASCII")
    for name in attach.headers:
        if (
            not name
            or name.lower() in _OURS
            or not all(c.isascii() and (c.isalnum() or c in "-_") for c in name)
        ):
            raise BadInput(f"header {name[:60]!r} can't be added to model calls")
    return attach


def tls_context(ca_pem: str) -> ssl.SSLContext:
    """Make a verifying TLS context: the system's (or ``SSL_CERT_FILE``'s) trust, plus ``ca_pem``."""
    import httpx2  # here, since the hub imports this module and has no need of it yet

    context = httpx2.create_ssl_context(trust_env=True)
    if ca_pem:
        try:
            context.load_verify_locations(cadata=ca_pem)
        except (ssl.SSLError, ValueError):
            raise BadInput("ca_pem holds no certificates in PEM form") from None
    return context
