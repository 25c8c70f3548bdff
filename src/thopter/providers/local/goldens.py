"""The goldens of a state folder: immutable roots by digest, named by links, and the present mask.

``goldens/<digest>/root`` with ``goldens/<digest>/golden.json``; ``goldens/<name>`` is a link to the
digest; ``goldens/.masks/<digest>``. Boxes hold on to a digest, so a new golden never disturbs one.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from thopter.model.errors import BadInput, NotFound
from thopter.model.sockets import GoldenPart
from thopter.providers.local import mask
from thopter.providers.local.record import check_key
from thopter.providers.local.trees import remove_tree

BASE = "base"  # no parts; what the probe and part-less boxes use
LAYOUT = 1  # raise it when curated.py makes something that older goldens lack
_MASK_AGE_S = 24 * 3600.0


_DIGEST = re.compile(r"[0-9a-f]{16}")


class Golden(Struct, frozen=True, kw_only=True):
    """What ``golden.json`` says. ``whole``: it has a /usr of its own, the machine's is not used."""

    layout: int
    parts: tuple[GoldenPart, ...] = ()
    created_ms: int = 0
    whole: bool = False


class Shelf:
    """The folder of goldens. Blocking."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._making: set[str] = set()  # builds under way in this process

    def resolve(self, name: str) -> str:
        """The digest that ``name`` means now; NotFound when there is none."""
        check_key(name)
        try:
            found = os.readlink(self.folder / name)
        except OSError:
            raise NotFound(
                f"there is no golden {name!r} yet", hint="'thopter setup' builds the one for your agent"
            ) from None
        return found

    def read(self, name: str) -> Golden | None:
        """What the golden ``name`` holds; None when there is none or it can't be read."""
        try:
            return self.read_digest(self.resolve(name))
        except NotFound:
            return None

    def read_digest(self, digest: str) -> Golden | None:
        """What the golden in folder ``digest`` holds; None when there is none or it can't be read."""
        if not _DIGEST.fullmatch(digest):
            return None
        try:
            raw = (self.folder / digest / "golden.json").read_bytes()
            return msgspec.json.decode(raw, type=Golden)
        except (OSError, msgspec.DecodeError):
            return None

    def new(self) -> Path:
        """A fresh folder to build in; anything left of an earlier build is found by :meth:`unused`."""
        path = self.folder / f".build-{secrets.token_hex(6)}"
        self._making.add(path.name)  # so that no sweep of ours takes it away meanwhile
        path.mkdir(mode=0o755)
        return path

    def keep(self, built: Path, name: str, digest: str, golden: Golden) -> None:
        """Give ``built`` its final place and point ``name`` (if any) to it, atomically."""
        (built / "golden.json").write_bytes(msgspec.json.encode(golden))
        final = self.folder / digest
        self._making.add(digest)
        if final.exists():
            remove_tree(built)
        else:
            os.sync()  # the link below must never point to a half-written tree after a power cut
            built.rename(final)
        if name:
            link = self.folder / f".link-{secrets.token_hex(6)}"
            link.symlink_to(digest)
            link.rename(self.folder / name)
        self._making -= {digest, built.name}

    def names(self) -> dict[str, str]:
        """All names and the digests they mean."""
        links = (p for p in self.folder.iterdir() if p.is_symlink() and not p.name.startswith("."))
        return {p.name: os.readlink(p) for p in links}

    def unused(self, used: Iterable[str]) -> list[Path]:
        """Unfinished builds, and digests that neither a name nor a box (``used``) needs."""
        wanted = {*used, *self.names().values(), *self._making, ".masks", ".mask"}
        return sorted(
            path
            for path in self.folder.iterdir()
            if path.name.startswith(".link-") or not (path.is_symlink() or path.name in wanted)
        )

    def current_mask(self, now: float | None = None) -> str:
        """The digest of the mask to use, computed anew when it is a day old or packages changed."""
        link = self.folder / ".mask"
        with contextlib.suppress(OSError):
            made = link.lstat().st_mtime
            age = (time.time() if now is None else now) - made
            if 0 <= age < _MASK_AGE_S and made > _packages_changed():
                return os.readlink(link)
        return self.refresh_mask()

    def refresh_mask(self) -> str:
        """Look through /usr again and make the mask that fits it now."""
        paths = mask.hidden()
        digest = mask.digest(paths)
        masks = self.folder / ".masks"
        masks.mkdir(mode=0o755, exist_ok=True)
        if not (masks / digest).exists():
            temp = masks / f".new-{secrets.token_hex(6)}"
            mask.make(temp, paths)
            with contextlib.suppress(OSError):
                temp.rename(masks / digest)
            if temp.exists():
                remove_tree(temp)
        link = self.folder / f".link-{secrets.token_hex(6)}"
        link.symlink_to(digest)
        link.rename(self.folder / ".mask")
        return digest


def _packages_changed() -> float:
    newest = 0.0
    for path in ("/var/lib/dpkg/status", "/usr/bin", "/usr/local", "/usr/local/bin"):
        with contextlib.suppress(OSError):
            newest = max(newest, os.stat(path).st_mtime)
    return newest


def check_parts(parts: Iterable[GoldenPart]) -> tuple[GoldenPart, ...]:
    """Return ``parts`` in a stable order, or raise BadInput for one that can't be installed."""
    result = tuple(sorted(parts, key=lambda p: p.name))
    for part in result:
        check_key(part.name)
        if not part.npm or part.npm.startswith("-") or not part.version or part.version.startswith("-"):
            raise BadInput(f"{part.name}: {part.npm!r} in version {part.version!r} is not an npm package")
    if len({p.name for p in result}) != len(result):
        raise BadInput("two parts of a golden have the same name")
    return result
