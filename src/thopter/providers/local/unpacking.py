"""Taking a snapshot out of a file that somebody else wrote. Everything in it is hostile.

Names are opened below a descriptor with openat2, which follows no link and leaves by no ``..``;
nothing that exists is ever written to; devices can't be asked for; counts and sizes have limits.
"""

from __future__ import annotations

import base64
import errno
import os
import stat
import struct
from typing import TypeVar

import msgspec
from msgspec import Struct

from thopter.model.errors import BadInput
from thopter.providers.local.copying import open_deep
from thopter.providers.local.entries import KEPT, LONGEST, RUN, Entry, Manifest, from_text
from thopter.providers.local.frames import Reader

T = TypeVar("T", bound=Struct)
_DEEPEST = 32 << 10  # bytes of a path
_MOST_ATTRS = 64
_LONGEST_RUN = 4 << 20
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Bounds:
    """How much may still come out of one file."""

    def __init__(self, entries: int, size: int) -> None:
        self._entries, self._size = entries, size

    def entry(self) -> None:
        """One more entry; BadInput when it is one too many."""
        self._entries -= 1
        if self._entries < 0:
            raise BadInput(
                "the snapshot has too many files", hint="local.import_entries says how many are allowed"
            )

    def take(self, count: int) -> None:
        """That many more bytes; BadInput when they are too many."""
        self._size -= count
        if self._size < 0:
            raise BadInput("the snapshot is too big", hint="local.import_bytes says how big one may be")

    def fits(self, size: int) -> bool:
        """True when a file of that size (holes included) is acceptable at all."""
        return 0 <= size <= self._size


class Owner(Struct, frozen=True):
    """How ids become ids on disk: ``stored`` is added, or with ``mapped`` False all belongs to us.
    ``prefix``: how this kind of box writes the overlay's attributes. ``setuid``: keep these bits."""

    stored: int
    mapped: bool
    prefix: str
    setuid: bool


def read_manifest(reader: Reader) -> Manifest:
    """The first thing in it."""
    return _object(reader, Manifest)


