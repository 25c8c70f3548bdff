"""Boxes that are nothing but a folder: no isolation at all, and called so everywhere.

Processes are the operator's own, on the machine's own files and network; only HOME, the working
folder, the tmux socket and the ports are the box's own. Never chosen by itself, never for root.
"""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path
from typing import Any, ClassVar

from thopter.model.nouns import Isolation
from thopter.model.sockets import Places
from thopter.providers.local.record import Record
from thopter.providers.local.way import Job

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class PlainFolder:
    """See the module docstring. ``runtime``: where short paths for sockets are."""

    isolation: ClassVar[Isolation] = Isolation.NONE

    def __init__(self, runtime: Path, pool: Path) -> None:
        self._runtime, self._pool = runtime, pool

    def check(self) -> None:
        """It takes nothing."""

    def engine(self) -> tuple[str, ...]:
        """None is needed afterwards."""
        return ()

    def places(self, key: str) -> Places:
        """Folders of the machine."""
        top = self._pool / key / "root/upper"
        return Places(
            home=str(top / "root"), work=str(top / "work"), opt=str(top / "opt/thopter"),
            bin=str(top / "root/.local/bin"), run=str(run_dir(self._runtime, key)),
        )  # fmt: skip

    def config(self, record: Record) -> dict[str, Any]:
        """boxd's own folders, and who the box's processes are."""
        home = self._pool / record.key / "root/upper/root"
        top = self._pool / record.key / "root/upper"
        agents = ":".join(sorted(str(p) for p in (top / "opt/thopter").glob("*/bin")))
        user = _user()
        return {
            "run_dir": str(run_dir(self._runtime, record.key)), "var_dir": str(top / "var/lib/thopter"),
            "home": str(home), "path": f"{home}/.local/bin:{_PATH}" + (f":{agents}" if agents else ""),
            "env": {"USER": user, "LOGNAME": user, "THOPTER_NAME": record.name, "THOPTER_ID": record.key,
                    "TMPDIR": str(top / "tmp")},
        }  # fmt: skip

    def ends(self) -> bool:
        """The first process is the command itself."""
        return False

    def came(self, said: str) -> bool:
        """It has not, when it has ended."""
        return False

    def env(self) -> dict[str, str]:
        """Nothing."""
        return {}

    def furnish(self, job: Job) -> None:
        """Make the folders; the agents' programs are links into the golden (and are not protected)."""
        for name in ("root", "work", "tmp", "opt", "var/lib/thopter"):
            (job.upper / name).mkdir(parents=True, mode=0o700)
        for name in (".bashrc", ".profile"):
            (job.upper / "root" / name).write_bytes((job.golden / "root" / name).read_bytes())
        (job.upper / "opt/thopter").symlink_to(job.golden / "opt/thopter")
        run_dir(self._runtime, job.record.key).mkdir(mode=0o700, parents=True, exist_ok=True)

    def argv(self, job: Job) -> list[str]:
        """The first process itself."""
        return job.program(os.path.realpath(sys.executable), str(job.app), str(job.door))


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def run_dir(runtime: Path, key: str) -> Path:
    """Where boxd's sockets and scripts are: a short path, as socket names are cut at 108 bytes."""
    return runtime / "n" / key


def log(runtime: Path, key: str) -> str:
    """Where boxd logs."""
    return f"{run_dir(runtime, key)}/boxd.log"


def run_keys(runtime: Path) -> set[str]:
    """Boxes that have such a folder."""
    try:
        return set(os.listdir(runtime / "n"))
    except FileNotFoundError:
        return set()
