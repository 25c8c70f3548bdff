"""Export and import of snapshots: one file with all that a box from it needs but the machine's /usr."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from thopter.kit import failpoint
from thopter.kit.linux import calls
from thopter.model.errors import NotNow, ProviderError
from thopter.providers.local import entries, flatten, goldens, wants
from thopter.providers.local.frames import Reader, blocks
from thopter.providers.local.maker import Maker, now_ms
from thopter.providers.local.pool import LAYERS
from thopter.providers.local.saved import SavedBox
from thopter.providers.local.trees import remove_tree
from thopter.providers.local.uids import STORED
from thopter.providers.local.unpacking import Bounds, Owner, read_manifest, read_tree, skip_tree

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def export(maker: Maker, snap: str) -> Iterator[bytes]:
    """The file, block by block. NotFound before the first one; ProviderError when it goes meanwhile."""
    saved = maker.saved.require(snap)
    return blocks(_content(maker, saved))


def _content(maker: Maker, saved: SavedBox) -> Iterator[bytes]:
    golden = maker.shelf.read_digest(saved.golden)
    if golden is None:
        raise ProviderError(f"the golden of snapshot {saved.id} is gone")
    yield entries.packed(
        entries.Manifest(
            golden=saved.golden, created_ms=saved.created_ms, layout=golden.layout, parts=golden.parts,
            whole=golden.whole,
        )
    )  # fmt: skip
    places = [(maker.shelf.folder / saved.golden / "root", 0)]
    places += [(maker.saved.data(saved.id) / layer / "upper", saved.stored) for layer in LAYERS]
    for place, stored in places:
        try:
            top = os.open(place, _FOLDER)
            try:
                yield from entries.tree(top, stored)
            finally:
                os.close(top)
        except OSError as e:
            raise ProviderError(f"snapshot {saved.id} can't be read: {e}") from None


def unpack(maker: Maker, snap: str, reader: Reader, tags: dict[str, str]) -> SavedBox:
    """Make snapshot ``snap`` of such a file. All or nothing, also under kill -9. Blocking."""
    bounds = Bounds(
        maker.settings.get("local.import_entries"), maker.settings.get("local.import_bytes")
    )  # fmt: skip
    manifest = read_manifest(reader)
    golden = _golden(maker, manifest, reader, bounds)
    saved = SavedBox(
        id=snap, golden=golden.digest, created_ms=now_ms(), stored=STORED if maker.root else 0, tags=tags
    )
    maker.saved.begin(saved)
    try:
        failpoint.hit("import.recorded")
        if golden.built is None and maker.shelf.read_digest(golden.digest) is None:
            raise NotNow("the root it stands on was just removed", hint="import it once more")
        maker.pool.remove_saved(snap)
        folder = maker.pool.make_saved(snap, saved.stored)
        prefix = "trusted.overlay." if maker.root else "user.overlay."
        owner = Owner(saved.stored, maker.root, prefix, setuid=True)
        for layer in LAYERS:
            _tree(reader, folder / layer / "upper", owner, bounds)
        reader.finish()
        failpoint.hit("import.unpacked")
        calls.syncfs(str(folder))
        golden.keep(maker)
        return maker.saved.finish(snap, -1, wants.of_saved(maker, saved))
    except BaseException:
        maker.saved.remove(snap)
        raise
    finally:
        golden.drop()


class _Golden(Struct):
    """The golden of an imported snapshot: one there is (``built`` None), or a new one."""

    digest: str
    built: Path | None = None
    facts: goldens.Golden | None = None

    def keep(self, maker: Maker) -> None:
        """Put it on the shelf; no name points to it."""
        if self.built is not None and self.facts is not None:
            maker.shelf.keep(self.built, "", self.digest, self.facts)
            self.built = None

    def drop(self) -> None:
        """Not wanted any more, unless kept."""
        if self.built is not None and self.built.exists():
            remove_tree(self.built)


def _golden(maker: Maker, manifest: entries.Manifest, reader: Reader, bounds: Bounds) -> _Golden:
    there = maker.shelf.read_digest(manifest.golden)
    if there is not None and there.parts == manifest.parts and there.whole == manifest.whole:
        skip_tree(reader, bounds)
        return _Golden(manifest.golden)
    built = maker.shelf.new()
    try:
        root = built / "root"
        root.mkdir(mode=0o755)
        _tree(reader, root, Owner(0, maker.root, "", setuid=False), bounds)
        digest = flatten.content_digest(root)
        facts = goldens.Golden(
            layout=manifest.layout, parts=manifest.parts, created_ms=now_ms(), whole=manifest.whole
        )
        return _Golden(digest, built, facts)
    except BaseException:
        remove_tree(built)
        raise


def _tree(reader: Reader, place: Path, owner: Owner, bounds: Bounds) -> None:
    top = os.open(place, _FOLDER)
    try:
        read_tree(reader, top, owner, bounds)
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ProviderError("no space left for the snapshot", hint="free some disk space") from None
        raise ProviderError(f"the snapshot can't be unpacked: {e}") from None
    finally:
        os.close(top)
