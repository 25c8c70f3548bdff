"""The built page: its files as they are served, before anybody has logged in; they hold no secret.

The folder is read as a whole into memory, without following links, so no request ever names a path of this
machine: what is not in the table is not there. Built anew (another index.html), it is read anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from thopter.hub.answers import Headers
from thopter.hub.asgi import Scope, Send, headers_named

log = logging.getLogger("thopter.hub.page")

# The first part of every address that is a view of the page; with it index.html is answered.
VIEWS = frozenset(
    {
        "t", "approvals", "new", "snapshots", "policies", "secrets", "audit", "machines", "settings",
        "golden", "voyages", "peers", "notes", "login", "costs", "logs", "doctor", "sessions",
    }
)  # fmt: skip
PAGE_HEADERS: Headers = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        b"connect-src 'self'; manifest-src 'self'; worker-src 'self'; font-src 'self'; base-uri 'none'; "
        b"form-action 'none'; frame-ancestors 'none'; "
        b"require-trusted-types-for 'script'; trusted-types svelte-trusted-html thopter",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (
        b"permissions-policy",
        b"camera=(), microphone=(), geolocation=(), payment=(), usb=(), serial=(), hid=(), "
        b"midi=(), display-capture=(), accelerometer=(), gyroscope=(), magnetometer=()",
    ),
]
_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".json": b"application/json",
    ".webmanifest": b"application/manifest+json",
    ".svg": b"image/svg+xml",
    ".png": b"image/png",
    ".ico": b"image/x-icon",
    ".webp": b"image/webp",
    ".woff2": b"font/woff2",
    ".txt": b"text/plain; charset=utf-8",
}
_PACKED = {".br": b"br", ".gz": b"gzip"}
_HASHED = re.compile(r"^/assets/.*[-.][A-Za-z0-9_-]{8,}\.[a-z0-9]+$")
_IMMUTABLE = b"public, max-age=31536000, immutable"
_INDEX = "/index.html"
_FILES_MAX, _BYTES_MAX = 1000, 32 << 20

MISSING = (
    b"<!doctype html><html lang=en><meta charset=utf-8><title>thopter</title>"
    b"<h1>The page is not built</h1><p>This hub runs from a checkout whose page was never built. "
    b"Run <code>./dev web</code> there, then load this again. Everything else works without it: "
    b"see <code>thopter help</code>.</html>"
)


class PageFile(Struct, frozen=True):
    """One file: its bytes as they are and packed (by the name of the coding)."""

    kind: bytes
    etag: bytes
    bodies: dict[bytes, bytes]


class Page:
    """The page's files. Safe to use for any number of requests at once."""

    def __init__(self, folder: Path | None = None) -> None:
        """``folder``: where the built page is; by default ``THOPTER_PAGE_DIR``, else beside this module."""
        given = os.environ.get("THOPTER_PAGE_DIR")
        self.folder = folder or (Path(given) if given else Path(__file__).with_name("web"))
        self._stamp: tuple[int, ...] | None = None
        self._files: Mapping[str, PageFile] = {}

    @property
    def built(self) -> bool:
        """Whether there is a page to serve."""
        return _INDEX in self._files

    async def find(self, path: str) -> PageFile | None:
        """What is at an address of the page (a view: index.html), or None."""
        if path.startswith("/v1"):
            return None
        if self._stamp is None or self._now() != self._stamp:
            self._stamp, self._files = await asyncio.to_thread(self._read)
        if path == "/" or path.split("/", 2)[1] in VIEWS:
            path = _INDEX
        found = self._files.get(path)
        return _missing() if found is None and path == _INDEX else found

    def _now(self) -> tuple[int, ...]:
        try:
            found = os.lstat(self.folder / "index.html")
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _read(self) -> tuple[tuple[int, ...], dict[str, PageFile]]:
        stamp = self._now()
        raw: dict[str, bytes] = {}
        size = 0
        try:
            for name, path in _walk(self.folder, ""):
                raw[name] = _bytes_of(path, _BYTES_MAX - size)
                size += len(raw[name])
                if len(raw) > _FILES_MAX or size >= _BYTES_MAX:
                    raise OSError(f"{self.folder} is no built page: it is too big")
        except OSError as e:
            if stamp:
                log.error("the page can't be read: %s", e)
            return stamp, {}
        return stamp, {name: _file(name, raw) for name in raw if _suffix(name) in _TYPES}


async def send_page(scope: Scope, send: Send, file: PageFile) -> None:
    """Answer ``file``: packed as the browser takes it, or 304 when it has it."""
    missing = file.etag == b""
    hashed = _HASHED.match(scope["path"]) is not None
    headers = [*PAGE_HEADERS, (b"content-type", file.kind)]
    headers.append((b"cache-control", b"no-store" if missing else _IMMUTABLE if hashed else b"no-cache"))
    coding = _best(file, headers_named(scope, b"accept-encoding"))
    etag = b'"' + file.etag + (b"-" + coding if coding else b"") + b'"'
    if not missing:
        headers += [(b"etag", etag), (b"vary", b"accept-encoding")]
    known = b",".join(headers_named(scope, b"if-none-match"))
    if not missing and etag in [each.strip().removeprefix(b"W/") for each in known.split(b",")]:
        await _send(send, 304, headers, b"")
        return
    if coding:
        headers.append((b"content-encoding", coding))
    body = file.bodies[coding]
    headers.append((b"content-length", str(len(body)).encode()))
    await _send(send, 503 if missing else 200, headers, b"" if scope["method"] == "HEAD" else body)


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _best(file: PageFile, accepted: list[bytes]) -> bytes:
    """The coding to use; one that is refused by ``q=0`` is not."""
    takes: set[bytes] = set()
    for each in b",".join(accepted).lower().split(b","):
        name, _, rest = each.partition(b";")
        if not re.fullmatch(rb"\s*q=0(\.0*)?\s*", rest):
            takes.add(name.strip())
    return next((coding for coding in _PACKED.values() if coding in takes and coding in file.bodies), b"")


def _walk(folder: Path, above: str) -> Iterator[tuple[str, Path]]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda e: e.name)
    for entry in found:
        name = f"{above}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), name)
        elif entry.is_file(follow_symlinks=False) and not entry.name.startswith("."):
            yield name, Path(entry.path)


def _bytes_of(path: Path, most: int) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is no file")
        return file.read(most + 1)


def _suffix(name: str) -> str:
    return name[name.rfind(".") :] if "." in name else ""


def _file(name: str, raw: Mapping[str, bytes]) -> PageFile:
    bodies = {b"": raw[name]}
    for suffix, coding in _PACKED.items():
        if name + suffix in raw:
            bodies[coding] = raw[name + suffix]
    etag = hashlib.sha256(raw[name]).hexdigest()[:32].encode()
    return PageFile(_TYPES[_suffix(name)], etag, bodies)


def _missing() -> PageFile:
    return PageFile(_TYPES[".html"], b"", {b"": MISSING})
