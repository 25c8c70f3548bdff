"""A real local provider in folders of its own, for tests: everything it made is gone afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from thopter.kit.paths import Paths
from thopter.kit.settings import Settings
from thopter.providers.local import curated, flatten, mask
from thopter.providers.local.goldens import Shelf
from thopter.providers.local.provider import LocalProvider
from thopter.providers.local.trees import remove_tree

GOLDEN = "base"  # the golden without parts that every local provider makes by itself


class LocalPlace:
    """Folders in which providers can be opened, one after the other or at once, as hubs would.

    State is under ``folder``; sockets are in a new short folder, as socket paths are cut at 108
    bytes. End it with :meth:`end`.
    """

    golden = GOLDEN

    def __init__(self, folder: Path, settings: Settings | None = None, borrow: bool = True) -> None:
        """``borrow``: start with the base golden of an earlier test, where there is one."""
        self._borrow = borrow
        self._short = Path(tempfile.mkdtemp(prefix="thopter-t-", dir="/tmp"))
        self.paths = Paths(folder / "state", self._short / "r", folder / "config")
        self.settings = settings

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[LocalProvider]:
        """A new, started provider; closing it leaves its boxes alone."""
        if self._borrow and not self.paths.state.exists():
            _borrow(self.paths.state)
            borrow_machines(self.paths.state)
        provider = LocalProvider(self.paths, self.settings)
        await provider.start()
        try:
            yield provider
        finally:
            await provider.close()

    async def end(self) -> None:
        """Destroy every box, the zygote, mounts, cgroups and the state folder."""
        await LocalProvider(self.paths, self.settings).dismantle()
        if self._borrow:
            _lend(self.paths.state)
            lend_machines(self.paths.state)
        remove_tree(self._short)
        remove_tree(self.paths.state)


def _cache() -> Path:
    parts = [inspect.getsource(m) for m in (curated, mask, flatten)]
    digest = hashlib.sha256("".join(parts).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"thopter-test-goldens-{os.getuid()}-{digest}"


def _borrow(state: Path) -> None:
    if (cache := _cache()).is_dir() and cache.stat().st_uid == os.getuid():
        state.mkdir(mode=0o700, parents=True)
        subprocess.run(["cp", "-al", cache, state / "goldens"], check=True)


def _lend(state: Path) -> None:
    cache, shelf = _cache(), Shelf(state / "goldens")
    if cache.exists() or shelf.read(GOLDEN) is None or set(shelf.names()) != {GOLDEN} or shelf.unused(()):
        return
    fresh = Path(tempfile.mkdtemp(prefix="thopter-t-"))
    try:
        subprocess.run(["cp", "-al", state / "goldens", fresh / "goldens"], check=True)
        with contextlib.suppress(OSError):  # another worker was faster
            (fresh / "goldens").rename(cache)
    finally:
        remove_tree(fresh)


def _machines() -> Path:
    return Path(tempfile.gettempdir()) / f"thopter-test-machines-{os.getuid()}"


def borrow_machines(state: Path) -> None:
    """Give a new state folder the kernels and saved virtual machines of an earlier test, where there are
    some: what does not fit any more, a hub knows by its name and makes anew."""
    cache = _machines()
    with contextlib.suppress(FileNotFoundError):
        if cache.stat().st_uid == os.getuid():
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", "--reflink=auto", cache, state / "vm"], check=True)


def lend_machines(state: Path) -> None:
    """Keep those of ``state`` for later tests."""
    mine = sorted(p.relative_to(state / "vm") for p in (state / "vm").glob("*/state-*"))
    if not mine or all((_machines() / path).exists() for path in mine):
        return
    fresh = Path(tempfile.mkdtemp(prefix="thopter-t-"))
    try:
        subprocess.run(["cp", "-a", "--reflink=auto", state / "vm", fresh / "vm"], check=True)
        with contextlib.suppress(OSError):  # another worker was faster
            if _machines().exists():
                _machines().rename(fresh / "old")
            (fresh / "vm").rename(_machines())
    finally:
        remove_tree(fresh)


@contextlib.asynccontextmanager
async def local_provider(tmp_path: Path, settings: Settings | None = None) -> AsyncIterator[LocalProvider]:
    """Yield a started LocalProvider; at the end destroy its boxes, its zygote and its folders.

    Boxes start from golden ``"base"`` (no agent in it). Works as root and as an ordinary user.
    """
    place = LocalPlace(tmp_path, settings)
    try:
        async with place.open() as provider:
            yield provider
    finally:
        await place.end()
