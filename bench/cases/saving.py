"""Saved boxes of the local provider: snapshot, fork, clones; beside cp -a, podman and the freezer alone."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from pathlib import Path

from bench.rows import Row, command_ms, ms_of_async, p50, p99
from thopter.kit.channel import BoxLink
from thopter.model.sockets import BoxSpec
from thopter.providers.local.provider import LocalProvider
from thopter.testing.local import GOLDEN, local_provider

_FILES = "cd /root; mkdir many; cd many; for i in $(seq 5000); do echo $i > $i; done"
_BIG = "dd if=/dev/urandom of=/root/big bs=1M count=1024 2>/dev/null"
_FORKS = 20
_CLONES = 100


def measure() -> list[Row]:
    """All rows of this case."""
    with tempfile.TemporaryDirectory(prefix="thopter-bench-", ignore_cleanup_errors=True) as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[Row]:
    async with local_provider(folder) as provider:
        await provider.ensure(BoxSpec(key="bench-a", name="bench-a", golden=GOLDEN))
        await _in(provider, "bench-a", _FILES)
        pool = folder / "state/pool"
        return [*await _forks(provider, pool), *await _clones(provider, pool), *await _rest(provider)]


async def _in(provider: LocalProvider, key: str, script: str) -> None:
    reader, writer = await provider.channel(key)
    async with BoxLink.connect(reader, writer) as link:
        await link.exec(["sh", "-c", script], timeout=300)


async def _fork(provider: LocalProvider, name: str) -> None:
    await provider.snapshot("bench-a", f"snap-{name}", {})
    await provider.ensure(BoxSpec(key=f"bench-{name}", name=f"bench-{name}", snapshot=f"snap-{name}"))


async def _forks(provider: LocalProvider, pool: Path) -> list[Row]:
    names = iter(range(1000))
    one = await ms_of_async(lambda: _fork(provider, f"f{next(names)}"), 20, 2)
    began = time.perf_counter()
    await provider.snapshot("bench-a", "snap-many", {})
    specs = [BoxSpec(key=f"bench-m{i}", name=f"bench-m{i}", snapshot="snap-many") for i in range(_FORKS)]
    await asyncio.gather(*(provider.ensure(spec) for spec in specs))
    many = (time.perf_counter() - began) * 1000
    copy = command_ms(["cp", "-a", "--reflink=auto", str(pool / "bench-a"), str(pool.parent / "copy")], 1)
    shutil.rmtree(pool.parent / "copy", ignore_errors=True)
    podman = command_ms(["podman", "run", "--rm", "--network", "none", "--rootfs", "/", "true"], 3)
    common = {"anchor": "cp -a of the same upper", "anchor_value": copy, "unit": "ms"}
    note = f"podman run alone: {podman:.0f}" if podman else "podman is not here"
    return [
        Row(name="fork of a running box, 5,000 files", value=p50(one), p99=p99(one), n=len(one), note=note,
            budget="≤ 15 ms p50", **common),
        Row(name=f"fork ×{_FORKS} at once", value=many, n=1, **common),
    ]  # fmt: skip


async def _clones(provider: LocalProvider, pool: Path) -> list[Row]:
    os.sync()
    before = shutil.disk_usage(pool).used
    names = [f"bench-c{i}" for i in range(_CLONES)]
    took = []
    for name in names:
        began = time.perf_counter()
        await provider.ensure(BoxSpec(key=name, name=name, snapshot="snap-many"))
        took.append((time.perf_counter() - began) * 1000)
    os.sync()
    used = (shutil.disk_usage(pool).used - before) / 1024 / _CLONES
    return [
        Row(
            name="box from a snapshot until boxd answers",
            value=p50(took),
            p99=p99(took),
            unit="ms",
            n=_CLONES,
        ),
        Row(name=f"disk of each of {_CLONES} clones", value=used, unit="kB", n=_CLONES),
    ]


async def _rest(provider: LocalProvider) -> list[Row]:
    async def freeze_and_thaw() -> None:
        await provider.freeze("bench-a")
        await provider.thaw("bench-a")

    frozen = await ms_of_async(freeze_and_thaw, 30)
    await _in(provider, "bench-a", _BIG)
    began = time.perf_counter()
    await provider.snapshot("bench-a", "snap-big", {})
    big = (time.perf_counter() - began) * 1000
    spec = BoxSpec(key="bench-a", name="bench-a", golden=GOLDEN)

    async def stop_and_revive() -> None:
        await provider.stop(spec.key)
        await provider.revive(spec)

    again = await ms_of_async(stop_and_revive, 5, 0)
    freezer = {"anchor": "freeze and thaw alone", "anchor_value": p50(frozen), "unit": "ms"}
    return [
        Row(name="snapshot of a running box, 1 GiB just written", value=big, n=1, **freezer),
        Row(name="stop, then revive until boxd answers", value=p50(again), n=len(again), **freezer),
    ]
