"""CRIU, which saves processes and starts them again: where it is, and whether it can be used here.

It runs inside a box, but nothing of the box may get into it: it is started by descriptors, with its own
libraries, through a copy of its loader that does not read ``/etc/ld.so.preload``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

from thopter.kit.linux.calls import MACHINE
from thopter.model.errors import Unsupported

WANTED = (4, 2)  # older ones fail on this century's kernels: vdso (3.17), TCP sockets (4.1)
IMAGES, LOADER, LIBS, PROGRAM, PLUGINS = 20, 30, 31, 40, 41  # descriptors it is started with
HOW = (
    "install CRIU 4.2 or newer, or unpack it into a folder and name its program in local.criu "
    "(docs/how-to/fork-live.md)"
)
_LOADERS = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}
_PRELOAD = b"/etc/ld.so.preload\0"
_NOWHERE = b"/proc/0/ld.preload\0"  # no box can make that
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Criu(Struct, frozen=True):
    """A usable one. ``loader`` is our copy; ``libs`` the folders of its libraries; ``plugins`` is empty."""

    program: Path
    loader: Path
    libs: tuple[Path, ...]
    plugins: Path
    version: str

    @contextmanager
    def opened(self) -> Iterator[dict[int, int]]:
        """Its parts as open descriptors: under which number it wants each → our descriptor."""
        wanted = {LOADER: self.loader, PROGRAM: self.program, PLUGINS: self.plugins}
        wanted |= {LIBS + i: path for i, path in enumerate(self.libs)}
        with ExitStack() as stack:
            fds = {}
            for number, path in wanted.items():
                fds[number] = fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, fd)
            yield fds

    def argv(self, *words: str) -> list[str]:
        """The command line for a process that has those descriptors."""
        libs = ":".join(f"/proc/self/fd/{LIBS + i}" for i in range(len(self.libs)))
        loader = ["ld.so", "--inhibit-cache", "--library-path", libs, f"/proc/self/fd/{PROGRAM}"]
        own = ["--no-default-config", "--libdir", f"/proc/self/fd/{PLUGINS}", "-D", f"/proc/self/fd/{IMAGES}"]
        return [*loader, words[0], *own, *words[1:]]


def find(wish: str, folder: Path) -> Criu:
    """The one that the setting ``local.criu`` means; ``folder`` is for what we make of it. Blocking.
    Unsupported, with what to do, when there is none of the right age."""
    if wish == "off":
        raise Unsupported("local.criu is off", hint="set local.criu to auto, or to where CRIU is")
    found = shutil.which("criu", path=_PATH) if wish == "auto" else wish
    if found is None:
        raise Unsupported("CRIU is not installed", hint=HOW)
    program = Path(found)
    if not program.is_absolute() or not os.access(program, os.X_OK):
        raise Unsupported(f"local.criu names no program: {found}", hint=HOW)
    root = _root_of(program)
    loader = _loader(root, folder)
    places = (f"usr/lib/{MACHINE}-linux-gnu", f"lib/{MACHINE}-linux-gnu", "usr/lib64", "lib64")
    libs = {os.path.realpath(p): p for p in (root / place for place in places) if p.is_dir()}
    plugins = folder / "plugins"
    plugins.mkdir(exist_ok=True)
    plugins.chmod(0o755)
    version = _version(program, loader, list(libs.values()))
    if tuple(int(n) for n in version.split(".")[:2]) < WANTED:
        raise Unsupported(f"CRIU {version} is too old: {'.'.join(map(str, WANTED))} is needed", hint=HOW)
    return Criu(program, loader, tuple(libs.values()), plugins, version)


def _root_of(program: Path) -> Path:
    """The root that the program belongs to: the one it was unpacked into, or the machine's."""
    for tail in ("/usr/sbin/criu", "/usr/bin/criu", "/sbin/criu"):
        if str(program).endswith(tail):
            return Path(str(program).removesuffix(tail) or "/")
    return Path("/")


def _loader(root: Path, folder: Path) -> Path:
    """Our copy of the loader of ``root``."""
    name = _LOADERS.get(MACHINE, "")
    places = (root / place / name for place in ("lib64", "usr/lib64", "lib", f"usr/lib/{MACHINE}-linux-gnu"))
    real = next((p for p in places if name and p.exists()), None)
    if real is None:
        raise Unsupported(f"there is no loader for CRIU below {root}", hint=HOW)
    raw = real.read_bytes()
    if raw.count(_PRELOAD) != 1:
        raise Unsupported(f"the loader {real} is not one that can be told not to preload", hint=HOW)
    folder.mkdir(exist_ok=True)
    folder.chmod(0o700)
    new, copy = folder / "loader.new", folder / "loader"
    new.write_bytes(raw.replace(_PRELOAD, _NOWHERE))
    new.chmod(0o755)
    new.rename(copy)
    return copy


def _version(program: Path, loader: Path, libs: list[Path]) -> str:
    argv = [str(loader), "--inhibit-cache", "--library-path", ":".join(map(str, libs)), str(program)]
    try:
        done = subprocess.run(
            [*argv, "--version"], capture_output=True, text=True, timeout=30, env={"LC_ALL": "C"}, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Unsupported(f"CRIU does not start: {e}", hint=HOW) from None
    match = re.search(r"^Version: (\d+\.\d+(\.\d+)?)", done.stdout, re.M)
    if match is None:
        said = (done.stderr or done.stdout).strip()[-200:] or f"exit {done.returncode}"
        raise Unsupported(f"{program} does not start: {said}", hint=HOW)
    return match.group(1)
