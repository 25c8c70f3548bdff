"""An installed podman as an anchor: a small image of a shell and a few tools, storage of its own."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

_TOOLS = ("sh", "sleep", "true", "mkdir", "seq", "dd")
_RUN = ("--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")
_IMAGE = "bench:base"
_PATIENCE_S = 90


class Podman:
    """Each call is one run of the command; RuntimeError with its last words when it fails."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        runtime = ["--runtime", "runc"] if shutil.which("runc") else []  # crun refuses mixed cgroup trees
        self._podman = [
            "podman", "--root", str(folder / "root"), "--runroot", str(folder / "run"), *runtime,
            "--cgroup-manager", "cgroupfs",
        ]  # fmt: skip

    def call(self, *argv: str) -> None:
        """Run ``podman argv``."""
        # Not through pipes: what watches over a container holds them open for as long as it runs.
        with (self._folder / "said").open("w+b") as said:
            done = subprocess.run(
                [*self._podman, *argv], stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                timeout=_PATIENCE_S, check=False,
            )  # fmt: skip
            if done.returncode:
                said.seek(0)
                words = said.read().decode(errors="replace").strip()[-300:]
                raise RuntimeError(f"podman {argv[0]}: {words}")

    def run(self, *command: str) -> None:
        """A container that does ``command`` and goes."""
        self.call("run", "--rm", *_RUN, _IMAGE, *command)

    def start(self, name: str, image: str = _IMAGE, command: tuple[str, ...] = ("/bin/sleep", "600")) -> None:
        """A container that stays."""
        self.call("run", "-d", "--name", name, *_RUN, image, *command)

    def inside(self, name: str, script: str) -> None:
        """Run a script in one that stays."""
        self.call("exec", name, "/bin/sh", "-c", script)

    def commit(self, name: str, image: str) -> None:
        """Save a running container as an image, while its processes stand still."""
        self.call("commit", "-q", "-p", name, image)

    def prepare(self) -> None:
        """Import the image."""
        root = self._folder / "image"
        for tool in _TOOLS:
            found = shutil.which(tool)
            if found is None:
                raise RuntimeError(f"there is no {tool}")
            binary = Path(found).resolve()
            _copy(binary, root / "bin" / tool)
            listed = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False).stdout
            for library in re.findall(r"/\S+", listed):
                _copy(Path(library), root / library.lstrip("/"))
        for name in ("tmp", "proc", "sys", "dev", "etc", "root"):
            (root / name).mkdir(parents=True, exist_ok=True)
        tar = self._folder / "image.tar"
        subprocess.run(["tar", "-C", root, "-cf", tar, "."], check=True)
        self.call("import", str(tar), _IMAGE)

    def end(self) -> None:
        """Nothing of it is left."""
        with contextlib.suppress(RuntimeError, subprocess.SubprocessError):
            self.call("rm", "-f", "-a", "-t", "0")
        with contextlib.suppress(RuntimeError, subprocess.SubprocessError):
            self.call("rmi", "-f", "-a")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


@contextlib.contextmanager
def podman(folder: Path) -> Iterator[Podman | str]:
    """A podman that was seen to work, or why there is none."""
    if shutil.which("podman") is None:
        yield "podman is not installed"
        return
    folder.mkdir(parents=True)
    made = Podman(folder)
    try:
        try:
            made.prepare()
            made.run("/bin/true")
        except (RuntimeError, OSError, subprocess.SubprocessError) as e:
            yield f"podman does not work here ({' '.join(str(e).split())[:120]})"
            return
        yield made
    finally:
        made.end()
