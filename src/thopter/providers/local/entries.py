"""The inside of an exported snapshot: a manifest, then one entry for each name of its trees.

Each is a JSON object behind its length (4 bytes). Ids are those inside the box; attributes of the
overlay have neutral names. The bytes of a file follow as runs (offset, length, bytes), so holes stay
holes; a run of length 0 ends them.
"""

from __future__ import annotations

import base64
import os
import stat
import struct
from collections.abc import Iterator

import msgspec
from msgspec import Struct, field

from thopter.kit.linux import calls
from thopter.model.errors import BadInput, ProviderError
from thopter.model.sockets import GoldenPart
from thopter.providers.local.copying import open_deep

RUN = struct.Struct(">QI")
LONGEST = 256 << 10  # of one JSON object
_PIECE = 1 << 20
_OVERLAY = ("trusted.overlay.", "user.overlay.")
KEPT = ("opaque", "redirect")  # of the overlay's attributes; the rest are notes about this machine


class Manifest(Struct, frozen=True, kw_only=True):
    """What the file is. ``golden`` is the digest it stood on, ``parts`` what was in that, ``whole`` as in
    Golden."""

    golden: str
    created_ms: int
    layout: int
    parts: tuple[GoldenPart, ...] = ()
    whole: bool = False


class Entry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One name. ``kind``: d folder, f file, l link, h another name of the file ``target``, p pipe,
    s socket, w removed in this layer; ``.`` ends a tree. ``attrs`` are base64."""

    kind: str
    path: str = ""  # base64 of the bytes
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    target: str = ""  # base64 of the bytes
    attrs: dict[str, str] = field(default_factory=dict)


def packed(value: Struct) -> bytes:
    """As it stands in the file."""
    raw = msgspec.json.encode(value)
    if len(raw) > LONGEST:
        raise ProviderError("a name or the attributes of a file are too long to be exported")
    return struct.pack(">I", len(raw)) + raw


def to_text(name: str | bytes) -> str:
    """Any name as text."""
    return base64.b64encode(os.fsencode(name)).decode()


def from_text(text: str) -> str:
    """Back again; BadInput."""
    try:
        return os.fsdecode(base64.b64decode(text, validate=True))
    except ValueError:
        raise BadInput("a name in the snapshot is malformed") from None


def tree(top: int, stored: int) -> Iterator[bytes]:
    """All of the tree behind the descriptor ``top``, whose ids are stored from ``stored`` on."""
    links: dict[tuple[int, int], str] = {}
    todo = [""]
    yield packed(_entry("d", "", os.fstat(top), stored, f"/proc/self/fd/{top}/."))
    while todo:
        path = todo.pop()
        here = open_deep(top, path)
        try:
            for name in sorted(os.listdir(here)):
                info = os.stat(name, dir_fd=here, follow_symlinks=False)
                full = f"{path}/{name}" if path else name
                known = links.get((info.st_dev, info.st_ino))
                if known is not None:
                    yield packed(Entry(kind="h", path=to_text(full), target=to_text(known)))
                    continue
                if stat.S_ISDIR(info.st_mode):
                    todo.append(full)
                elif info.st_nlink > 1:
                    links[info.st_dev, info.st_ino] = full
                yield from _one(here, name, full, info, stored)
        finally:
            os.close(here)
    yield packed(Entry(kind="."))


def _one(here: int, name: str, full: str, info: os.stat_result, stored: int) -> Iterator[bytes]:
    where = f"/proc/self/fd/{here}/{name}"
    mode = info.st_mode
    if stat.S_ISREG(mode):
        yield packed(_entry("f", full, info, stored, where))
        yield from _runs(here, name, info.st_size)
    elif stat.S_ISLNK(mode):
        entry = _entry("l", full, info, stored, where)
        yield packed(msgspec.structs.replace(entry, target=to_text(os.readlink(name, dir_fd=here))))
    elif stat.S_ISCHR(mode) and info.st_rdev == 0:
        yield packed(Entry(kind="w", path=to_text(full)))
    else:
        kinds = ((stat.S_ISDIR, "d"), (stat.S_ISFIFO, "p"), (stat.S_ISSOCK, "s"))
        kind = next((k for test, k in kinds if test(mode)), None)
        if kind is None:
            raise ProviderError(f"{full[-100:]} is a device: it can't be exported")
        yield packed(_entry(kind, full, info, stored, where))


def _entry(kind: str, path: str, info: os.stat_result, stored: int, where: str) -> Entry:
    ids = [number - stored if stored else 0 for number in (info.st_uid, info.st_gid)]
    uid, gid = (number if 0 <= number < 65536 else 0 for number in ids)
    attrs = {}
    for key in os.listxattr(where, follow_symlinks=False):
        kept = _neutral(key)
        if kept:
            value = os.getxattr(where, key, follow_symlinks=False)
            attrs[kept] = base64.b64encode(value).decode()
    return Entry(
        kind=kind, path=to_text(path), mode=stat.S_IMODE(info.st_mode), uid=uid, gid=gid,
        mtime_ns=info.st_mtime_ns, size=info.st_size if kind == "f" else 0, attrs=attrs,
    )  # fmt: skip


def _neutral(key: str) -> str:
    for prefix in _OVERLAY:
        if key.startswith(prefix):
            word = key[len(prefix) :]
            return f"overlay.{word}" if word in KEPT else ""
    return key if key.startswith("user.") else ""


def _runs(here: int, name: str, size: int) -> Iterator[bytes]:
    fd = calls.open_beneath(here, name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        at = 0
        while at < size:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
                end = min(size, os.lseek(fd, at, os.SEEK_HOLE))
            except OSError:
                break  # nothing but a hole from here on
            while at < end:
                data = os.pread(fd, min(_PIECE, end - at), at)
                if not data:
                    break
                yield RUN.pack(at, len(data)) + data
                at += len(data)
            else:
                continue
            break
    finally:
        os.close(fd)
    yield RUN.pack(size, 0)
