"""One way of birth for boxes that the zygote does not make itself, and what such ways share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

from msgspec import Struct

from thopter.model.errors import ProviderError
from thopter.model.nouns import Isolation
from thopter.model.sockets import Places
from thopter.providers.local.record import Record

OWN_BIN = "/root/.local/bin"  # where /usr can't be written


class Job(Struct, frozen=True, kw_only=True):
    """One box about to be made by a :class:`Way`. ``folder`` is its own; ``golden`` the root to start
    from; ``bench`` says that its /opt/thopter is to be written; ``groups`` are to be joined;
    ``base`` is the folder of the golden without parts."""

    record: Record
    folder: Path
    golden: Path
    bench: bool
    door: Path
    app: Path
    title: str
    groups: list[str]
    log: Path
    memory_bytes: int
    base: Path

    @property
    def upper(self) -> Path:
        """What the box writes."""
        return self.folder / "root/upper"

    def program(self, python: str, app: str, door: str) -> list[str]:
        """The command that is to be the first process, with its files where it sees them."""
        return [python, "-S", "-E", "-I", "-B", app, door, self.title]


class Way(Protocol):
    """One way of birth. Its methods run in threads; errors are ProviderError in a person's words."""

    isolation: ClassVar[Isolation]

    def check(self) -> None:
        """Raise when what it takes is not there."""

    def engine(self) -> tuple[str, ...]:
        """What ``Record.engine`` shall be."""

    def places(self, key: str) -> Places:
        """Where things will be in the box."""

    def config(self, record: Record) -> dict[str, Any]:
        """What boxd is told beyond the usual."""

    def furnish(self, job: Job) -> None:
        """Make what must be there before the start."""

    def argv(self, job: Job) -> list[str]:
        """The command to start (its first word a path)."""

    def ends(self) -> bool:
        """True when the command ends once the box is started, False when it lives as long."""

    def came(self, said: str) -> bool:
        """Whether a command that has ended, saying this, has started the box."""

    def env(self) -> dict[str, str]:
        """The command's environment, besides PATH."""


@cache
def box_python() -> str:
    """A Python of /usr that can run boxd, as boxes see it. ProviderError when there is none."""
    real = os.path.realpath(sys.executable)
    for found in (
        real if real.startswith("/usr/") else None,
        shutil.which("python3", path="/usr/bin:/usr/local/bin"),
    ):
        if found is None:
            continue
        ask = [found, "-S", "-E", "-I", "-c", "import sys; sys.exit(sys.version_info < (3, 9))"]
        if subprocess.run(ask, capture_output=True, timeout=30, check=False).returncode == 0:
            return found
    raise ProviderError("boxes of this kind need a Python of 3.9 or later in /usr/bin: install python3")


def copy_golden(golden: Path, target: Path, opt: bool) -> None:
    """Copy a golden's root into the existing folder ``target``, without /opt/thopter's content unless
    ``opt``. Blocking, about 0.2 s. Raises OSError."""
    copy_tree(golden, target, but="" if opt else "opt")
    if not opt:
        (target / "opt/thopter").mkdir(parents=True)


def copy_tree(source: Path, target: Path, but: str = "") -> None:
    """Copy what is in one existing folder into another, except the entry ``but``. Raises OSError."""
    names = sorted(e.path for e in os.scandir(source) if e.name != but)
    if not names:
        return
    done = subprocess.run(
        ["cp", "-a", "--reflink=auto", "--", *names, str(target)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if done.returncode:
        raise OSError(5, f"the golden can't be copied: {done.stderr.strip()[-300:]}")


def write_names(etc: Path, name: str) -> None:
    """Give the root with this /etc its host name."""
    texts = {"hostname": f"{name}\n", "hosts": f"127.0.0.1 localhost {name}\n::1 localhost\n"}
    for file, text in texts.items():
        (etc / file).unlink(missing_ok=True)
        (etc / file).write_text(text)
        (etc / file).chmod(0o644)