def _object(reader: Reader, kind: type[T]) -> T:
    (length,) = struct.unpack(">I", reader.read(4))
    if length > LONGEST:
        raise BadInput("an entry of the snapshot is too long")
    try:
        return msgspec.json.decode(reader.read(length), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadInput("an entry of the snapshot is malformed") from None


def read_tree(reader: Reader, top: int, owner: Owner, bounds: Bounds) -> None:
    """Make the next tree below the empty folder ``top``. BadInput, OSError (no space)."""
    _Tree(reader, top, owner, bounds).run()


def skip_tree(reader: Reader, bounds: Bounds) -> None:
    """Read past the next tree."""
    while (entry := _object(reader, Entry)).kind != ".":
        bounds.entry()
        if entry.kind == "f":
            _data(reader, None, entry.size, bounds)


class _Tree:
    def __init__(self, reader: Reader, top: int, owner: Owner, bounds: Bounds) -> None:
        self._reader, self._top, self._owner, self._bounds = reader, top, owner, bounds
        self._folders: list[tuple[str, Entry]] = []
        self._at, self._fd = "", os.dup(top)  # the folder that is open, as most entries follow theirs

    def run(self) -> None:
        try:
            first = _object(self._reader, Entry)
            if (first.kind, first.path) != ("d", ""):
                raise BadInput("a tree of the snapshot does not begin with its top")
            self._folders.append(("", first))
            while (entry := _object(self._reader, Entry)).kind != ".":
                self._bounds.entry()
                try:
                    self._make(entry)
                except OSError as e:
                    raise _understood(e) from None
        finally:
            os.close(self._fd)
        for path, entry in reversed(self._folders):  # last, the deepest first: a closed one can't be filled
            fd = open_deep(self._top, path)
            try:
                self._dress(entry, f"/proc/self/fd/{fd}/.", fd)
            finally:
                os.close(fd)

    def _parent(self, path: str) -> int:
        if path != self._at:
            fd = open_deep(self._top, path)
            os.close(self._fd)
            self._at, self._fd = path, fd
        return self._fd

    def _make(self, entry: Entry) -> None:
        path = from_text(entry.path)
        folder, _, name = path.rpartition("/")
        if name in ("", ".", "..") or "\0" in path or len(os.fsencode(path)) > _DEEPEST:
            raise BadInput("a name in the snapshot is not allowed")
        here = self._parent(folder)
        if entry.kind == "d":
            os.mkdir(name, 0o700, dir_fd=here)
            self._folders.append((path, entry))
        elif entry.kind == "f":
            self._file(entry, here, name)
        elif entry.kind == "h":
            self._link(from_text(entry.target), here, name)
        elif entry.kind == "w" and self._owner.prefix:
            os.mknod(name, stat.S_IFCHR | 0o600, os.makedev(0, 0), dir_fd=here)
        else:
            self._special(entry, here, name)

    def _special(self, entry: Entry, here: int, name: str) -> None:
        if entry.kind == "l":
            target = from_text(entry.target)
            if not target or "\0" in target:
                raise BadInput("a link in the snapshot is malformed")
            os.symlink(target, name, dir_fd=here)
            self._own(entry, name, here)
        elif entry.kind in ("p", "s"):
            os.mknod(name, (stat.S_IFIFO if entry.kind == "p" else stat.S_IFSOCK) | 0o600, dir_fd=here)
            self._own(entry, name, here)
            os.chmod(name, entry.mode & 0o777, dir_fd=here)
        else:
            raise BadInput("the snapshot has an entry of an unknown kind")
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=here, follow_symlinks=False)

    def _file(self, entry: Entry, here: int, name: str) -> None:
        if not self._bounds.fits(entry.size):
            self._bounds.take(entry.size)
            raise BadInput("a file in the snapshot has no possible size")
        fd = os.open(name, _NEW, 0o600, dir_fd=here)
        try:
            _data(self._reader, fd, entry.size, self._bounds)
            self._dress(entry, f"/proc/self/fd/{fd}", fd)
        finally:
            os.close(fd)

    def _link(self, target: str, here: int, name: str) -> None:
        folder, _, first = target.rpartition("/")
        if first in ("", ".", "..") or "\0" in target:
            raise BadInput("a name in the snapshot is not allowed")
        at = open_deep(self._top, folder)
        try:
            os.link(first, name, src_dir_fd=at, dst_dir_fd=here, follow_symlinks=False)
        finally:
            os.close(at)

    def _ids(self, entry: Entry) -> tuple[int, int]:
        if not (0 <= entry.uid < 65536 and 0 <= entry.gid < 65536):
            raise BadInput("the snapshot names ids that no box has")
        return self._owner.stored + entry.uid, self._owner.stored + entry.gid

    def _own(self, entry: Entry, name: str, here: int) -> None:
        ids = self._ids(entry)
        if self._owner.mapped:
            os.chown(name, *ids, dir_fd=here, follow_symlinks=False)

    def _dress(self, entry: Entry, where: str, fd: int) -> None:
        ids = self._ids(entry)
        if self._owner.mapped:
            os.fchown(fd, *ids)
        if len(entry.attrs) > _MOST_ATTRS:
            raise BadInput("a file in the snapshot has too many attributes")
        for key, text in entry.attrs.items():
            self._attribute(where, key, text)
        os.fchmod(fd, entry.mode & (0o7777 if self._owner.setuid else 0o1777))
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _attribute(self, where: str, key: str, text: str) -> None:
        try:
            value = base64.b64decode(text, validate=True)
        except ValueError:
            raise BadInput("an attribute in the snapshot is malformed") from None
        word = key.removeprefix("overlay.")
        if word != key and word in KEPT and self._owner.prefix:
            if (word == "opaque" and value not in (b"y", b"x")) or b"\0" in value or b".." in value:
                raise BadInput("an attribute in the snapshot is not allowed")
            if word == "redirect" and self._owner.prefix.startswith("user."):
                raise BadInput("the snapshot has moved folders, which boxes of an ordinary user can't have")
            os.setxattr(where, self._owner.prefix + word, value)
        elif key.startswith("user.") and not key.startswith("user.overlay.") and len(key) < 256:
            os.setxattr(where, key, value)
        else:
            raise BadInput("an attribute in the snapshot is not allowed")


def _data(reader: Reader, fd: int | None, size: int, bounds: Bounds) -> None:
    """The runs of one file; read past when ``fd`` is None."""
    at = 0
    while True:
        start, length = RUN.unpack(reader.read(RUN.size))
        if length == 0:
            if start != size:
                raise BadInput("a file in the snapshot has another size than it says")
            break
        if start < at or start + length > size or length > _LONGEST_RUN:
            raise BadInput("a file in the snapshot is malformed")
        bounds.take(length)
        data = memoryview(reader.read(length))
        at = start + length
        while fd is not None and data:
            done = os.pwrite(fd, data, start)
            data, start = data[done:], start + done
    if fd is not None:
        os.ftruncate(fd, size)


def _understood(e: OSError) -> Exception:
    """What an error of a call means: a fault of the file, or of this machine."""
    if e.errno == errno.EEXIST:
        return BadInput("a name is in the snapshot twice")
    faults = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.ENAMETOOLONG, errno.EINVAL,
              errno.EPERM, errno.EMLINK, errno.EISDIR, errno.EFBIG, errno.ERANGE, errno.E2BIG)  # fmt: skip
    if e.errno in faults:
        return BadInput(f"an entry of the snapshot can't be made: {os.strerror(e.errno)}")
    return e
