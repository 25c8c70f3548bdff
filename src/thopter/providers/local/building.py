"""Snapshots whose whole root comes from somewhere else than this machine: a Debian made by its own
tools, or an OCI image.

The root becomes a golden without a name, the snapshot an empty one on top of it. Nothing of an image
is run to make it, nothing of a Debian as a user that exists.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from thopter.kit import failpoint
from thopter.kit.threads import finish
from thopter.model.errors import BadInput
from thopter.model.sockets import GoldenPart
from thopter.providers.local import curated, debian, flatten, goldens, oci, wants
from thopter.providers.local.maker import Maker, now_ms
from thopter.providers.local.saved import SavedBox
from thopter.providers.local.trees import remove_tree
from thopter.providers.local.uids import STORED
from thopter.providers.local.unpacking import Bounds


async def build(
    maker: Maker, snap: str, source: str, packages: Sequence[str], tags: dict[str, str]
) -> AsyncGenerator[str, None]:
    """Make snapshot ``snap`` from ``source``; yields progress. On an error nothing is left, nor after
    kill -9 once a sweep has run."""
    debian_suite = source.removeprefix("debian:") if source.startswith("debian:") else ""
    if not source.startswith(("/", "debian:")):
        raise BadInput(f"{source!r} is no known source", hint="debian:SUITE, or the path of an OCI image")
    if packages and source.startswith("/"):
        raise BadInput(
            "packages can't be put into an image while it is read",
            hint="install them in a thopter made from it, then 'thopter snapshot create'",
        )
    built = await finish(maker.shelf.new)
    try:
        if source.startswith("debian:"):
            more = ["nodejs"] if await finish(wants.node, _agents_place(maker)) else []
            lines = debian.root(maker, debian_suite, [*packages, *more], built)
            async with contextlib.aclosing(lines):
                async for line in lines:
                    yield line
        else:
            yield f"reading {source}"
            layers = await finish(_read, maker, Path(source), built)
            yield f"{layers} layers are checked and unpacked"
        failpoint.hit("build.unpacked")
        parts = await finish(_agents, maker, built / "root")
        if parts:
            yield "agents of this machine's golden put in: " + ", ".join(p.name for p in parts)
        missing = await finish(wants.missing, built / "root")
        for name, why in missing.items():
            yield f"note: it has no {name} ({why})"
        saved = await finish(_keep, maker, snap, built, parts, tags, missing)
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


def _agents_place(maker: Maker) -> Path:
    """Where the default golden has its agents; somewhere that is not there when it has none."""
    return maker.shelf.folder / "default/root/opt/thopter"


def _agents(maker: Maker, root: Path) -> tuple[GoldenPart, ...]:
    """Put the agents of the default golden in, by hard link: they are read-only for everybody."""
    golden = maker.shelf.read("default")
    if golden is None:
        return ()
    place = _agents_place(maker)
    for part in golden.parts:
        target = root / "opt/thopter" / part.name
        if (place / part.name).is_dir() and not os.path.lexists(target):
            shutil.copytree(place / part.name, target, symlinks=True, copy_function=os.link)
    return golden.parts


def _keep(
    maker: Maker, snap: str, built: Path, parts: tuple[GoldenPart, ...], tags: dict[str, str],
    missing: dict[str, str],
) -> SavedBox:  # fmt: skip
    digest = flatten.content_digest(built / "root")
    facts = goldens.Golden(layout=goldens.LAYOUT, parts=parts, created_ms=now_ms(), whole=True)
    stored = STORED if maker.root else 0
    maker.saved.begin(SavedBox(id=snap, golden=digest, created_ms=now_ms(), stored=stored, tags=tags))
    try:
        failpoint.hit("build.recorded")
        maker.pool.remove_saved(snap)
        maker.pool.make_saved(snap, stored)
        maker.shelf.keep(built, "", digest, facts)
        failpoint.hit("build.kept")
        return maker.saved.finish(snap, 0, missing)
    except BaseException:
        maker.saved.remove(snap)
        raise


def let_go(maker: Maker, digest: str) -> None:
    """Remove the golden ``digest`` when it has no name and nobody stands on it any more. Blocking.
    Whoever begins to use one writes that down first and looks then whether it is still there."""
    used = {*(r.golden for r in maker.records.all()), *(s.golden for s in maker.saved.all())}
    place = maker.shelf.folder / digest
    if digest and place in maker.shelf.unused(used):
        gone = maker.shelf.folder / f".gone-{secrets.token_hex(6)}"
        with contextlib.suppress(FileNotFoundError):  # somebody else was faster
            place.rename(gone)
        remove_tree(gone)
