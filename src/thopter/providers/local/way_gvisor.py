"""Boxes whose programs run on gVisor: a kernel of their own, in a memory-safe language, that is itself a
program in a box of ours.

Such a box is made by the zygote like any other, with the same files, ids, walls, limits and sockets; its
first process is a keeper (gv_keeper.py) that runs ``runsc``, and the box itself is inside (gv_guest.py).
So it is frozen, saved, stopped, found and removed as every box is, and whoever gets out of gVisor's
kernel stands in the box that others start with.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from functools import cache
from pathlib import Path
from typing import ClassVar

import msgspec

from thopter.kit import boxd_bundle
from thopter.kit.linux import calls, caps, procs, seccomp
from thopter.kit.threads import finish
from thopter.model.errors import ProviderError
from thopter.model.nouns import Isolation
from thopter.model.sockets import BoxSpec, Caps
from thopter.providers.local import gv_command, gv_guest, gv_rootfs, opening, vm_mux, walls
from thopter.providers.local.core import Core
from thopter.providers.local.maker import Maker
from thopter.providers.local.modes import Mode
from thopter.providers.local.record import Record
from thopter.providers.local.way import box_python

NO_LIVE = "gVisor's programs are not processes of this machine, which CRIU could save"
_GET = (
    "'apt install runsc' (Debian 13; Debian 12: 'apt install -t bookworm-backports runsc'), or name "
    "gVisor's program in local.runsc"
)
_PATH = os.defpath + ":/usr/local/bin:/usr/sbin:/usr/local/sbin"
_LACKS = {
    "forks live": f"'fork --live' can't be had: {NO_LIVE}",
    "speed": "gVisor boxes start slower and their programs start others several times slower",
    "gdb": "programs of this machine can't look into a gVisor box's processes",
}


class Gvisor:
    """See the module docstring."""

    isolation: ClassVar[Isolation] = Isolation.GVISOR

    def __init__(self, core: Core, maker: Maker) -> None:
        self._core, self._maker = core, maker
        self._once = threading.Lock()
        self._built = False

    def check(self) -> None:
        """runsc, new enough and in /usr, and a Python for the box must be there; and root, for now."""
        if not self._maker.root:
            raise ProviderError("gVisor boxes take a hub that runs as root", hint="'sudo thopter hub start'")
        self._program()
        box_python()

    def caps(self, usual: Caps) -> Caps:
        """As usual ones, but for what CRIU does."""
        facets = usual.facets - {"forks live"}
        return msgspec.structs.replace(
            usual, isolation=self.isolation, facets=facets, missing={**usual.missing, **_LACKS}
        )

    async def bear(self, spec: BoxSpec, token: str, golden: str) -> Record:
        """Make it and wait until its boxd answers."""
        told = await finish(self._told, spec)
        return await self._core._bear(await finish(self._maker.prepare, told, self._mode(), token, golden))

    async def revive(self, old: Record, spec: BoxSpec) -> Record:
        """Start it again on its files."""
        told = await finish(self._told, spec)
        return await self._core._bear(await finish(self._maker.prepare_again, old, told, self._mode()))

    def _mode(self) -> Mode:
        return Mode(isolation=self.isolation, user={})

    def _told(self, spec: BoxSpec) -> BoxSpec:
        """The spec with what the keeper has to know; what it will need is in place."""
        self.check()
        with self._once:
            if not self._built:
                boxd_bundle.build_zipapp(str(self._maker.paths.state / gv_rootfs.APP), _content())
                self._built = True
            program = self._shown(self._program())
        orders = {"program": program, "python": box_python(), "ports": list(spec.ports)}
        extra = spec.native.get("boxd")
        boxd = {**(extra if isinstance(extra, dict) else {}), "sentry": orders}
        return msgspec.structs.replace(spec, native={**spec.native, "boxd": boxd})

    def _program(self) -> str:
        return _program(str(self._maker.settings.get("local.runsc")))

    def _shown(self, path: str) -> str:
        """That program as a builder sees it, below /usr or our own folder; copied there where need be."""
        if path.startswith("/usr/"):
            return path.lstrip("/")
        info = os.stat(path)
        name = f"runsc-{info.st_ino}-{info.st_size}-{info.st_mtime_ns}"
        copy = self._maker.paths.state / name
        if not copy.exists():
            new = copy.with_suffix(".new")
            shutil.copyfile(path, new)
            new.chmod(0o755)
            for old in self._maker.paths.state.glob("runsc-*"):
                if old != new:
                    old.unlink()
            new.rename(copy)
        return f"state/{name}"


def _program(wish: str) -> str:
    """Where the runsc is that the setting ``local.runsc`` means. ProviderError, saying how to get one, when
    there is none that will do."""
    if wish == "off":
        raise ProviderError("local.runsc is off", hint="set it to auto, or to where runsc is")
    found = shutil.which("runsc", path=_PATH) if wish == "auto" else wish
    if found is None:
        raise ProviderError("runsc is not installed", hint=_GET)
    path = os.path.realpath(found)
    if not os.access(path, os.X_OK) or not os.path.isfile(path):
        raise ProviderError(f"local.runsc names no program: {wish}", hint=_GET)
    info = os.stat(path)
    date = _version(path, info.st_mtime_ns, info.st_size)
    if date < gv_command.OLDEST:
        raise ProviderError(
            f"{path} is of {date or 'unknown date'}, and before {gv_command.OLDEST} not even ls works in it",
            hint=_GET,
        )
    return path


@cache
def _version(path: str, _mtime: int, _size: int) -> int:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise ProviderError(f"{path} can't be run: {e}", hint=_GET) from None
    return gv_command.version(done.stdout)


@cache
def _content() -> tuple[tuple[str, bytes], ...]:
    """What gv.pyz holds besides boxd."""
    packages = ("kit", "kit/linux", "providers", "providers/local")
    files = [(f"thopter/{name}/__init__.py", b"") for name in packages]
    for module in (calls, caps, seccomp, procs, walls, opening, vm_mux, gv_guest):
        path = module.__name__.replace(".", "/") + ".py"
        files.append((path, Path(module.__file__ or "").read_bytes()))
    return (*files, ("__main__.py", b"from thopter.providers.local.gv_guest import main\nmain()\n"))
