"""Reading an OCI image (a folder in image layout, or a tar of one): every blob is checked against its
digest, layers are applied by an extractor of our own. The image is hostile.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import os
import platform
import re
import stat
import tarfile
from pathlib import Path
from typing import IO, Any

import msgspec

from thopter.kit.linux import calls
from thopter.model.errors import BadInput
from thopter.providers.local.copying import open_deep
from thopter.providers.local.trees import remove_tree
from thopter.providers.local.unpacking import Bounds

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_PART = re.compile(r"index\.json|oci-layout|blobs/sha256/[0-9a-f]{64}")
_MOST_HEADER = 1 << 20
_MOST_JSON = 4 << 20
_GZIP = ("application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip")
_PLAIN = ("application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"


class _Info(tarfile.TarInfo):
    """A header whose extensions have bounds: tarfile takes all of one into memory."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        long = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
                tarfile.GNUTYPE_LONGLINK)  # fmt: skip
        if self.type in long and self.size > _MOST_HEADER:
            raise BadInput("a header in the image is too long")
        return super()._proc_member(tar)  # type: ignore[misc,no-any-return]


def unpack_layout(source: Path, place: Path, bounds: Bounds) -> Path:
    """Where the layout of ``source`` is: itself, or for a tar a copy of its blobs below ``place``."""
    if source.is_dir():
        return source
    try:
        with tarfile.open(source, tarinfo=_Info) as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                if not (member.isreg() and _PART.fullmatch(name)):
                    continue
                bounds.take(member.size)
                target = place / name
                target.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                with open(target, "xb") as f:
                    while content and (data := content.read(1 << 20)):
                        f.write(data)
    except (tarfile.TarError, EOFError, FileExistsError, gzip.BadGzipFile) as e:
        raise BadInput(f"{source.name} is no OCI image: {e}") from None
    return place


