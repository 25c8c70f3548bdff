"""A real local provider in folders of its own, for tests: everything it made is gone afterwards."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from thopter.kit.paths import Paths
from thopter.kit.settings import Settings
from thopter.providers.local.provider import LocalProvider

GOLDEN = "base"  # the golden without parts that every local provider makes by itself


class LocalPlace:
    """Folders in which providers can be opened, one after the other or at once, as hubs would.

    State is under ``folder``; sockets are in a new short folder, as socket paths are cut at 108
    bytes. End it with :meth:`end`.
    """

    golden = GOLDEN

    def __init__(self, folder: Path, settings: Settings | None = None) -> None:
        self._short = Path(tempfile.mkdtemp(prefix="thopter-t-", dir="/tmp"))
        self.paths = Paths(folder / "state", self._short / "r", folder / "config")
        self.settings = settings

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[LocalProvider]:
        """A new, started provider; closing it leaves its boxes alone."""
        provider = LocalProvider(self.paths, self.settings)
        await provider.start()
        try:
            yield provider
        finally:
            await provider.close()

    async def end(self) -> None:
        """Destroy every box, the zygote, mounts, cgroups and the state folder."""
        await LocalProvider(self.paths, self.settings).dismantle()
        shutil.rmtree(self._short)
        shutil.rmtree(self.paths.state, ignore_errors=True)


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
