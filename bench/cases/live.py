"""Live fork of the local provider: a program with memory to copy; beside CRIU alone, without a box."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from bench.rows import Row, p50, p99
from thopter.kit.channel import BoxLink
from thopter.kit.settings import Settings, Value
from thopter.model.errors import ThopterError
from thopter.model.sockets import BoxSpec
from thopter.providers.local import criu
from thopter.providers.local.provider import LocalProvider
from thopter.testing.local import GOLDEN, local_provider

_RUNS = 5
_MB = 100
_PROGRAM = f"import os, time; x = os.urandom({_MB} << 20); open('/tmp/up', 'w').close(); time.sleep(9999)"
_START = (
    f'setsid python3 -c "{_PROGRAM}" </dev/null >/dev/null 2>&1 & until [ -e /tmp/up ]; do sleep 0.1; done'
)


def measure() -> list[Row]:
    """All rows of this case; none where there is no CRIU that can be used."""
    wish = os.environ.get("THOPTER_LOCAL_CRIU", "auto")
    with tempfile.TemporaryDirectory(prefix="thopter-bench-", ignore_cleanup_errors=True) as folder:
        try:
            found = criu.find(wish, Path(folder) / "criu")
        except ThopterError as e:
            print(f"no live forks here: {e.message} ({e.hint})")
            return []
        return asyncio.run(_measure(Path(folder), wish, found))


async def _measure(folder: Path, wish: str, found: criu.Criu) -> list[Row]:
    anchor = [_alone(found, folder / f"alone-{i}") for i in range(_RUNS)]
    async with local_provider(folder, Settings({"local.criu": Value(wish, "bench")})) as provider:
        await provider.ensure(BoxSpec(key="bench-a", name="bench-a", golden=GOLDEN))
        root = await _start(provider)
        saves: list[float] = []
        starts: list[float] = []
        for i in range(_RUNS + 1):
            saved, started = await _fork(provider, root, i)
            if i:
                saves.append(saved)
                starts.append(started)
    both = [a + b for a, b in zip(saves, starts, strict=True)]
    note = f"saving {p50(saves):.0f}, box and start {p50(starts):.0f}; unsynced, {_MB} MB of memory"
    return [
        Row(
            name=f"live fork of a program with {_MB} MB", value=p50(both), p99=p99(both), unit="ms",
            n=len(both), anchor="criu dump + restore alone", anchor_value=p50(anchor), note=note,
        )
    ]  # fmt: skip


async def _start(provider: LocalProvider) -> int:
    """The program's number in the box."""
    reader, writer = await provider.channel("bench-a")
    async with BoxLink.connect(reader, writer) as link:
        await link.exec(["sh", "-c", _START], timeout=60)
        return int((await link.exec(["pgrep", "-x", "-o", "python3"], timeout=20)).stdout)


async def _fork(provider: LocalProvider, root: int, number: int) -> tuple[float, float]:
    snap, key = f"snap-l{number}", f"bench-l{number}"
    began = time.perf_counter()
    await provider.snapshot_live("bench-a", snap, {}, root)
    between = time.perf_counter()
    await provider.ensure(BoxSpec(key=key, name=key, snapshot=snap))
    await provider.start_live(key, snap)
    end = time.perf_counter()
    await provider.destroy(key)
    await provider.drop_snapshot(snap)
    return (between - began) * 1000, (end - between) * 1000


def _alone(found: criu.Criu, images: Path) -> float:
    """Milliseconds that CRIU takes to save the same program on this machine and to start it again."""
    images.mkdir()
    up = images / "up"
    program = _PROGRAM.replace("/tmp/up", str(up))
    child = subprocess.Popen(
        ["setsid", "python3", "-S", "-c", program], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip
    try:
        while not up.exists():
            time.sleep(0.02)
        libs = ":".join(map(str, found.libs))
        base = [str(found.loader), "--inhibit-cache", "--library-path", libs, str(found.program)]
        more = ["--no-default-config", "-D", str(images), "-v1"]
        env: Mapping[str, str] = {"LC_ALL": "C"}
        began = time.perf_counter()
        subprocess.run([*base, "dump", "-t", str(child.pid), *more], check=True, capture_output=True, env=env)
        child.wait()
        subprocess.run([*base, "restore", "-d", *more], check=True, capture_output=True, env=env)
        took = (time.perf_counter() - began) * 1000
        os.kill(child.pid, signal.SIGKILL)
        return took
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        shutil.rmtree(images, ignore_errors=True)
