"""Keeps other people's web pages off a port preview: looks at the first HTTP request of a connection.

Any page in the user's browser can make it talk to loopback, by the address or by a name of its own that
is made to point there (DNS rebinding). Such a request names a foreign Host, or comes with a foreign
Origin or as a cross-site part of a page (Fetch Metadata, https://www.w3.org/TR/fetch-metadata/).
What is not HTTP/1 passes: a browser speaks nothing else to a plain port.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

HEAD_MAX = 65536
_METHOD = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}"  # a page may send any token (RFC 9110, 5.6.2)
_START = re.compile(_METHOD + rb"( |\Z)")
_LINE = re.compile(_METHOD + rb" \S+ HTTP/1\.[01]\r?\n")
_LOCAL = re.compile(r"(?:localhost|(?:[a-z0-9-]+\.)+localhost|127\.0\.0\.1|\[::1\])(?::\d{1,5})?")

REFUSAL = (
    b"HTTP/1.1 421 Misdirected Request\r\nContent-Type: text/plain\r\nContent-Length: 55\r\n"
    b"Connection: close\r\n\r\nthopter: this port is for pages of this address alone.\n"
)


def judge(head: bytes, ended: bool = False) -> bool | None:
    """Decide from the first bytes (``ended``: all there will be): True, it may pass; False, it may not;
    None, more is needed."""
    if not _START.match(head):
        return True
    line, newline, _ = head.partition(b"\n")
    if newline and not _LINE.match(line + newline):
        return True
    end = re.search(rb"\r?\n\r?\n", head)
    if end is None:
        if ended:
            return not newline
        return None if len(head) < HEAD_MAX else False
    return _allowed(head[: end.start()])


def _allowed(head: bytes) -> bool:
    found: dict[str, list[str]] = {}
    for line in head.split(b"\n")[1:]:
        name, _, value = line.decode("latin-1").partition(":")
        found.setdefault(name.strip().lower(), []).append(value.strip().lower())
    host = found.get("host", [])
    if len(host) != 1 or not _LOCAL.fullmatch(host[0]):
        return False
    if any(_authority(origin) != host[0] for origin in found.get("origin", [])):
        return False
    aside = found.get("sec-fetch-mode", []) != ["navigate"]
    return not (aside and "cross-site" in found.get("sec-fetch-site", []))


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
