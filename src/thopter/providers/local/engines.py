"""Container engines as commands: podman, or docker where that does not mean the host's root."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from thopter.model.errors import ProviderError

_KEPT = re.compile(r"HOME|PATH|USER|LOGNAME|TMPDIR|XDG_\w+|DBUS_SESSION_BUS_ADDRESS|DOCKER_\w+|CONTAINER_\w+")
_LIMIT_S = 120.0
_GONE = ("no such container", "no container with", "does not exist", "no such image", "image not known")


def env() -> dict[str, str]:
    """What of our environment an engine's command may see; nothing of it gets into a box."""
    return {k: v for k, v in os.environ.items() if _KEPT.fullmatch(k)}


def find() -> str:
    """The engine to use. ProviderError, with what to change, when there is none that will do."""
    podman, docker = shutil.which("podman"), shutil.which("docker")
    if podman is not None:
        return podman
    if docker is None:
        raise ProviderError("neither podman nor docker is installed: 'apt install podman'")
    try:
        said = run(docker, "info", "--format", "{{json .SecurityOptions}}")
        options = json.loads(said)
    except (ProviderError, ValueError) as e:
        raise ProviderError(f"docker does not answer, start its daemon or install podman: {e}") from None
    if not any(word in str(option) for option in options or () for word in ("userns", "rootless")):
        raise ProviderError(
            'root in a box of this docker is the host\'s root: set "userns-remap": "default" in '
            "/etc/docker/daemon.json, or use rootless docker, or install podman"
        )
    return docker


def run(engine: str, *words: str) -> str:
    """Run one command to its end; its output. ProviderError with its last words."""
    try:
        done = subprocess.run(
            [engine, *words], env=env(), capture_output=True, text=True, errors="replace",
            stdin=subprocess.DEVNULL, timeout=_LIMIT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as e:
        raise ProviderError(f"{engine} {words[0]}: {e}") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise ProviderError(f"{os.path.basename(engine)} {words[0]}: {said[-1] if said else 'failed'}")
    return done.stdout


def image_name(family: str, digest: str) -> str:
    """What the image of a golden is called."""
    return f"localhost/{family}:{digest}"


def image(engine: str, family: str, digest: str, golden: Path, scratch: Path) -> str:
    """The name of the image of a golden (all but /opt/thopter), made when it is not there; older ones
    go, as far as no box needs them."""
    name = image_name(family, digest)
    try:
        run(engine, "image", "inspect", name)
        return name
    except ProviderError as e:
        if not _is_gone(e):
            raise
    tar = scratch / "image.tar"
    try:
        with tarfile.open(tar, "w") as out:
            out.add(golden, ".", filter=_plain)
        run(engine, "import", str(tar), name)
    finally:
        tar.unlink(missing_ok=True)
    remove_images(engine, family, but=name)
    return name


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Everything belongs to the box's root; what is below /opt/thopter is shown by a mount."""
    if info.name.startswith("./opt/thopter/"):
        return None
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info


def remove(engine: str, container: str) -> None:
    """Remove a container and all it had. Gone already = success."""
    try:
        run(engine, "rm", "--force", "--volumes", container)
    except ProviderError as e:
        if not _is_gone(e):
            raise


def containers(engine: str, family: str) -> list[str]:
    """The names of all containers of ``family``."""
    label = f"label=thopter.family={family}"
    return run(engine, "ps", "--all", "--filter", label, "--format", "{{.Names}}").split()


def remove_images(engine: str, family: str, but: str = "") -> None:
    """Remove the images of all goldens, except ``but`` and those in use."""
    form = "{{.Repository}}:{{.Tag}}"
    for name in run(engine, "images", "--format", form, f"localhost/{family}").splitlines():
        if name and name != but:
            try:
                run(engine, "rmi", name)
            except ProviderError as e:
                if not _is_gone(e) and "in use" not in e.message and "being used" not in e.message:
                    raise


def _is_gone(e: ProviderError) -> bool:
    return any(word in e.message.lower() for word in _GONE)
