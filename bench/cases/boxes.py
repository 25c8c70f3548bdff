"""Boxes of the local provider: create, exec, freeze, memory; beside the same mechanisms without us."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

from msgspec import structs

from bench.anchors import BWRAP, bwrap_memory_mb, family, freezer_ms, pss_mb
from bench.podman import Podman, podman
from bench.rows import Row, command_ms, ms_of, ms_of_async, p50, p99
from thopter.kit.channel import BoxLink
from thopter.model.sockets import BoxSpec
from thopter.providers.local.provider import LocalProvider
from thopter.testing.local import GOLDEN, local_provider

_CREATES = 100
_EXECS = 200


def measure() -> list[Row]:
    """All rows of this case."""
    with tempfile.TemporaryDirectory(prefix="thopter-bench-", ignore_cleanup_errors=True) as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[Row]:
    async with local_provider(folder) as provider:
        rows = await _create(provider)
        reader, writer = await provider.channel("bench-0")
        async with BoxLink.connect(reader, writer) as link:
            rows += await _exec(link)
            rows += await _freeze(provider)
        rows += await _memory(provider)
        with podman(folder / "podman") as peer:
            rows.insert(2, _beside_podman(rows[0], peer))
        return rows


async def _create(provider: LocalProvider) -> list[Row]:
    samples, destroyed = [], []
    for i in range(_CREATES + 5):
        began = time.perf_counter()
        await provider.ensure(BoxSpec(key=f"bench-{i}", name=f"bench-{i}", golden=GOLDEN))
        reader, writer = await provider.channel(f"bench-{i}")
        async with BoxLink.connect(reader, writer):
            took = (time.perf_counter() - began) * 1000
        if i >= 5:
            samples.append(took)
    for i in range(50, _CREATES + 5):
        began = time.perf_counter()
        await provider.destroy(f"bench-{i}")
        destroyed.append((time.perf_counter() - began) * 1000)
    floor = command_ms(["unshare", "-mpiunCf", "true"], 30)
    bwrap = command_ms([*BWRAP, "true"], 30)
    common = {"value": p50(samples), "p99": p99(samples), "unit": "ms", "n": len(samples)}
    return [
        Row(name="box from golden until boxd answers", budget="≤ 10 ms p50", anchor="unshare -mpiunCf true",
            anchor_value=floor, **common),
        Row(name="the same", anchor="bwrap --unshare-all true", anchor_value=bwrap, **common),
        Row(name="first ten against last ten creates of a hundred", value=p50(samples[-10:]), unit="ms", n=10,
            budget="flat", anchor="first ten", anchor_value=p50(samples[:10])),
        Row(name="destroy", value=p50(destroyed), p99=p99(destroyed), unit="ms", n=len(destroyed)),
    ]  # fmt: skip


def _beside_podman(row: Row, peer: Podman | str) -> Row:
    if isinstance(peer, str):
        return structs.replace(row, name="the same", anchor=peer, anchor_value=None)
    took = ms_of(lambda: peer.run("/bin/true"), 7)
    return structs.replace(row, name="the same", anchor="podman run --rm true", anchor_value=p50(took))


async def _exec(link: BoxLink) -> list[Row]:
    async def once() -> None:
        done = await link.exec(["/bin/true"])
        assert done.exit == 0

    def spawned() -> None:
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)

    ours = await ms_of_async(once, _EXECS, 20)
    floor = p50(ms_of(spawned, _EXECS, 20))
    first = (await link.procs())[0]["pid"]
    del first  # pids are the box's own; nsenter needs the host's
    ping = await ms_of_async(link.ping, _EXECS, 20)
    return [
        Row(name="exec round trip, boxd alone", value=p50(ours), p99=p99(ours), unit="ms", n=len(ours),
            budget="≤ 1.5 ms p50", anchor="posix_spawn on the host", anchor_value=floor),
        Row(name="ping of boxd", value=p50(ping), p99=p99(ping), unit="ms", n=len(ping)),
    ]  # fmt: skip


async def _freeze(provider: LocalProvider) -> list[Row]:
    frozen, thawed = [], []
    for _ in range(50):
        began = time.perf_counter()
        await provider.freeze("bench-1")
        middle = time.perf_counter()
        await provider.thaw("bench-1")
        frozen.append((middle - began) * 1000)
        thawed.append((time.perf_counter() - middle) * 1000)
    bare = freezer_ms()
    beside = [p50(one) for one in bare] if bare else [None, None]
    anchor = "cgroup freezer alone" if bare else "no cgroup freezer is here"
    return [
        Row(name="freeze", value=p50(frozen), p99=p99(frozen), unit="ms", n=50, budget="≤ 1 ms",
            anchor=anchor, anchor_value=beside[0]),
        Row(name="thaw", value=p50(thawed), p99=p99(thawed), unit="ms", n=50, budget="≤ 1 ms",
            anchor=anchor, anchor_value=beside[1]),
    ]  # fmt: skip


async def _memory(provider: LocalProvider) -> list[Row]:
    """What an idle box with a tmux takes (Pss of all its processes), and how often it wakes."""
    count = 20
    boxes = []
    for i in range(count):
        key = f"idle-{i}"
        handle = await provider.ensure(BoxSpec(key=key, name=key, golden=GOLDEN))
        reader, writer = await provider.channel(key)
        async with BoxLink.connect(reader, writer) as link:
            await link.tmux_start("agent", ["/bin/sleep", "1000000"], None, "/", 200, 50)
        boxes.append(family(int(handle.memory["pid"])))
    await asyncio.sleep(1)
    each = [pss_mb(pids) for pids in boxes]
    bare = bwrap_memory_mb()
    woken = _switches(boxes[0])
    await asyncio.sleep(10)
    woken = _switches(boxes[0]) - woken
    return [
        Row(name="memory of an idle box (init, boxd, tmux, sleep), Pss", value=p50(each), p99=p99(each),
            unit="MB", n=count, budget="≤ 5 MB", anchor="bubblewrap with a sleep", anchor_value=bare,
            note=f"{woken} wake-ups in 10 s over its {len(boxes[0])} processes"),
    ]  # fmt: skip


def _switches(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if "voluntary_ctxt_switches" in line and not line.startswith("non"):
                total += int(line.split()[1])
    return total
