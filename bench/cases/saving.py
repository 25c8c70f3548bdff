"""Saved boxes of the local provider: snapshot, fork, clones, waking; beside podman, cp -a, the freezer."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.anchors import disk_kb, freezer_ms
from bench.podman import Podman, podman
from bench.rows import Row, ms_of_async, p50, p99
from thopter.kit.channel import BoxLink
from thopter.model.sockets import BoxSpec
from thopter.providers.local.provider import LocalProvider
from thopter.testing.local import GOLDEN, local_provider

_BIG_MB = int(os.environ.get("THOPTER_BENCH_MB", "1024"))
_FILES = "cd /root; mkdir many; cd many; for i in $(seq 5000); do echo $i > $i; done"
_BIG = f"dd if=/dev/urandom of=/root/big bs=1M count={_BIG_MB} 2>/dev/null"
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
        upper = folder / "state/pool/bench-a"
        with podman(folder / "podman") as peer:
            await asyncio.to_thread(_peer_prepared, peer)
            return [
                *await _forks(provider, upper, peer),
                *await _clones(provider, upper),
                *await _big(provider, upper, peer),
                *await _again(provider),
            ]


def _peer_prepared(peer: Podman | str) -> None:
    if isinstance(peer, Podman):
        peer.start("a")
        peer.inside("a", _FILES)


def _beside(peer: Podman | str, what: str, measured: Callable[[Podman], float]) -> dict[str, Any]:
    """The columns of podman doing ``what``, or of why it does not."""
    if isinstance(peer, str):
        return {"anchor": peer}
    try:
        return {"anchor": what, "anchor_value": measured(peer)}
    except (RuntimeError, subprocess.SubprocessError) as e:
        return {"anchor": f"{what} failed: {' '.join(str(e).split())[:80]}"}


def _ms(fn: Callable[[], object]) -> float:
    began = time.perf_counter()
    fn()
    return (time.perf_counter() - began) * 1000


def _copied(upper: Path) -> tuple[float, float]:
    """Milliseconds and kB of a plain copy of the upper, beside the pool."""
    target = upper.parent.parent / "copy"
    try:
        took = _ms(lambda: subprocess.run(["cp", "-a", "--reflink=never", upper, target], check=True))
        said = subprocess.run(["du", "-sk", target], check=True, capture_output=True, text=True).stdout
        return took, float(said.split()[0])
    finally:
        shutil.rmtree(target, ignore_errors=True)


async def _in(provider: LocalProvider, key: str, script: str) -> None:
    reader, writer = await provider.channel(key)
    async with BoxLink.connect(reader, writer) as link:
        await link.exec(["sh", "-c", script], timeout=300)


async def _fork(provider: LocalProvider, name: str) -> None:
    await provider.snapshot("bench-a", f"snap-{name}", {})
    await provider.ensure(BoxSpec(key=f"bench-{name}", name=f"bench-{name}", snapshot=f"snap-{name}"))


async def _forks(provider: LocalProvider, upper: Path, peer: Podman | str) -> list[Row]:
    names = iter(range(1000))
    one = await ms_of_async(lambda: _fork(provider, f"f{next(names)}"), 20, 2)
    began = time.perf_counter()
    await provider.snapshot("bench-a", "snap-many", {})
    specs = [BoxSpec(key=f"bench-m{i}", name=f"bench-m{i}", snapshot="snap-many") for i in range(_FORKS)]
    await asyncio.gather(*(provider.ensure(spec) for spec in specs))
    many = (time.perf_counter() - began) * 1000
    copy, _kb = await asyncio.to_thread(_copied, upper)

    def podman_forks(count: int) -> Callable[[Podman], float]:
        def forks(p: Podman) -> float:
            began = time.perf_counter()
            p.commit("a", f"bench:fork{count}")
            for i in range(count):
                p.start(f"fork{count}-{i}", f"bench:fork{count}")
            return (time.perf_counter() - began) * 1000

        return forks

    peers = [
        await asyncio.to_thread(_beside, peer, f"podman commit + run{times}", podman_forks(n))
        for n, times in ((1, ""), (_FORKS, f" ×{_FORKS}"))
    ]
    first = {
        "name": "fork of a running box, 5,000 files", "value": p50(one), "p99": p99(one), "n": len(one),
        "budget": "≤ 15 ms p50", "unit": "ms",
    }  # fmt: skip
    each = {"name": f"fork ×{_FORKS} at once", "value": many, "n": 1, "unit": "ms"}
    return [
        Row(anchor="cp -a of the same upper", anchor_value=copy, **first),
        Row(**first | {"name": "the same"}, **peers[0]),
        Row(anchor=f"{_FORKS} × cp -a of the same upper", anchor_value=copy * _FORKS, **each),
        Row(**each | {"name": "the same"}, **peers[1]),
    ]


async def _clones(provider: LocalProvider, upper: Path) -> list[Row]:
    before = disk_kb(upper)
    names = [f"bench-c{i}" for i in range(_CLONES)]
    took = []
    for name in names:
        began = time.perf_counter()
        await provider.ensure(BoxSpec(key=name, name=name, snapshot="snap-many"))
        took.append((time.perf_counter() - began) * 1000)
    used = disk_kb(upper) - before
    _took, copy = await asyncio.to_thread(_copied, upper)
    for name in names:
        await provider.destroy(name)
    return [
        Row(name="box from a snapshot until it is there", value=p50(took), p99=p99(took), unit="ms",
            n=_CLONES),
        Row(name=f"disk used by {_CLONES} clones of a box with 5,000 files", value=used / 1024, unit="MB",
            n=_CLONES, anchor=f"{_CLONES} × cp -a of the same upper",
            anchor_value=copy * _CLONES / 1024),
    ]  # fmt: skip


async def _big(provider: LocalProvider, upper: Path, peer: Podman | str) -> list[Row]:
    """A snapshot of a box that has just written a lot; the copy beside it is of the same files."""
    await _in(provider, "bench-a", _BIG)
    began = time.perf_counter()
    await provider.snapshot("bench-a", "snap-big", {})
    took = (time.perf_counter() - began) * 1000
    copy, _kb = await asyncio.to_thread(_copied, upper)

    def committed(p: Podman) -> float:
        p.inside("a", _BIG)
        return _ms(lambda: p.commit("a", "bench:big"))

    beside = await asyncio.to_thread(_beside, peer, "podman commit", committed)
    row = {"value": took, "n": 1, "unit": "ms"}
    bare = await asyncio.to_thread(freezer_ms)
    alone = p50([a + b for a, b in zip(*bare, strict=True)]) if bare else None
    name = f"snapshot of a running box, {_BIG_MB:,} MiB just written"
    return [
        Row(name=name, anchor="cp -a of the same upper", anchor_value=copy, **row),
        Row(name="the same", **row, **beside),
        Row(name="the same", anchor="freezing and thawing by the cgroup freezer alone", anchor_value=alone,
            **row),
    ]  # fmt: skip


async def _again(provider: LocalProvider) -> list[Row]:
    """Processes ended in order, and by kill -9 of the box's first one; then started on the same files."""
    spec = BoxSpec(key="bench-b", name="bench-b", golden=GOLDEN)
    handle = await provider.ensure(spec)
    fresh = await ms_of_async(lambda: _fresh(provider), 10)

    async def stop_and_revive() -> None:
        await provider.stop(spec.key)
        await provider.revive(spec)

    again = await ms_of_async(stop_and_revive, 10, 1)
    killed = []
    for _ in range(10):
        handle = await provider.get(spec.key)
        pid = int(handle.memory["pid"])
        os.kill(pid, 9)
        await asyncio.to_thread(_gone, pid)
        began = time.perf_counter()
        await provider.revive(spec)
        killed.append((time.perf_counter() - began) * 1000)
    beside = {"anchor": "a new box", "anchor_value": p50(fresh), "unit": "ms"}
    return [
        Row(name="stop, then resume on the same files", value=p50(again), p99=p99(again), n=10, **beside),
        Row(name="resume after kill -9 of the box (its agent's start is in `survive`)", value=p50(killed),
            p99=p99(killed), n=10, **beside),
    ]  # fmt: skip


async def _fresh(provider: LocalProvider) -> None:
    name = f"bench-n{time.monotonic_ns()}"
    await provider.ensure(BoxSpec(key=name, name=name, golden=GOLDEN))


def _gone(pid: int) -> None:
    end = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > end:
            raise RuntimeError(f"process {pid} does not end")
        time.sleep(0.001)
