"""Who can be killed in a thopter that runs on this machine, found from outside by ``/proc`` alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from thopter.kit.linux import calls
from thopter.kit.paths import Paths

BOX_VICTIMS = ("agent", "tmux", "boxd", "box")
HUB_VICTIMS = ("hub", "hub then agent", "zygote", "model gateway", "git gateway", "everything", "reboot")
DISK_VICTIM = "disk full"  # of a state folder that is a disk of its own
_GONE_S = 30.0
_FULL_S = 6.0


class Victims:
    """The processes of one state folder. Nothing here asks the hub: it may be dead."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths

    def kill(self, victim: str, box: str = "") -> int:
        """kill -9 ``victim`` (of box ``box`` for those of a box) and wait until it is gone; returns how
        many processes died. Nothing there to kill is no error. The disk's turn is over when this returns."""
        if victim == DISK_VICTIM:
            return self._fill_disk()
        if victim == "hub then agent":
            return self.kill("hub") + self.kill("agent", box)
        pids = self._find(victim, box)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + _GONE_S
        while any(_alive(pid) for pid in pids):
            if time.monotonic() > end:
                raise TimeoutError(f"{victim} does not die: {pids}")
            time.sleep(0.01)
        if victim == "reboot":
            self._unmount()
        return len(pids)

    def _find(self, victim: str, box: str) -> list[int]:
        if victim in BOX_VICTIMS:
            return self._in_box(victim, box)
        hub = [pid for pid, line in _processes() if "thopter.hub.main" in line and self._is_ours(pid)]
        if victim == "hub":
            return hub
        gateways = [
            pid
            for pid, line in _processes()
            if "thopter.gateway." in line and str(self.paths.runtime) in line
            if victim in ("everything", "reboot") or f"thopter.gateway.{victim.partition(' ')[0]}" in line
        ]
        if victim in ("model gateway", "git gateway"):
            return gateways
        family = [
            pid for pid, line in _processes() if line.startswith("thopter-zygote") and self._named(line)
        ]
        if victim == "zygote":
            return family
        return [*hub, *gateways, *family, *(self._first(b) for b in self._boxes() if self._first(b))]

    def _is_ours(self, pid: int) -> bool:
        """A hub is told its state folder by its environment or holds its lock file open."""
        with contextlib.suppress(OSError):
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(fd).startswith(str(self.paths.state) + "/"):
                        return True
        return False

    def _named(self, line: str) -> bool:
        return str(self.paths.state) in line or _family(self.paths) in line

    def _boxes(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return [p.name for p in (self.paths.state / "boxes").iterdir()]
        return []

    def _first(self, box: str) -> int:
        """The first process of a box, 0 when it is dead."""
        with contextlib.suppress(OSError, ValueError):
            made = json.loads((self.paths.state / "boxes" / box / "made.json").read_text())
            stat = Path(f"/proc/{made['pid']}/stat").read_text().rpartition(")")[2].split()
            if int(stat[19]) == made["start"] and stat[0] not in "ZX":
                return int(made["pid"])
        return 0

    def _in_box(self, victim: str, box: str) -> list[int]:
        first = self._first(box)
        if not first or victim == "box":
            return [first] if first else []
        below = list(_descendants(first))
        if victim == "boxd":
            return [pid for pid in _children(first) if _name(pid) == "thopter-box"]
        if victim == "tmux":
            return [pid for pid in below if _name(pid).startswith("tmux")]
        return [pid for pid in below if _name(pid) == "claude"]

    def _fill_disk(self) -> int:
        """Leave no byte on the disk of the state folder for some seconds. Nobody dies of that at once."""
        ballast = self.paths.state / "ballast"
        try:
            with ballast.open("wb") as f:
                step = 1 << 30
                while step >= 4096:
                    try:
                        os.posix_fallocate(f.fileno(), os.fstat(f.fileno()).st_size, step)
                    except OSError:
                        step //= 2
            time.sleep(_FULL_S)
        finally:
            ballast.unlink()
        return 0

    def _unmount(self) -> None:
        """What a reboot undoes: the pool's mount. The files stay."""
        pool = self.paths.state / "pool"
        end = time.monotonic() + _GONE_S
        while os.path.ismount(pool):
            try:
                calls.umount(str(pool))
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)  # the last mounts of a dead box go a moment after it


def _family(paths: Paths) -> str:
    import hashlib

    return f"thopter-{hashlib.sha256(os.fsencode(paths.state)).hexdigest()[:8]}"


def _processes() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield int(entry.name), line


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(c) for c in (task / "children").read_text().split()]
    return found


def _descendants(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield child
        yield from _descendants(child)
