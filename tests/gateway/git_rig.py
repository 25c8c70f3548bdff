"""A git gateway before the mirror of a small real repository, with two boxes attached."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from gateway_support import Home, agit, git, listener, make_repo, port_of

from thopter.gateway.client import GatewayClient
from thopter.gateway.mirror import Mirrors


class GitRig:
    """``ports[name]`` is where box ``name`` reaches the gateway."""

    def __init__(self, client: GatewayClient, pid: int, mirrors: Mirrors, source: Path) -> None:
        self.client = client
        self.pid = pid
        self.mirrors = mirrors
        self.source = source
        self.slug = ""
        self.base = ""
        self.doors: dict[str, socket.socket] = {}
        self.ports: dict[str, int] = {}

    @property
    def mirror(self) -> Path:
        return self.mirrors.path(self.slug)

    def url(self, box: str = "flag") -> str:
        return f"http://127.0.0.1:{self.ports[box]}/r/{self.slug}.git"

    async def attach(self, box: str, **fields: object) -> None:
        """Attach (again) box ``box``, whose branch is ``thopter/<box>``."""
        if box not in self.doors:
            self.doors[box] = listener()
            self.ports[box] = port_of(self.doors[box])
        wanted = {"repo": self.slug, "branch": f"thopter/{box}", "base": self.base} | fields
        await self.client.attach(box, self.doors[box], **wanted)

    async def clone(self, folder: Path, box: str = "flag", *options: str) -> Path:
        """Clone as box ``box`` and switch to its branch."""
        await agit(*options, "clone", "-q", self.url(box), str(folder))
        await agit("checkout", "-q", "-B", f"thopter/{box}", self.base, cwd=folder)
        return folder

    def refs(self) -> dict[str, str]:
        listed = git("for-each-ref", "--format=%(refname) %(objectname)", cwd=self.mirror)
        return dict(line.split(" ") for line in listed.splitlines())  # type: ignore[misc]


@contextlib.asynccontextmanager
async def git_rig(place: Home, files: dict[str, str] | None = None) -> AsyncIterator[GitRig]:
    """Start everything; boxes ``flag`` and ``other`` are attached."""
    source = place.root / "source"
    make_repo(source, files)
    git("tag", "v1", cwd=source)
    mirrors = Mirrors(place.state / "mirrors", {})
    client, pong = await place.start("git")
    rig = GitRig(client, pong.pid, mirrors, source)
    ref, _ = await mirrors.prepare(str(source))
    rig.slug, rig.base = ref.slug, ref.base
    try:
        for box in ("flag", "other"):
            await rig.attach(box)
        yield rig
    finally:
        for door in rig.doors.values():
            door.close()
    git("fsck", "--full", cwd=rig.mirror)


def leftovers(mirror: Path) -> list[str]:
    """Locks and quarantined objects in a mirror."""
    found = [p for p in mirror.rglob("*") if p.name.endswith(".lock") or "incoming-" in p.name]
    return sorted(str(p.relative_to(mirror)) for p in found)
