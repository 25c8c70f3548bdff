"""Reading what a box asks for: which place, in which words; and the error that says why it stays inside."""

from __future__ import annotations

import re
import ssl
from urllib.parse import parse_qsl

from thopter.gateway.http1 import BadRequest, Head
from thopter.gateway.policy.hosts import BadHost, canonical_host
from thopter.gateway.policy.model import QUERY_OF_CLIENTS, Request

AUTHORITY = re.compile(r"(\[[^\]\[]{1,60}\]|[^:\[\]@/?#]{1,260})(?::([0-9]{1,5}))?")
_ABSOLUTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(/[^#]*|\?[^#]*|)")


class Refused(Exception):
    """The request does not go out; what the client and the ledger are told."""

    def __init__(self, status: int, code: str, reason: str, host: str = "") -> None:
        super().__init__(reason)
        self.status, self.code, self.reason, self.host = status, code, reason, host


def parse_authority(text: str, default_port: int) -> tuple[str, int]:
    """Split ``host[:port]`` as it stands; raises Refused."""
    found = AUTHORITY.fullmatch(text)
    if not found:
        raise Refused(400, "bad_host", "that is not HOST or HOST:PORT", text[:100])
    return found[1], int(found[2]) if found[2] else default_port


def check_host_header(head: Head, host: str, port: int, default_port: int) -> None:
    """Raise Refused unless the Host header names the same place as the request does."""
    said = head.header("host")
    if said is None:
        return  # HTTP/1.0
    try:
        named, at = parse_authority(said, default_port)
        same = canonical_host(named) == canonical_host(host) and at == port
    except (BadHost, Refused):
        same = False
    if not same:
        raise Refused(
            400, "host_mismatch", "the Host header names another place than the request", host[:100]
        )


def absolute(head: Head) -> Request:
    """Read a request with an absolute target (plain HTTP by proxy); raises Refused, BadRequest."""
    found = _ABSOLUTE.fullmatch(head.target)
    if not found:
        raise BadRequest(400, "this is the box's proxy: ask it with CONNECT or with http://HOST/…")
    if found[1].lower() != "http":
        raise Refused(400, "bad_scheme", f"{found[1][:20]}:// is not proxied; https goes by CONNECT")
    host, port = parse_authority(found[2], 80)
    check_host_header(head, host, port, 80)
    target = found[3] if found[3].startswith("/") else "/" + found[3]
    return Request(
        scheme="http", host=host, port=port, method=head.method, target=target, has_body=head.has_body
    )


def tls_problem(e: BaseException) -> str:
    """Why a TLS handshake with the far side failed, in plain words."""
    if isinstance(e, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({e.verify_message})"
    if isinstance(e, TimeoutError):
        return "its TLS handshake takes too long"
    return "its TLS handshake failed" if isinstance(e, ssl.SSLError) else "it closed the connection"


def check_query(target: str, host: str) -> None:
    """Raise Refused when the query holds a credential of the box's own (where one of ours is added)."""
    query = target.partition("?")[2]
    names = {name.lower() for name, _ in parse_qsl(query.replace(";", "&"), keep_blank_values=True)}
    own = sorted(names & QUERY_OF_CLIENTS)
    if own:
        raise Refused(403, "own_credential", f"a credential is added on {host}: leave out {own[0]!r}", host)
