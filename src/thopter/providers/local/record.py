"""What the provider writes down about each box, before it makes anything: ``boxes/<key>/box.json``,
and once the box lives its first process in ``boxes/<key>/made.json``.

A record in phase ``creating`` (no second file) means a creation that was never finished: whatever
exists of it is removed. A bad file is reported as a leak by its folder, never guessed at.

Two files, because replacing one by rename makes ext4 write it out at once (1 ms and more).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct, field

from thopter.model.errors import BadInput
from thopter.model.ids import check_name
from thopter.model.nouns import Isolation, Limits
from thopter.model.sockets import BoxSpec, Places

STOPPED = "stopped"  # mark: ended on purpose, its files are kept
STILL = "still"  # mark: frozen for the instant of a snapshot
LIVE = "live"  # mark: its processes are being saved
LIVES = "lives"  # mark: processes that came with its snapshot were started in it
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
    ``base``/``count`` are its ids outside, ``stored`` the first id of its files on disk (0: ours);
    ``golden`` is the digest, not the name; ``snapshot`` what it was made from. ``stopped``: it was
    ended on purpose."""

    key: str
    name: str
    isolation: Isolation
    golden: str
    created_ms: int
    group: str = ""  # name of its control group
    base: int = 0
    count: int = 1
    stored: int = 0
    snapshot: str = ""
    ports: tuple[int, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    limits: Limits = Limits()
    hook_token: str = ""
    engine: tuple[str, ...] = ()  # of a container: the program that made it, with its options
    places: Places = Places()
    pid: int = 0
    start: int = 0
    boot: str = ""
    stopped: bool = False

    @property
    def complete(self) -> bool:
        """True when it was made (it may have died since), False when its making was cut off."""
        return self.pid > 0


class _Made(Struct, frozen=True, kw_only=True):
    """What ``made.json`` says."""

    pid: int
    start: int
    boot: str
    ports: dict[str, int] = field(default_factory=dict)


def _alive(record: Record, made: _Made) -> Record:
    places = record.places
    if made.ports:
        places = msgspec.structs.replace(places, ports=made.ports)
    return msgspec.structs.replace(record, pid=made.pid, start=made.start, boot=made.boot, places=places)


class Records:
    """The records of one state folder. Blocking, small files; nothing is cached."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, key: str) -> Record | None:
        """The record of ``key``; None when there is none or it can't be read."""
        folder = self.folder / key
        try:
            record = msgspec.json.decode((folder / "box.json").read_bytes(), type=Record)
        except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
            return None
        try:
            made = msgspec.json.decode((folder / "made.json").read_bytes(), type=_Made)
        except (FileNotFoundError, msgspec.DecodeError):
            return record
        return msgspec.structs.replace(_alive(record, made), stopped=self.marked(key, STOPPED))

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
        """Write that a box is about to be made. Survives kill -9, and a power cut after :meth:`sync`."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.folder / record.key, 0o700)
        write_json(self.folder / record.key / "box.json", record)

    def made(
        self, record: Record, pid: int, start: int, boot: str, ports: Mapping[str, int] | None = None
    ) -> Record:
        """Write that it lives, with its first process (and what its ports became); returns the record
        as it is now."""
        made = _Made(pid=pid, start=start, boot=boot, ports=dict(ports or {}))
        write_json(self.folder / record.key / "made.json", made)
        return _alive(record, made)

    def mark(self, key: str, what: str, durable: bool = True) -> None:
        """Put the mark ``what`` on ``key``."""
        folder = self.folder / key
        os.close(os.open(folder / what, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if durable:
            sync_path(folder)

    def unmark(self, key: str, what: str, durable: bool = True) -> None:
        """Take it off. Not there = success."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / key / what).unlink()
            if durable:
                sync_path(self.folder / key)

    def marked(self, key: str, what: str) -> bool:
        """True when it carries that mark."""
        return os.path.exists(f"{self.folder}/{key}/{what}")

    def sync(self, key: str) -> None:
        """On the disk, names and contents, when this returns."""
        folder = self.folder / key
        for path in (folder / "box.json", folder / "made.json", folder, self.folder):
            sync_path(path)

    def remove(self, key: str) -> None:
        """Forget ``key``. Gone already = success."""
        folder = self.folder / key
        for name in ("made.json.new", "made.json", "box.json.new", STOPPED, STILL, LIVE, LIVES, "box.json"):
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()


def write_json(path: Path, content: Struct) -> None:
    """Put ``content`` at ``path`` by rename; durable after :func:`sync_path` of it and its folder."""
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, msgspec.json.encode(content))
    finally:
        os.close(fd)
    os.rename(f"{path}.new", path)


def sync_path(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
