"""Boxes made by a container engine (podman, or docker of a mapped root), without network.

The image is the base golden without /usr; that and the agents' programs are bound read-only, as
everywhere. Goldens differ in those programs only.
"""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path
from typing import Any, ClassVar

from thopter.boxd.config import DEFAULT_PATH
from thopter.model.nouns import Isolation
from thopter.model.sockets import Places
from thopter.providers.local import engines, mask, walls
from thopter.providers.local.record import Record
from thopter.providers.local.uids import SIZE
from thopter.providers.local.way import OWN_BIN, Job, box_python, copy_tree, write_names

_APP, _DOOR = "/run/thopter-first.pyz", "/run/thopter-door"
MARK = "container-engine"  # in the state folder: the engine in use, so that a sweep asks it too
_LIMITS = (("nofile", resource.RLIMIT_NOFILE, 1 << 20), ("nproc", resource.RLIMIT_NPROC, 1 << 15))
_ID = re.compile(r"[0-9a-f]{64}")


class Container:
    """See the module docstring. ``family`` names the images and labels the containers."""

    isolation: ClassVar[Isolation] = Isolation.CONTAINER

    def __init__(self, family: str, state: Path) -> None:
        self._family = family
        self._state = state
        self._engine = ""

    def check(self) -> None:
        """An engine that will do must be there, and a Python for the box."""
        if not self._engine:
            self._engine = engines.find()
        box_python()
        (self._state / MARK).write_text(self._engine)

    def engine(self) -> tuple[str, ...]:
        """Who made the box, and its name there."""
        return (self._engine, self._family)

    def places(self, key: str) -> Places:
        """The usual ones, but /usr is read-only."""
        return Places(bin=OWN_BIN)

    def config(self, record: Record) -> dict[str, Any]:
        """Programs put into the box are found."""
        return {"path": f"{OWN_BIN}:{DEFAULT_PATH}"}

    def ends(self) -> bool:
        """The command ends once the container runs."""
        return True

    def came(self, said: str) -> bool:
        """It says the container's id."""
        lines = said.split()
        return bool(lines) and _ID.fullmatch(lines[-1]) is not None

    def env(self) -> dict[str, str]:
        """Where the engine keeps its things."""
        return engines.env()

    def furnish(self, job: Job) -> None:
        """Make the image, and the files that engines would otherwise make from the machine's own."""
        engines.image(self._engine, self._family, job.base.name, job.base / "root", job.folder)
        etc = job.folder / "etc"
        etc.mkdir()
        (job.folder / "empty").mkdir()
        write_names(etc, job.record.name)
        (etc / "resolv.conf").write_bytes((job.golden / "etc/resolv.conf").read_bytes())
        if job.bench:
            (job.upper / "opt/thopter").mkdir(parents=True)
            copy_tree(job.golden / "opt/thopter", job.upper / "opt/thopter")
            base = job.record.base
            for folder, _, names in os.walk(job.upper / "opt"):
                for path in (folder, *(os.path.join(folder, n) for n in names)):
                    os.chown(path, base or -1, base or -1, follow_symlinks=False)
        if job.record.base:
            for shown in (job.folder, etc, job.folder / "root", job.upper):
                shown.chmod(0o755)

    def argv(self, job: Job) -> list[str]:
        """One ``run`` of the engine."""
        memory = job.memory_bytes or 4 << 30
        tmp = f"rw,nosuid,nodev,mode=1777,size={max(memory // 2, 64 << 20)}"
        words = [
            self._engine, "run", "--detach", "--name", name(self._family, job.record.key),
            "--label", f"thopter.family={self._family}", "--hostname", job.record.name,
            "--network", "none", "--pull", "never", "--log-driver", "none", "--cap-drop", "ALL",
            "--security-opt", "no-new-privileges", "--security-opt", "label=disable",
            "--shm-size", str(max(min(memory // 4, 1 << 30), 16 << 20)),
            "--tmpfs", f"/tmp:{tmp}", "--tmpfs", "/run:rw,nosuid,nodev,mode=755,size=64m", "--workdir", "/",
        ]  # fmt: skip
        for cap in sorted(walls.KEPT_CAPABILITIES):
            words += ["--cap-add", cap]
        # podman lowers its own limits first, and not every root may raise one again.
        for limit, number, most in _LIMITS:
            hard = resource.getrlimit(number)[1]
            hard = most if hard == resource.RLIM_INFINITY else min(hard, most)
            words += ["--ulimit", f"{limit}={hard}:{hard}"]
        if job.record.base:
            for option in ("--uidmap", "--gidmap"):
                words += [option, f"0:{job.record.base}:{SIZE}"]
        etc = job.folder / "etc"
        opt = str(job.upper / "opt/thopter") if job.bench else f"{job.golden / 'opt/thopter'}"
        binds = [
            ("/usr", "/usr", "ro"), (opt, "/opt/thopter", "rw" if job.bench else "ro"),
            (str(job.app), _APP, "ro"), (str(job.door), _DOOR, "ro"),
            *((str(etc / n), f"/etc/{n}", "ro") for n in ("hosts", "hostname", "resolv.conf")),
        ]  # fmt: skip
        for path in mask.hidden_now():
            cover = str(job.folder / "empty") if os.path.isdir(path) else "/dev/null"
            binds.append((cover, path, "ro"))
        for source, target, how in binds:
            words += ["--volume", f"{source}:{target}:{how}"]
        return [
            *words,
            engines.image_name(self._family, job.base.name),
            *job.program(box_python(), _APP, _DOOR),
        ]


def name(family: str, key: str) -> str:
    """What the engine calls the container of box ``key``."""
    return f"{family}-{key}"


def end(record: Record) -> None:
    """Remove the container of a box, if it had one. Raises ProviderError."""
    if record.engine:
        engine, family = record.engine
        engines.remove(engine, name(family, record.key))


def strays(family: str, state: Path) -> dict[str, str]:
    """Containers of ours by the key of their box; empty where no engine was ever used."""
    engine = _marked(state)
    return {c.removeprefix(f"{family}-"): c for c in engines.containers(engine, family)} if engine else {}


def dismantle(family: str, state: Path) -> None:
    """Remove all containers and images of ours."""
    if engine := _marked(state):
        for container in engines.containers(engine, family):
            engines.remove(engine, container)
        engines.remove_images(engine, family)


def remove_stray(family: str, state: Path, key: str) -> None:
    """Remove the container of a box that nobody knows."""
    if engine := _marked(state):
        engines.remove(engine, name(family, key))


def _marked(state: Path) -> str:
    try:
        return (state / MARK).read_text()
    except FileNotFoundError:
        return ""
