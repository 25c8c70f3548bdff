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

GOLDEN = "base"  # the golden without parts that every local provider has after start()


def short_paths(tmp_path: Path) -> tuple[Paths, Path]:
    """Paths whose state is under ``tmp_path`` and whose sockets are in a new short folder (the
    second value; remove it), because socket paths are cut at 108 bytes."""
    runtime = Path(tempfile.mkdtemp(prefix="thopter-t-", dir="/tmp"))
    return Paths(tmp_path / "state", runtime / "r", tmp_path / "config"), runtime


@contextlib.asynccontextmanager
async def local_provider(tmp_path: Path, settings: Settings | None = None) -> AsyncIterator[LocalProvider]:
    """Yield a started LocalProvider; at the end destroy its boxes, its zygote and its folders.

    Boxes start from golden ``"base"`` (no agent in it). Works as root and as an ordinary user.
    """
    paths, runtime = short_paths(tmp_path)
    provider = LocalProvider(paths, settings)
    try:
        await provider.start()
        yield provider
    finally:
        await provider.dismantle()
        shutil.rmtree(runtime)
