"""Building a golden with agents in it: npm outside, the packages' own code only inside boxes."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

from thopter.boxd.config import DEFAULT_PATH
from thopter.kit.channel import BoxLink
from thopter.kit.threads import finish
from thopter.model.errors import NotFound, ProviderError
from thopter.model.sockets import GoldenPart, Places, Stream
from thopter.providers.local import curated, flatten, goldens, npm
from thopter.providers.local.maker import Maker, now_ms
from thopter.providers.local.trees import remove_tree

_SCRIPTS_S = 600.0
_CHECK_S = 120.0


class Bench(Protocol):
    """What the workshop needs of the provider: boxes from an unfinished golden."""

    async def open_bench(self, key: str, golden: str) -> tuple[Stream, Places]:
        """Make box ``key`` from the golden in folder ``golden``; return a channel to it, and where
        things are in it."""

    async def close_bench(self, key: str) -> None:
        """End and remove it."""


async def build(
    maker: Maker, bench: Bench, name: str, want: Sequence[GoldenPart]
) -> AsyncGenerator[str, None]:
    """Build golden ``name`` with exactly ``want``; yields progress. The present one stays in force
    until the new one is complete and checked; on an error or cancellation nothing is left."""
    parts = goldens.check_parts(want)
    must_have_tmux()
    await finish(maker.warm)  # the boxes of the build need what every box needs
    building = await finish(maker.shelf.new)
    try:
        yield f"golden {name}: a root from this machine's own /usr"
        root = building / "root"
        await finish(curated.make_root, root)
        for part in parts:
            yield f"{part.name}: npm installs {part.npm} {part.version}"
            prefix = root / "opt/thopter" / part.name
            prefix.mkdir(mode=0o755)
            await npm.install(part, prefix)
        with_scripts = [p for p in parts if flatten.needs_scripts(root / "opt/thopter" / p.name)]
        if with_scripts:
            yield "install scripts run in a box without network: " + ", ".join(p.name for p in with_scripts)
            await _run_scripts(maker, bench, building, with_scripts)
        async for line in _check(bench, building, parts):
            yield line
        digest = await finish(flatten.content_digest, root)
        found = goldens.Golden(layout=goldens.LAYOUT, parts=parts, created_ms=now_ms())
        await finish(maker.shelf.keep, building, name, digest, found)
        yield f"golden {name} is ready ({digest})"
    finally:
        if building.exists():
            await finish(remove_tree, building)


def must_have_tmux() -> None:
    """Raise ProviderError where boxes, which have this machine's /usr, would have no tmux."""
    if shutil.which("tmux", path=DEFAULT_PATH) is None:
        raise ProviderError("there is no tmux on this machine", hint="agents run in it (apt install tmux)")


@contextlib.asynccontextmanager
async def _box(bench: Bench, golden: str) -> AsyncIterator[tuple[str, BoxLink, str]]:
    key = "build-" + secrets.token_hex(6)
    try:
        (reader, writer), places = await bench.open_bench(key, golden)
        async with BoxLink.connect(reader, writer, timeout=30.0) as link:
            yield key, link, places.opt
    finally:
        await bench.close_bench(key)


async def _run_scripts(maker: Maker, bench: Bench, building: Path, parts: Sequence[GoldenPart]) -> None:
    async with _box(bench, building.name) as (key, link, opt):
        for part in parts:
            prefix = f"{opt}/{part.name}"
            argv = ["npm", "rebuild", "--global", "--prefix", prefix, "--no-audit", "--no-fund",
                    "--no-update-notifier", "--loglevel=error", "--foreground-scripts"]  # fmt: skip
            await _must(link, part, argv, _SCRIPTS_S, "its install scripts failed")
        folder = await finish(maker.end_processes, key)
        for part in parts:
            upper = folder / "root/upper/opt/thopter" / part.name
            place = building / "root/opt/thopter" / part.name
            if upper.is_dir() and not upper.samefile(place):  # without isolation it was written itself
                await finish(flatten.apply_upper, upper, place)


async def _check(bench: Bench, building: Path, parts: Sequence[GoldenPart]) -> AsyncIterator[str]:
    if not any(part.check for part in parts):
        return
    async with _box(bench, building.name) as (_, link, opt):
        for part in parts:
            if part.check:
                # Given relative to the part's own folder, as the socket says.
                argv = [os.path.join(opt, part.name, part.check[0]), *part.check[1:]]
                said = await _must(link, part, argv, _CHECK_S, "it does not work")
                yield f"{part.name}: checked ({said.splitlines()[0][:100] if said else 'ok'})"


async def _must(link: BoxLink, part: GoldenPart, argv: list[str], seconds: float, otherwise: str) -> str:
    try:
        result = await link.exec(argv, timeout=seconds)
    except NotFound:
        raise ProviderError(
            f"{part.name}: {argv[0]} is not in the box",
            hint=f"boxes see only programs in /usr: install {argv[0]} there",
        ) from None
    said = result.stdout.decode("utf-8", "replace").strip()
    if result.exit != 0:
        more = result.stderr.decode("utf-8", "replace").strip()
        lines = [line for line in f"{said}\n{more}".splitlines() if line.strip()]
        how = f"exit code {result.exit}" if result.exit is not None else f"signal {result.signal}"
        raise ProviderError(f"{part.name}: {otherwise} ({how}): " + " / ".join(lines[-6:]))
    return said
