"""Which calls a box may make of its model endpoint, and which headers pass: pure decisions.

An allowed host is a grant of everything it can do, so this is a list of the few calls an agent needs;
the rest of the endpoint's API (files, batches, organisation) stays shut.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct

from thopter.gateway.http1 import Head, safe_value
from thopter.gateway.model.upstream import OAUTH_BETA, Attach, Endpoint

_CALLS = {
    "/": ("GET", "HEAD"),
    "/v1/messages": ("POST",),
    "/v1/messages/count_tokens": ("POST",),
    "/v1/models": ("GET", "HEAD"),
}
_ONE_MODEL = re.compile(r"/v1/models/[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")
_QUERY = re.compile(r"[A-Za-z0-9._~=&+%-]{0,1024}")

_SENT = frozenset(
    {
        "accept",
        "accept-language",
        "content-type",
        "user-agent",
        "x-app",
        "idempotency-key",
        "x-request-id",
        "x-client-request-id",
    }
)
_SENT_PREFIXES = ("anthropic-", "x-stainless-", "x-claude-")
_RETURNED = frozenset(
    {
        "content-type",
        "content-encoding",
        "content-language",
        "date",
        "cache-control",
        "retry-after",
        "retry-after-ms",
        "request-id",
        "x-request-id",
        "x-should-retry",
    }
)
_RETURNED_PREFIXES = ("anthropic-", "x-ratelimit-")
_NOT_RETURNED = frozenset(["anthropic-organization-id"])

#: Betas that let the endpoint itself open connections to addresses chosen by the box.
_REFUSED_BETAS = ("mcp-client-",)


class Refusal(Struct, frozen=True):
    """A call that is not made: HTTP status, error type in the Messages API's words, and a sentence."""

    status: int
    type: str
    message: str


ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def decide(head: Head) -> Refusal | str:
    """Return the target to ask of the endpoint (below its prefix), or why the call is refused."""
    path, _, query = head.target.partition("?")
    methods = _CALLS.get(path, ("GET", "HEAD") if _ONE_MODEL.fullmatch(path) else ())
    if not methods:
        shown = path if len(path) <= 80 else path[:77] + "..."
        return Refusal(403, "permission_error", f"this box may not call {shown} of its model endpoint")
    if head.method not in methods:
        return Refusal(405, "invalid_request_error", f"{path} is called by {' or '.join(methods)} only")
    if not _QUERY.fullmatch(query):
        return Refusal(400, "invalid_request_error", "the query of the request is malformed")
    if head.method != "POST" and head.has_body:
        return Refusal(400, "invalid_request_error", f"{head.method} takes no body here")
    if head.header("content-encoding"):
        return Refusal(415, "invalid_request_error", "send the body without a content encoding")
    return head.target


def request_headers(head: Head, attach: Attach, endpoint: Endpoint) -> list[tuple[str, str]]:
    """Headers for the endpoint: those an agent may set, ours, and the real credential (last).

    Nothing that could authenticate somebody else, route, or frame comes from the box.
    """
    added = {name.lower(): value for name, value in attach.headers.items()}
    out = [("host", endpoint.authority), ("accept-encoding", "identity")]
    betas: list[str] = []
    for name, value in head.headers:
        if name == "anthropic-beta":
            betas += [b for b in (part.strip() for part in value.split(",")) if b]
        elif name not in added and (name in _SENT or name.startswith(_SENT_PREFIXES)):
            out.append((name, value))
    dear = ("fast-mode-",) if any(li.what == "usd" for li in attach.terms.limits) else ()
    betas = [b for b in betas if not b.lower().startswith((*_REFUSED_BETAS, *dear))]
    betas += [b for b in [added.pop("anthropic-beta", "")] if b]
    if attach.auth is not None and attach.auth.is_oauth and OAUTH_BETA not in betas:
        betas.append(OAUTH_BETA)
    if betas:
        out.append(("anthropic-beta", ",".join(betas)))
    if head.length is not None and head.has_body:
        out.append(("content-length", str(head.length)))
    elif head.method == "POST" and head.length == 0:
        out.append(("content-length", "0"))
    out += added.items()
    if attach.auth is not None:
        out += attach.auth.headers()
    return out


def response_headers(raw: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """Headers a box may see: no cookies, no routing, nothing of the connection."""
    out: list[tuple[str, str]] = []
    for name_bytes, value_bytes in raw:
        name = name_bytes.decode("latin-1").lower()
        value = value_bytes.decode("latin-1")
        wanted = name in _RETURNED or name.startswith(_RETURNED_PREFIXES)
        if wanted and name not in _NOT_RETURNED and safe_value(value) and safe_value(name):
            out.append((name, value))
    return out
