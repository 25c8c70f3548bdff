"""What the hub tells the zygote about one box to be born: a flat JSON object, checked on arrival."""

from __future__ import annotations

STAGES = ("root", "golden", "usr", "proc")


class Order:
    """One box to make. All folders named here exist already and belong to the right ids.

    ``base``/``count``: the ids inside the box as numbers outside. ``stages``: a folder with one
    empty folder for each of :data:`STAGES`, used as mount points inside the box's own namespace.
    ``outer``: who an ordinary user is (see ``outer.py``); empty as root. ``config`` goes to boxd unread.
    """

    def __init__(self, raw: dict[str, object]) -> None:
        self.key = _text(raw, "key")
        self.name = _text(raw, "name")
        self.base = _number(raw, "base")
        self.count = _number(raw, "count")
        self.stages = _text(raw, "stages")
        self.goldens = _text(raw, "goldens")
        self.golden = _text(raw, "golden")
        self.mask = _text(raw, "mask")
        self.folder = _text(raw, "folder")
        self.idmapped = raw.get("idmapped") is True
        self.userxattr = raw.get("userxattr") is True
        self.tmp_bytes = _number(raw, "tmp_bytes")
        self.shm_bytes = _number(raw, "shm_bytes")
        self.cgroups = [str(c) for c in _list(raw, "cgroups")]
        self.ports = [int(str(p)) for p in _list(raw, "ports")]
        outer = raw.get("outer")
        self.outer: dict[str, object] = dict(outer) if isinstance(outer, dict) else {}
        config = raw.get("config")
        self.config: dict[str, object] = dict(config) if isinstance(config, dict) else {}

    def stage(self, name: str) -> str:
        """The staging folder ``name``."""
        return f"{self.stages}/{name}"


def _text(raw: dict[str, object], key: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{key} = {value!r} is not a text")
    return value


def _number(raw: dict[str, object], key: str) -> int:
    value = raw.get(key)
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{key} = {value!r} is not a count")
    return value


def _list(raw: dict[str, object], key: str) -> list[object]:
    value = raw.get(key)
    if not isinstance(value, list):
        raise ValueError(f"{key} = {value!r} is not a list")
    return value
