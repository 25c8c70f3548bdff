"""Answers "would that go out?" about an address, as a tool in a box would ask for it."""

from __future__ import annotations

import re

from thopter.gateway.policy.decide import decide
from thopter.gateway.policy.model import Allow, Decision, Policy, Request
from thopter.model.errors import BadInput

_URL = re.compile(r"(?:(https?)://)?(\[[^\]/]*\]|[^/:?#@]*)(?::([0-9]{1,5}))?([/?].*)?", re.IGNORECASE)


def parse_url(url: str, method: str) -> tuple[Request, ...]:
    """The requests that a tool makes for ``url`` (or ``HOST[:PORT]``, a tunnel): raises BadInput."""
    found = _URL.fullmatch(url)
    if not found or not found[2]:
        raise BadInput(f"{url[:200]!r} is no address", hint="e.g. https://api.example.com/v1, or HOST:PORT")
    scheme, host, rest = (found[1] or "").lower(), found[2], found[4] or "/"
    port = int(found[3]) if found[3] else (80 if scheme == "http" else 443)
    target = rest if rest.startswith("/") else "/" + rest
    if scheme == "http":
        return (Request(scheme="http", host=host, port=port, method=method, target=target),)
    connect = Request(scheme="connect", host=host, port=port)
    if not scheme:
        return (connect,)
    return connect, Request(scheme="https", host=host, port=port, method=method, target=target)


def try_url(url: str, method: str, policy: Policy) -> Decision:
    """The first refusal, or the last permission, on the way to ``url``."""
    requests = parse_url(url, method)
    found = decide(requests[0], policy)
    if len(requests) == 1 or not isinstance(found, Allow) or not found.inspect:
        return found
    inner = decide(requests[1], policy)
    if isinstance(inner, Allow):
        return Allow(host=inner.host, port=inner.port, rule=inner.rule, inspect=True)
    return inner
