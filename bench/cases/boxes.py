"""Boxes of the local provider: create, exec, freeze, memory; beside the same mechanisms without us."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

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
    bwrap = command_ms(
        ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "true"], 30
    )
    podman = command_ms(["podman", "run", "--rm", "--network", "none", "--rootfs", "/"], 5)
    common = {"value": p50(samples), "p99": p99(samples), "unit": "ms", "n": len(samples)}
    rows = [
        Row(name="box from golden until boxd answers", budget="≤ 10 ms p50", anchor="unshare -mpiunCf true",
            anchor_value=floor, **common),
        Row(name="the same", anchor="bwrap --unshare-all true", anchor_value=bwrap, **common),
        Row(name="first ten against last ten creates of a hundred", value=p50(samples[-10:]), unit="ms", n=10,
            budget="flat", anchor="first ten", anchor_value=p50(samples[:10])),
        Row(name="destroy", value=p50(destroyed), p99=p99(destroyed), unit="ms", n=len(destroyed)),
    ]  # fmt: skip
    if podman is not None:
        rows.append(Row(name="the same", anchor="podman run", anchor_value=podman, **common))
    return rows


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
    return [
        Row(name="freeze", value=p50(frozen), p99=p99(frozen), unit="ms", n=50, budget="≤ 1 ms"),
        Row(name="thaw", value=p50(thawed), p99=p99(thawed), unit="ms", n=50, budget="≤ 1 ms"),
    ]


def _pss_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


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
        boxes.append(_family(int(handle.memory["pid"])))
    await asyncio.sleep(1)
    each = [sum(_pss_kb(p) for p in pids) / 1024 for pids in boxes]
    woken = _switches(boxes[0])
    await asyncio.sleep(10)
    woken = _switches(boxes[0]) - woken
    return [
        Row(name="memory of an idle box (init, boxd, tmux, sleep), Pss", value=p50(each), p99=p99(each),
            unit="MB", n=count, budget="≤ 5 MB",
            note=f"{woken} wake-ups in 10 s over its {len(boxes[0])} processes"),
    ]  # fmt: skip


def _family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _switches(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if "voluntary_ctxt_switches" in line and not line.startswith("non"):
                total += int(line.split()[1])
    return total