class Image:
    """One image of a layout: the one for this machine."""

    def __init__(self, layout: Path) -> None:
        self._layout = layout
        try:
            with open(layout / "index.json", "rb") as f:
                index = _json(f.read(_MOST_JSON))
        except OSError as e:
            raise BadInput(f"{layout} is no OCI image folder: {e.strerror} (index.json)") from None
        manifest = self._choose(index)
        for _ in range(3):
            found = _json(self._small(_digest(manifest)))
            if "manifests" not in found:
                break
            manifest = self._choose(found)
        layers = found.get("layers")
        if not isinstance(layers, list) or not layers:
            raise BadInput("the image has no layers")
        self.layers = [(_digest(one), _kind(one)) for one in layers]

    def _choose(self, index: dict[str, Any]) -> dict[str, Any]:
        every = index.get("manifests")
        if not isinstance(every, list) or not every:
            raise BadInput("the image has no manifest")
        ours = _MACHINES.get(platform.machine(), platform.machine())
        for one in every:
            where = one.get("platform") if isinstance(one, dict) else None
            if isinstance(one, dict) and (where is None or where.get("architecture") == ours):
                return one
        raise BadInput(f"the image has nothing for this machine ({ours})")

    def _open(self, digest: str) -> IO[bytes]:
        try:
            fd = os.open(self._layout / "blobs/sha256" / digest, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as e:
            raise BadInput(f"a part of the image is missing: {digest[:12]} ({e.strerror})") from None
        blob = os.fdopen(fd, "rb")
        if hashlib.file_digest(blob, "sha256").hexdigest() != digest:
            blob.close()
            raise BadInput(f"a part of the image was changed: {digest[:12]}")
        blob.seek(0)
        return blob

    def _small(self, digest: str) -> bytes:
        with self._open(digest) as blob:
            return blob.read(_MOST_JSON)

    def apply(self, root: Path, bounds: Bounds) -> int:
        """Lay all layers over each other in the empty folder ``root``; returns how many there were."""
        top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for digest, zipped in self.layers:
                with self._open(digest) as blob:
                    stream = gzip.GzipFile(fileobj=blob) if zipped else blob
                    _Layer(top, bounds).run(stream)  # type: ignore[arg-type]
        except (tarfile.TarError, EOFError, gzip.BadGzipFile) as e:
            raise BadInput(f"a layer of the image can't be read: {e}") from None
        finally:
            os.close(top)
        return len(self.layers)


def apply_tar(root: Path, tar: IO[bytes], bounds: Bounds) -> None:
    """Unpack the plain tar ``tar`` in the empty folder ``root``, as a layer of an image."""
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _Layer(top, bounds).run(tar)
    except (tarfile.TarError, EOFError) as e:
        raise BadInput(f"the tar can't be read: {e}") from None
    finally:
        os.close(top)


class _Layer:
    def __init__(self, top: int, bounds: Bounds) -> None:
        self._top, self._bounds = top, bounds
        self._root = os.geteuid() == 0
        self._made: set[str] = set()

    def run(self, stream: IO[bytes]) -> None:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Info) as tar:
            for member in tar:
                self._bounds.entry()
                path = "/".join(p for p in member.name.split("/") if p not in ("", "."))
                if ".." in path.split("/") or "\0" in path:
                    raise BadInput("a name in the image is not allowed")
                try:
                    self._entry(tar, member, path)
                except OSError as e:
                    if e.errno in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    raise BadInput(f"{path[-100:]!r} in the image can't be made: {e.strerror}") from None

    def _entry(self, tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        folder, _, name = path.rpartition("/")
        if not path:
            return
        here = self._parent(folder)
        try:
            if name == _OPAQUE:
                for old in os.listdir(here):
                    if f"{folder}/{old}".lstrip("/") not in self._made:
                        remove_tree(Path(f"/proc/self/fd/{here}/{old}"))
            elif name.startswith(_WHITEOUT):
                remove_tree(Path(f"/proc/self/fd/{here}/{name.removeprefix(_WHITEOUT)}"))
            else:
                self._made.add(path)
                self._make(tar, member, here, name)
        finally:
            os.close(here)

    def _parent(self, folder: str) -> int:
        """The folder, made where the layer does not name it."""
        fd = os.dup(self._top)
        for part in folder.split("/") if folder else ():
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=fd)
            try:
                deeper = open_deep(fd, part)
            finally:
                os.close(fd)
            fd = deeper
        return fd

    def _make(self, tar: tarfile.TarFile, member: tarfile.TarInfo, here: int, name: str) -> None:
        place = Path(f"/proc/self/fd/{here}/{name}")
        if member.isdir():
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISDIR(os.lstat(name, dir_fd=here).st_mode):
                    os.unlink(name, dir_fd=here)
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=here)
            self._own(member, here, name)
            os.chmod(name, (member.mode & 0o1777) | (0 if self._root else 0o700), dir_fd=here)
            return
        remove_tree(place)
        if member.isreg():
            self._bounds.take(member.size)
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=here)
            with os.fdopen(fd, "wb") as f:
                content = tar.extractfile(member)
                while content and (data := content.read(1 << 20)):
                    f.write(data)
            self._own(member, here, name)
            os.chmod(name, member.mode & 0o777, dir_fd=here)
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=here)
            self._own(member, here, name)
        elif member.islnk():
            self._link(member.linkname, here, name)
        elif member.isfifo():
            os.mkfifo(name, member.mode & 0o777, dir_fd=here)
        # devices of an image are not wanted: a box has its own /dev

    def _link(self, target: str, here: int, name: str) -> None:
        path = "/".join(p for p in target.split("/") if p not in ("", "."))
        folder, _, first = path.rpartition("/")
        if ".." in path.split("/") or not first:
            raise BadInput("a name in the image is not allowed")
        at = calls.open_beneath(self._top, folder or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.link(first, name, src_dir_fd=at, dst_dir_fd=here, follow_symlinks=False)
        finally:
            os.close(at)

    def _own(self, member: tarfile.TarInfo, here: int, name: str) -> None:
        if not (0 <= member.uid < 65536 and 0 <= member.gid < 65536):
            raise BadInput("the image names ids that no box has")
        if self._root:
            os.chown(name, member.uid, member.gid, dir_fd=here, follow_symlinks=False)


def _json(raw: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        found = None
    if not isinstance(found, dict):
        raise BadInput("a description in the image is malformed")
    return found


def _digest(descriptor: object) -> str:
    text = descriptor.get("digest") if isinstance(descriptor, dict) else None
    match = _DIGEST.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise BadInput("a digest in the image is malformed")
    return match[1]


def _kind(descriptor: object) -> bool:
    kind = descriptor.get("mediaType") if isinstance(descriptor, dict) else None
    if kind not in _GZIP + _PLAIN:
        raise BadInput(f"a layer of the image is of a kind that can't be read here: {str(kind)[:100]}")
    return kind in _GZIP
