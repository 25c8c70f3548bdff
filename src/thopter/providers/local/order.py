"""What the hub tells the zygote about one box to be born: flat JSON objects, checked on arrival.

A box is made in two halves. A :class:`Half` holds what is known before anybody wants the box.
"""

from __future__ import annotations

TITLE = "thopter-box"  # how the first process of a box is called in ps


class Half:
    """What a spare builder needs.

    ``stored``: the first id of its files on disk (0: they are not mapped).
    ``family``: the hub's name for all it makes. ``group``: the spare's name. ``cgroups``: folders
    to join. ``user``: see ``outer.py``; empty as root. ``base``/``count``: the ids inside the box
    as numbers outside. ``state``: the hub's state folder. ``nest``: an empty folder to mount on,
    inside the box's own mount namespace. ``sentry``: it is for a gVisor box (see gv_keeper.py), whose first
    process has to make a sandbox before it goes behind the walls.
    """

    def __init__(self, raw: dict[str, object]) -> None:
        self.family = _text(raw, "family")
        self.group = _text(raw, "group")
        self.state = _text(raw, "state")
        self.nest = _text(raw, "nest")
        self.base = _number(raw, "base")
        self.count = _number(raw, "count")
        self.stored = _number(raw, "stored")
        cgroups, user = raw["cgroups"], raw["user"]
        if not (isinstance(cgroups, list) and isinstance(user, dict)):
            raise ValueError("half needs cgroups and user")
        self.sentry = raw.get("sentry") is True
        self.cgroups = [str(c) for c in cgroups]
        self.user: dict[str, object] = dict(user)
        self.raw = raw

    @property
    def idmapped(self) -> bool:
        """True when each box has ids of its own, mapped onto its files."""
        return not self.user


class Order:
    """The other half. Folders exist already and belong to the right ids; their paths are relative
    to the state folder (so that a box's /proc/mounts does not tell where that is).

    ``whole``: the golden has its own /usr. ``machine``: the box is a virtual machine, see vm_keeper.py.
    ``processes``: limit them by rlimit (0: a control group does). ``config`` goes to boxd unread.
    """

    def __init__(self, raw: dict[str, object]) -> None:
        self.name = _text(raw, "name")
        self.key = _text(raw, "key")
        self.golden = _text(raw, "golden")
        self.mask = _text(raw, "mask")
        self.folder = _text(raw, "folder")
        self.tmp_bytes = _number(raw, "tmp_bytes")
        self.shm_bytes = _number(raw, "shm_bytes")
        self.processes = _number(raw, "processes")
        self.whole = raw.get("whole") is True
        ports = raw.get("ports")
        self.ports = [int(p) for p in ports] if isinstance(ports, list) else []
        config = raw.get("config")
        self.config: dict[str, object] = dict(config) if isinstance(config, dict) else {}
        machine = self.config.get("machine")
        self.machine: dict[str, object] = machine if isinstance(machine, dict) else {}


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
