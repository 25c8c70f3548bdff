"""Boxes made by bubblewrap: for a kernel that refuses user namespaces to us and grants them to it
(a security profile for bwrap, or bwrap installed setuid).

The box's root is a copy of the golden, written by the box alone; /usr, the agents' programs and
/sys are bound read-only. No overlay: bwrap has had one only since 0.11.
"""

from __future__ import annotations

import os
import shutil
import stat
from typing import Any, ClassVar

from thopter.boxd.config import DEFAULT_PATH
from thopter.model.errors import ProviderError
from thopter.model.nouns import Isolation
from thopter.model.sockets import Places
from thopter.providers.local import mask
from thopter.providers.local.record import Record
from thopter.providers.local.rootfs import HIDDEN_PROC, READ_ONLY_PROC
from thopter.providers.local.way import OWN_BIN, Job, box_python, copy_golden, write_names

_APP, _DOOR = "/run/thopter-first.pyz", "/run/thopter-door"


class Bubblewrap:
    """See the module docstring."""

    isolation: ClassVar[Isolation] = Isolation.BUBBLEWRAP

    def check(self) -> None:
        """bwrap and a Python for it must be there."""
        _bwrap()
        box_python()

    def engine(self) -> tuple[str, ...]:
        """None is needed afterwards."""
        return ()

    def places(self, key: str) -> Places:
        """The usual ones, but /usr is read-only."""
        return Places(bin=OWN_BIN)

    def config(self, record: Record) -> dict[str, Any]:
        """Programs put into the box are found."""
        return {"path": f"{OWN_BIN}:{DEFAULT_PATH}"}

    def ends(self) -> bool:
        """bwrap waits as long as the box lives."""
        return False

    def came(self, said: str) -> bool:
        """It has not, when it has ended."""
        return False

    def env(self) -> dict[str, str]:
        """Nothing."""
        return {}

    def furnish(self, job: Job) -> None:
        """Copy the golden."""
        copy_golden(job.golden, job.upper, job.bench)
        write_names(job.upper / "etc", job.record.name)

    def argv(self, job: Job) -> list[str]:
        """The whole policy: what is bound, what is hidden, what is not shared."""
        tool = _bwrap()
        memory = job.memory_bytes or 4 << 30
        words = [
            tool, "--unshare-user", "--uid", "0", "--gid", "0", "--unshare-pid", "--as-pid-1",
            "--unshare-ipc", "--unshare-uts", "--unshare-net", "--unshare-cgroup-try", "--new-session",
            "--hostname", job.record.name,
        ]  # fmt: skip
        if not os.stat(tool).st_mode & stat.S_ISUID:
            words += ["--cap-add", "ALL"]  # within its user namespace; first.py drops all but a few
        words += ["--bind", str(job.upper), "/", "--ro-bind", "/usr", "/usr"]
        for path in mask.hidden_now():
            words += ["--tmpfs", path] if os.path.isdir(path) else ["--ro-bind", "/dev/null", path]
        if not job.bench:
            words += ["--ro-bind", str(job.golden / "opt/thopter"), "/opt/thopter"]
        words += ["--ro-bind", str(job.golden / "sys"), "/sys", "--proc", "/proc"]
        for name in READ_ONLY_PROC:
            if os.path.lexists(f"/proc/{name}"):
                words += ["--ro-bind", f"/proc/{name}", f"/proc/{name}"]
        for name in HIDDEN_PROC:
            if os.path.lexists(f"/proc/{name}"):
                words += ["--ro-bind", "/dev/null", f"/proc/{name}"]
        words += [
            "--dev", "/dev", "--perms", "1777", "--size", str(max(min(memory // 4, 1 << 30), 16 << 20)),
            "--tmpfs", "/dev/shm", "--perms", "1777", "--size", str(max(memory // 2, 64 << 20)),
            "--tmpfs", "/tmp", "--perms", "0755", "--size", str(64 << 20), "--tmpfs", "/run",
            "--perms", "1777", "--dir", "/run/lock", "--perms", "0700", "--dir", "/run/thopter",
            "--ro-bind", str(job.app), _APP, "--ro-bind", str(job.door), _DOOR, "--chdir", "/", "--",
        ]  # fmt: skip
        return [*words, *job.program(box_python(), _APP, _DOOR)]


def _bwrap() -> str:
    found = shutil.which("bwrap", path=os.defpath)
    if found is None:
        raise ProviderError(
            "bubblewrap is not installed: 'apt install bubblewrap' (or your system's package)"
        )
    return os.path.realpath(found)
