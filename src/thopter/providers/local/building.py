"""Snapshots whose whole root comes from somewhere else than this machine: an OCI image.

The root becomes a golden without a name, the snapshot an empty one on top of it. Nothing of an image
is run to make it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from thopter.kit.threads import finish
from thopter.model.errors import BadInput, Unsupported
from thopter.model.sockets import GoldenPart
from thopter.providers.local import curated, flatten, goldens, oci
from thopter.providers.local.maker import Maker, now_ms
from thopter.providers.local.saved import SavedBox
from thopter.providers.local.trees import remove_tree
from thopter.providers.local.uids import STORED
from thopter.providers.local.unpacking import Bounds

_WANTED = {"sh": "nothing runs without it", "tmux": "agents run in it", "git": "work is done in git",
           "node": "Claude Code needs it"}  # fmt: skip
_PATHS = ("usr/local/bin", "usr/bin", "bin")


async def build(
    maker: Maker, snap: str, source: str, packages: Sequence[str], tags: dict[str, str]
) -> AsyncGenerator[str, None]:
    """Make snapshot ``snap`` from ``source``; yields progress. On an error nothing is left."""
    if source.startswith("debian:"):
        raise Unsupported(
            "a Debian can't be built here yet",
            hint="make an OCI image of it elsewhere and give its folder or tar",
        )
    if not source.startswith("/"):
        raise BadInput(f"{source!r} is no known source", hint="the absolute path of an OCI image")
    if packages:
        raise BadInput("packages can't be put into an image while it is read", hint="install them in a box")
    built = await finish(maker.shelf.new)
    try:
        yield f"reading {source}"
        layers = await finish(_read, maker, Path(source), built)
        yield f"{layers} layers are checked and unpacked"
        parts = await finish(_agents, maker, built / "root")
        if parts:
            yield "agents of this machine's golden put in: " + ", ".join(p.name for p in parts)
        for name, why in _WANTED.items():
            if not any(os.path.lexists(built / "root" / p / name) for p in _PATHS):
                yield f"note: the image has no {name} ({why})"
        saved = await finish(_keep, maker, snap, built, parts, tags)
        yield f"snapshot {saved.id} is ready ({saved.golden})"
    finally:
        if built.exists():
            await finish(remove_tree, built)


def _read(maker: Maker, source: Path, built: Path) -> int:
    bounds = Bounds(maker.settings.get("local.import_entries"), maker.settings.get("local.import_bytes"))
    if not source.exists():
        raise BadInput(f"there is no {source}")
    blobs = built / "image"
    blobs.mkdir()
    layout = oci.unpack_layout(source, blobs, bounds)
    root = built / "root"
    root.mkdir(mode=0o755)
    layers = oci.Image(layout).apply(root, bounds)
    remove_tree(blobs)
    curated.complete(root)
    return layers


def _agents(maker: Maker, root: Path) -> tuple[GoldenPart, ...]:
    """Put the agents of the default golden in, by hard link: they are read-only for everybody."""
    golden = maker.shelf.read("default")
    if golden is None:
        return ()
    place = maker.shelf.folder / maker.shelf.resolve("default") / "root/opt/thopter"
    for part in golden.parts:
        target = root / "opt/thopter" / part.name
        if (place / part.name).is_dir() and not os.path.lexists(target):
            shutil.copytree(place / part.name, target, symlinks=True, copy_function=os.link)
    return golden.parts


def _keep(
    maker: Maker, snap: str, built: Path, parts: tuple[GoldenPart, ...], tags: dict[str, str]
) -> SavedBox:
    digest = flatten.content_digest(built / "root")
    facts = goldens.Golden(layout=goldens.LAYOUT, parts=parts, created_ms=now_ms(), whole=True)
    stored = STORED if maker.root else 0
    maker.saved.begin(SavedBox(id=snap, golden=digest, created_ms=now_ms(), stored=stored, tags=tags))
    try:
        maker.pool.remove_saved(snap)
        maker.pool.make_saved(snap, stored)
        maker.shelf.keep(built, "", digest, facts)
        return maker.saved.finish(snap, 0)
    except BaseException:
        maker.saved.remove(snap)
        raise
