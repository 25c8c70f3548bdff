"""Makes a page that was generated from hostile text safe to open: an allow-list of tags and attributes.

The page is read token by token and written anew, so that what a browser sees is what was decided on.
Scripts and styles pass only when they are, byte for byte, ones known to be the generator's own; a
policy in the page's head lets these run by their hashes and forbids everything else: no request to
anywhere, no other script, no form, no frame. :class:`Cleaner` has no I/O.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection
from html import escape
from html.parser import HTMLParser

from thopter.kit.sanitize import clean

_WORDS = re.compile(r"\w+")
_TAGS = frozenset(
    _WORDS.findall(
        """a abbr article aside b blockquote br button caption code dd del details div dl dt em figcaption
        figure footer h1 h2 h3 h4 h5 h6 header hr i img input ins kbd label li main mark nav ol p pre q s
        samp section small span strong sub summary sup table tbody td tfoot th thead time tr u ul var wbr"""
    )
)
_VOID = frozenset(("br", "hr", "img", "input", "wbr"))
_ATTRIBUTES = frozenset(
    _WORDS.findall(
        """alt checked class colspan datetime dir disabled for height href id lang open placeholder role
        rowspan src start style tabindex title type value width"""
    )
)
_INPUTS = frozenset(("checkbox", "radio", "search", "text", "button"))
_WEB = re.compile(r"(?i)(?:https?://|mailto:|#)[^\s\x00-\x1f]*")
_IMAGE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]*")
_STYLE_BAD = re.compile(r"(?i)url|image|expression|import|position|content|@|\\|/\*|[<>{}]")


def blocks(page: str) -> frozenset[str]:
    """Return the texts of all scripts and styles of a trusted page that fetch nothing."""
    found = re.findall(r"<(?:script|style)[^>]*>(.*?)</(?:script|style)>", page, re.S)
    return frozenset(text for text in found if "unpkg.com" not in text and "//cdn" not in text)


def clean_page(page: str, trusted: Collection[str], title: str, refresh: int = 0, style: str = "") -> str:
    """Return ``page`` made safe. ``refresh``: seconds after which a browser reads the file again;
    ``style``: rules of ours, after the page's own."""
    cleaner = Cleaner(trusted)
    cleaner.feed(page)
    cleaner.close()
    cleaner.styles += [style] if style else []
    return _head(cleaner, title, refresh) + "".join(cleaner.body) + "\n</body>\n</html>\n"


def _head(cleaner: Cleaner, title: str, refresh: int) -> str:
    hashes = " ".join(
        "'sha256-" + base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() + "'"
        for s in dict.fromkeys(cleaner.scripts)
    )
    policy = (
        f"default-src 'none'; script-src {hashes or chr(39) + 'none' + chr(39)}; "
        "style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'"
    )
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="referrer" content="no-referrer">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
    ]
    if refresh:
        lines.append(f'<meta http-equiv="refresh" content="{int(refresh)}">')
    lines += [f"<style>{text}</style>" for text in cleaner.styles]
    return "\n".join([*lines, "</head>", "<body>\n"])


class Cleaner(HTMLParser):
    """Collects what may stay: ``body`` (pieces of HTML), ``scripts`` and ``styles`` (texts).

    Of an element that may not stay only the tags go: what is in it is shown as text, so that nothing
    can hide what follows it."""

    def __init__(self, trusted: Collection[str]) -> None:
        super().__init__(convert_charrefs=True)
        self.body: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self._trusted = trusted
        self._block = ""  # inside <script> or <style>: their text is held until the end
        self._held: list[str] = []
        self._begun = False  # nothing before <body> is text for a reader
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See the base class."""
        if tag in ("script", "style"):
            self._block, self._held = tag, []
        elif tag == "body":
            self._begun = True
        elif tag in _TAGS and self._begun:
            self.body.append(f"<{tag}{_attributes(tag, attrs)}>")
            if tag not in _VOID:
                self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """``<x/>`` is ``<x>`` to a browser, except for elements without content."""
        if tag in _VOID or tag in _TAGS:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        """Close what is open; anything else is ignored."""
        if tag == self._block:
            self._finish_block()
        elif tag in self._open:
            while (last := self._open.pop()) != tag:
                self.body.append(f"</{last}>")
            self.body.append(f"</{tag}>")

    def _finish_block(self) -> None:
        text = "".join(self._held)
        kind, self._block = self._block, ""
        if text not in self._trusted:
            return
        if kind == "style":
            self.styles.append(text)
        else:
            self.scripts.append(text)
            self.body.append(f"<script>{text}</script>")

    def handle_data(self, data: str) -> None:
        """Text stays text."""
        if self._block:
            self._held.append(data)
        elif self._begun:
            self.body.append(escape(clean(data), quote=False))

    def close(self) -> None:
        """Close what was left open."""
        if self._block:  # never finished: what a browser would swallow is text here
            rest, self._block, self.rawdata = "".join(self._held) + self.rawdata, "", ""
            self.handle_data(rest)
        super().close()
        self.body += [f"</{tag}>" for tag in reversed(self._open)]
        self._open = []


def _attributes(tag: str, attrs: list[tuple[str, str | None]]) -> str:
    out = ""
    for name, raw in attrs:
        value = raw or ""
        data = name.startswith(("data-", "aria-")) and re.fullmatch(r"[a-z0-9-]+", name)
        if not data and (name not in _ATTRIBUTES or not _may(tag, name, value)):
            continue
        out += f' {name}="{escape(value, quote=True)}"'
    return out + (' rel="noopener noreferrer"' if tag == "a" else "")


def _may(tag: str, name: str, value: str) -> bool:
    if name == "href":
        return tag == "a" and _WEB.fullmatch(value.strip()) is not None
    if name == "src":
        return tag == "img" and _IMAGE.fullmatch(value) is not None
    if name == "style":
        return _STYLE_BAD.search(value) is None
    if name == "type":
        return value in _INPUTS
    return True
