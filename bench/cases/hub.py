"""The hub and the command line with a hundred thopters; a warm run with the real agent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from bench.rows import Row, command_ms, ms_of, p50, p99
from thopter.kit.paths import Paths, find_paths
from thopter.mesh.client import HubClient, ensure_hub
from thopter.model import api
from thopter.model.ids import BoxId, RunId
from thopter.model.nouns import Box, BoxState, Run, RunState
from thopter.model.sockets import BoxSpec
from thopter.providers.local.provider import LocalProvider
from thopter.store.store import Store
from thopter.testing.local import GOLDEN
from thopter.testing.scripted_model import load_scenario, running

_MANY = 100
_RUNS = 7
_CLI = [sys.executable, "-m", "thopter.cli.main"]


def measure() -> list[Row]:
    """All rows of this case."""
    with house() as paths:
        try:
            return [*_many(paths), *_run(paths), *_import()]
        finally:
            _end(paths)


@contextlib.contextmanager
def house() -> Iterator[Paths]:
    """A state folder of its own, the environment pointing there, a scripted model."""
    with (
        tempfile.TemporaryDirectory(prefix="thopter-bench-", ignore_cleanup_errors=True) as folder,
        running(load_scenario("demo")) as model,
    ):
        before = dict(os.environ)
        os.environ |= {
            "THOPTER_STATE_DIR": folder + "/state",
            "THOPTER_CONFIG_DIR": folder + "/config",
            "THOPTER_AGENTS_CLAUDE_BASE_URL": model.url,
        }
        try:
            yield find_paths()
        finally:
            os.environ.clear()
            os.environ.update(before)


def _many(paths: Paths) -> list[Row]:
    paths.state.mkdir(parents=True, mode=0o700)
    asyncio.run(_populate(paths))
    began = time.perf_counter()
    hub = ensure_hub(paths)
    serve = (time.perf_counter() - began) * 1000
    while not hub.hub().ready:
        time.sleep(0.01)
    ready = (time.perf_counter() - began) * 1000
    status = ms_of(lambda: subprocess.run([*_CLI, "status"], check=True, capture_output=True), 15, 2)
    listed = ms_of(hub.thopters, 200, 10)
    python = command_ms([sys.executable, "-c", "pass"], 15)
    execs = ms_of(lambda: _exec(hub), 100, 10)
    return [
        Row(name=f"hub start with {_MANY} boxes until it serves", value=serve, unit="ms", n=1,
            budget="≤ 2 s"),
        Row(name=f"hub start with {_MANY} boxes until all is taken up", value=ready, unit="ms", n=1,
            budget="≤ 10 s"),
        Row(name=f"thopter status, {_MANY} thopters, hub up", value=p50(status), p99=p99(status), unit="ms",
            n=len(status), budget="≤ 120 ms", anchor="python -c pass", anchor_value=python),
        Row(name=f"GET /v1/thopters, {_MANY} thopters", value=p50(listed), p99=p99(listed), unit="ms",
            n=len(listed)),
        Row(name="exec through the hub's API", value=p50(execs), p99=p99(execs), unit="ms", n=len(execs),
            budget="≤ 4 ms p50"),
    ]  # fmt: skip


async def _populate(paths: Paths) -> None:
    provider = LocalProvider(paths)
    await provider.start()
    store = await Store.open(paths.state / "hub.db")
    now = time.time_ns() // 1_000_000
    for i in range(_MANY):
        key = BoxId(f"box_bench{i:03}")
        handle = await provider.ensure(
            BoxSpec(key=key, name=f"bench-{i:03}", golden=GOLDEN, ports=(8401, 8402))
        )
        box = Box(id=key, name=f"bench-{i:03}", provider="local", state=BoxState.READY, created_ms=now + i,
                  changed_ms=now, isolation=handle.isolation)  # fmt: skip
        run = Run(id=RunId(f"run_bench{i:03}"), box=key, agent="claude", prompt="add a flag and test it",
                  state=RunState.STARTING, created_ms=now, changed_ms=now, cwd="/work")  # fmt: skip
        await store.write(lambda tx, box=box, run=run: (tx.boxes.insert(box), tx.runs.insert(run)))
    await store.close()


def _exec(hub: HubClient) -> None:
    with hub.exec("bench-000", api.ExecRequest(argv=["/bin/true"], stdin=False)) as session:
        for _stream, _data in session:
            pass


def _run(paths: Paths) -> list[Row]:
    """Warm runs: from the request until the agent's process is there, by the flow's own record."""
    hub = ensure_hub(paths)
    _flow(hub, hub.create(api.CreateRequest(name="warm")))  # builds the golden
    total, agent = [], []
    for i in range(_RUNS):
        began = time.perf_counter()
        view = _flow(hub, hub.run(api.RunRequest(prompt="script:none", name=f"run-{i}")), until="launch")
        total.append((time.perf_counter() - began) * 1000)
        agent.append(next(s.ms for s in view.steps if s.name == "launch"))
        _flow(hub, api.Accepted(flow=view.id, name=view.name))
        hub.destroy(f"run-{i}")
    goldens = list((paths.state / "goldens").glob("*/root/opt/thopter/claude/bin/claude"))
    version = command_ms([str(goldens[0]), "--version"], 7) if goldens else None
    return [
        Row(name="thopter run until the agent's process is there, warm", value=p50(total), p99=p99(total),
            unit="ms", n=_RUNS, budget="≤ 1 s p50, ≤ 3 s p99",
            anchor="claude --version", anchor_value=version,
            note=f"of that {p50(agent):.0f} ms in the launch step, which waits 300 ms to see it stay"),
    ]  # fmt: skip


def _flow(hub: HubClient, accepted: api.Accepted, until: str = "") -> api.FlowView:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        view = hub.flow(accepted.flow)
        if view.status == "failed":
            raise RuntimeError(f"{view.name}: {view.error}")
        if view.status == "done" or any(s.name == until and s.status == "done" for s in view.steps):
            return view
        time.sleep(0.005)
    raise RuntimeError(f"flow {accepted.flow} does not end")


def _import() -> list[Row]:
    """CPU time of importing the command line's entry, beside Python's own start."""
    ours = [_cpu_ms("import thopter.cli.main") for _ in range(11)]
    bare = [_cpu_ms("pass") for _ in range(11)]
    return [
        Row(name="CPU to import thopter.cli", value=p50(ours) - p50(bare), unit="ms", n=11, budget="≤ 60 ms",
            anchor="python -c pass", anchor_value=p50(bare)),
    ]  # fmt: skip


def _cpu_ms(code: str) -> float:
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True)
    after = os.times()
    return (
        after.children_user + after.children_system - before.children_user - before.children_system
    ) * 1000


def _end(paths: Paths) -> None:
    hub = ensure_hub(paths)
    with contextlib.suppress(Exception):
        for view in hub.thopters():
            hub.destroy(view.name)
    pid = hub.hub().pid
    deadline = time.monotonic() + 60
    while hub.thopters() and time.monotonic() < deadline:
        time.sleep(0.1)
    hub.stop()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    asyncio.run(LocalProvider(paths).dismantle())
