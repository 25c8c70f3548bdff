"""What the provider writes down about each box, before it makes anything: ``boxes/<key>/box.json``.

A record in phase ``creating`` means a creation that was never finished: whatever exists of it is
removed. A bad file is reported as a leak by its folder, never guessed at.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import msgspec
from msgspec import Struct, field

from thopter.model.errors import BadInput
from thopter.model.ids import check_name
from thopter.model.nouns import Isolation, Limits
from thopter.model.sockets import BoxSpec

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def check_key(key: str) -> str:
    """Return ``key`` when it may name a box's folders and socket, else raise BadInput."""
    if not _KEY.fullmatch(key) or ".." in key:
        raise BadInput(
            f"{key[:70]!r} is not a usable box key", hint="1 to 64 letters, digits, '_', '-' and '.'"
        )
    return key


def check_spec(spec: BoxSpec) -> None:
    """Raise BadInput for a spec that no box can be made of."""
    check_key(spec.key)
    check_name(spec.name)
    limits = msgspec.structs.asdict(spec.limits)
    if any(value < 0 for value in limits.values()):
        raise BadInput(f"limits can't be negative: {limits}")
    if len(set(spec.ports)) != len(spec.ports) or not all(0 < port < 65536 for port in spec.ports):
        raise BadInput(f"ports {spec.ports} are not different numbers from 1 to 65535")
    try:
        msgspec.json.encode(spec.native)
    except (TypeError, ValueError) as e:
        raise BadInput(f"the native options are not JSON: {e}") from None


class Record(Struct, frozen=True, kw_only=True):
    """One box as the provider knows it. ``pid``/``start``/``boot`` name its first process for good;
    ``base``/``count`` are its ids outside; ``golden`` is the digest, not the name."""

    key: str
    name: str
    phase: str  # creating, made
    isolation: Isolation
    golden: str
    created_ms: int
    group: str = ""  # name of its control group
    base: int = 0
    count: int = 1
    ports: tuple[int, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    limits: Limits = Limits()
    hook_token: str = ""
    pid: int = 0
    start: int = 0
    boot: str = ""


class Records:
    """The records of one state folder. Blocking, small files; nothing is cached."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, key: str) -> Record | None:
        """The record of ``key``; None when there is none (or it can't be read, see :meth:`broken`)."""
        try:
            raw = (self.folder / key / "box.json").read_bytes()
            return msgspec.json.decode(raw, type=Record)
        except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
            return None

    def keys(self) -> list[str]:
        """Every key that has a folder, readable or not."""
        try:
            return sorted(e.name for e in os.scandir(self.folder) if e.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return []

    def all(self) -> list[Record]:
        """Every readable record."""
        return [r for r in (self.read(key) for key in self.keys()) if r is not None]

    def write(self, record: Record) -> None:
        """Write it, replacing what was there; survives kill -9, and a power cut after :meth:`sync`."""
        folder = self.folder / record.key
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        temp = folder / "box.json.new"
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, msgspec.json.encode(record))
        finally:
            os.close(fd)
        temp.rename(folder / "box.json")

    def sync(self, key: str) -> None:
        """On the disk, name and content, when this returns."""
        for path in (self.folder / key / "box.json", self.folder / key, self.folder):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def remove(self, key: str) -> None:
        """Forget ``key``. Gone already = success."""
        folder = self.folder / key
        for name in ("box.json.new", "box.json"):
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()
