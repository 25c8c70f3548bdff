"""Keeps a secret that the gateway added from coming back to the box: what repeats it is masked.

Every byte becomes ``*``, so lengths stay. This finds a secret repeated as it is or in a usual spelling
(percent, JSON, HTML, base64); a far side that spells it in a way of its own can't be seen through.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

LEAST = 6  # a shorter secret can't be told apart from ordinary text
_LOOSE = 4  # so many bytes of its beginning are not held back: else ordinary streams would stall


def spellings(secret: str, value: str) -> tuple[bytes, ...]:
    """How ``secret`` (sent as the header ``value``) may come back, longest first."""
    coded = base64.b64encode(secret.encode()).decode()
    percent = {quote(secret, safe=""), quote(secret), quote_plus(secret)}
    found = {secret, coded.rstrip("="), coded.translate(_URL_SAFE).rstrip("=")}
    found |= percent | {_PERCENT.sub(lambda m: m[0].lower(), s) for s in percent} | _as_json(secret)
    found.add(html.escape(secret, quote=False))
    found |= {html.escape(secret).replace("&#x27;", a).replace("&quot;", q) for a, q in _QUOTES}
    scheme, _, rest = value.partition(" ")
    if scheme.lower() == "basic":
        found.add(rest.rstrip("="))
    return tuple(sorted((s.encode() for s in found if len(s) >= LEAST), key=len, reverse=True))


def _as_json(secret: str) -> set[str]:
    """As JSON strings are written: everything but ASCII escaped or not, letters that mean something in HTML
    escaped or not, numbers in small or in capital letters."""
    plain = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    found = plain | {s.replace("/", "\\/") for s in plain}
    for careful in _CAREFUL:
        bare = {s.replace('\\"', '"') for s in found} if ord('"') in careful else found
        found |= {s.translate(careful) for s in bare}
    return found | {_ESCAPE.sub(lambda m: "\\u" + m[1].upper(), s) for s in found}


#: JSON that may stand in HTML: of Go and Rails, of PHP, of .NET.
_CAREFUL = tuple({ord(c): f"\\u{ord(c):04x}" for c in letters} for letters in ("&<>", "&<>'", "&<>'\"+`"))
_ESCAPE = re.compile(r"\\u([0-9a-f]{4})")
_QUOTES = (("&#x27;", "&quot;"), ("&#39;", "&#34;"), ("&#39;", "&quot;"), ("&#039;", "&quot;"))
_PERCENT = re.compile("%[0-9A-F]{2}")
_URL_SAFE = str.maketrans("+/", "-_")


class Mask:
    """Masks a stream. What may be the beginning of a secret is held back until more has come; its first
    bytes are not, so that a stream which ends in one of them by chance goes on without delay."""

    def __init__(self, needles: Iterable[bytes]) -> None:
        self._needles = tuple(needles)
        self._any = re.compile(b"|".join(re.escape(n) for n in self._needles)) if self._needles else None
        self._shown = b""  # out already, and perhaps a beginning
        self._held = b""
        self.found = 0

    def feed(self, data: bytes) -> bytes:
        """Take more; return what may go on."""
        if self._any is None:
            return data
        text = self._shown + self._held + data
        text, count = self._any.subn(lambda m: b"*" * len(m[0]), text)
        self.found += count
        out = len(self._shown)
        start = len(text) - self._beginning(text)
        hold = start if len(text) - start > _LOOSE else len(text)
        hold = max(hold, out)
        self._shown = text[start:hold]
        self._held = text[hold:]
        return text[out:hold]

    def end(self) -> bytes:
        """The stream is over: what was held back was none."""
        rest, self._held, self._shown = self._held, b"", b""
        return rest

    def _beginning(self, text: bytes) -> int:
        """How many bytes at the end of ``text`` are the beginning of a needle, at most."""
        best = 0
        for needle in self._needles:
            at = text.find(needle[:1], max(len(text) - len(needle) + 1, 0))
            while at >= 0:
                if needle.startswith(text[at:]):
                    best = max(best, len(text) - at)
                    break
                at = text.find(needle[:1], at + 1)
        return best

    def text(self, value: str) -> str:
        """Mask a whole short text, such as a header's value."""
        if self._any is None:
            return value
        masked, count = self._any.subn(lambda m: b"*" * len(m[0]), value.encode())
        self.found += count
        return masked.decode()
