"""Five hundred boxes and a hub over them: create time, memory, start, status, and a hook until it is shown.

``THOPTER_BENCH_BOXES`` changes the number.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from bench.anchors import available_mb, disk_kb, family, pss_mb
from bench.cases.hub import house
from bench.rows import Row, command_ms, ms_of, p50, p99
from thopter.kit.channel import BoxLink
from thopter.kit.paths import Paths
from thopter.mesh.client import HubClient, ensure_hub
from thopter.model import api
from thopter.model.ids import BoxId, RunId
from thopter.model.nouns import Box, BoxState, Run, RunState
from thopter.model.sockets import BoxSpec
from thopter.providers.local.provider import LocalProvider
from thopter.store.store import Store
from thopter.testing.local import GOLDEN

_COUNT = int(os.environ.get("THOPTER_BENCH_BOXES", "500"))
_WORKING = min(100, _COUNT - 1)
_HOOK_PORT, _TOKEN = 8400, "bench"
_TURNS = 60
_PATIENCE_S = 60.0

# In a box: hooks as an agent's program sends them. argv: run, session, "work" (a tool call every two
# seconds) or how many turns to begin and end, each printed with its time just before.
_AGENT = f"""
import http.client, json, sys, time
run, session, what = sys.argv[1:]
def post(event, **more):
    c = http.client.HTTPConnection("127.0.0.1", {_HOOK_PORT})
    body = json.dumps({{"session_id": session, "hook_event_name": event, **more}})
    c.request("POST", f"/hook/{{event}}?run={{run}}", body, {{"Authorization": "Bearer {_TOKEN}"}})
    assert c.getresponse().status < 300
if what == "work":
    post("UserPromptSubmit", prompt="work")
    for i in range(150):
        post("PostToolUse", tool_name="Bash", tool_input={{"command": "true"}}, tool_response={{}})
        time.sleep(2)
else:
    for i in range(int(what)):
        for event in ("UserPromptSubmit", "Stop"):
            print(time.time_ns(), flush=True)
            post(event, prompt=f"turn {{i}}")
            time.sleep(0.1)
"""


def measure() -> Iterator[Row]:
    """All rows of this case."""
    with house() as paths:
        try:
            paths.state.mkdir(parents=True, mode=0o700)
            alone_ms, alone_mb = _alone(paths)
            yield from asyncio.run(_populate(paths))
            yield from _hub(paths, alone_ms, alone_mb)
            yield _shown(paths)
        finally:
            _stop(paths)
            asyncio.run(LocalProvider(paths).dismantle())


def _alone(paths: Paths) -> tuple[float, float]:
    """A hub without any box: until it serves, and its memory."""
    ensure_hub(paths)
    _stop(paths)
    began = time.perf_counter()
    hub = ensure_hub(paths)
    took = (time.perf_counter() - began) * 1000
    _until_ready(hub)
    memory = pss_mb([hub.hub().pid])
    _stop(paths)
    return took, memory


async def _populate(paths: Paths) -> list[Row]:
    provider = LocalProvider(paths)
    await provider.start()
    store = await Store.open(paths.state / "hub.db")
    took = []
    await provider.ensure(BoxSpec(key="box_warm", name="warm", golden=GOLDEN))  # makes golden and zygote
    await provider.destroy("box_warm")
    memory, disk = available_mb(), disk_kb(paths.state)
    wall = time.perf_counter()
    for i in range(_COUNT):
        spec = _spec(i)
        began = time.perf_counter()
        handle = await provider.ensure(spec)
        took.append((time.perf_counter() - began) * 1000)
        await _record(store, i, handle.isolation)
        if i % 100 == 99:
            print(f"{i + 1} boxes", file=sys.stderr)
    wall = time.perf_counter() - wall
    memory = (memory - available_mb()) / _COUNT
    pids = family(int(handle.memory["pid"]))
    for i in range(_WORKING):
        reader, writer = await provider.channel(f"box_crowd{i:04}")
        async with BoxLink.connect(reader, writer) as link:
            argv = ["python3", "-c", _AGENT, f"run_crowd{i:04}", _session(i), "work"]
            await link.exec(["sh", "-c", 'setsid "$@" >/dev/null 2>&1 &', "sh", *argv])
    await store.close()
    await provider.close()
    floor = await asyncio.to_thread(command_ms, ["unshare", "-mpiunCf", "true"], 30)
    ten = max(1, min(10, _COUNT // 10))
    return [
        Row(name=f"create of the 1st box of {_COUNT}", value=took[0], unit="ms", n=1),
        Row(name=f"create of the last box of {_COUNT} (median of the last {ten})", value=p50(took[-ten:]),
            unit="ms", n=ten, budget="flat", anchor=f"median of the first {ten}",
            anchor_value=p50(took[:ten])),
        Row(name="boxes created and recorded, one after another", value=_COUNT / wall, unit="boxes/s",
            n=_COUNT, budget="≥ 50/s", anchor="unshare -mpiunCf true",
            anchor_value=1000 / floor if floor else None),
        Row(name=f"memory that each of {_COUNT} idle boxes takes from the machine (boxd, no tmux)",
            value=memory, unit="MB", n=_COUNT, budget="≤ 5 MB, 1,000 in 24 GiB", anchor="Pss of the last one",
            anchor_value=pss_mb(pids)),
        Row(name="disk of each", value=(disk_kb(paths.state) - disk) / _COUNT, unit="kB", n=_COUNT,
            note="with all else that was written meanwhile"),
    ]  # fmt: skip


def _session(i: int) -> str:
    return f"00000000-0000-4000-8000-{i:012}"


def _spec(i: int) -> BoxSpec:
    boxd = {"hook_token": _TOKEN, "hook_port": _HOOK_PORT}
    key = f"box_crowd{i:04}"
    return BoxSpec(key=key, name=f"crowd-{i:04}", golden=GOLDEN, ports=(8401, 8402), native={"boxd": boxd})


async def _record(store: Store, i: int, isolation: object) -> None:
    now = time.time_ns() // 1_000_000
    key = BoxId(f"box_crowd{i:04}")
    box = Box(id=key, name=f"crowd-{i:04}", provider="local", state=BoxState.READY, created_ms=now,
              changed_ms=now, isolation=isolation)  # type: ignore[arg-type]  # fmt: skip
    run = Run(id=RunId(f"run_crowd{i:04}"), box=key, agent="claude", prompt="add a flag and test it",
              state=RunState.STARTING, created_ms=now, changed_ms=now, cwd="/work",
              session=_session(i))  # fmt: skip
    await store.write(lambda tx: (tx.boxes.insert(box), tx.runs.insert(run)))


def _hub(paths: Paths, alone_ms: float, alone_mb: float) -> Iterator[Row]:
    _until_ready(ensure_hub(paths))  # the first one starts the gateways, which outlive it
    _stop(paths)
    began = time.perf_counter()
    hub = ensure_hub(paths)
    serve = (time.perf_counter() - began) * 1000
    _until_ready(hub)
    ready = (time.perf_counter() - began) * 1000
    views = hub.thopters()
    known = sum(v.state != "unknown" and v.box_state == "ready" for v in views)
    beside = {"anchor": "without a box", "anchor_value": alone_ms, "unit": "ms", "n": 1}
    name = f"hub restart with {_COUNT} boxes"
    yield Row(name=f"{name} until it serves", value=serve, budget="≤ 2 s", **beside)
    yield Row(name=f"{name} until all is taken up", value=ready, budget="≤ 10 s", **beside,
              note=f"{known} of {len(views)} boxes with a state that is known")  # fmt: skip
    cli = [sys.executable, "-m", "thopter.cli.main", "status"]
    status = ms_of(lambda: subprocess.run(cli, check=True, capture_output=True), 11, 1)
    python = command_ms([sys.executable, "-c", "pass"], 11)
    yield Row(name=f"thopter status, {_COUNT} thopters, {_WORKING} at work", value=p50(status),
              p99=p99(status), unit="ms", n=len(status), anchor="python -c pass",
              anchor_value=python)  # fmt: skip
    yield Row(name=f"memory of a hub with {_COUNT} boxes", value=pss_mb([hub.hub().pid]), unit="MB", n=1,
              anchor="without a box", anchor_value=alone_mb)  # fmt: skip


def _shown(paths: Paths) -> Row:
    """From the moment before a hook is sent in a box until the state it means is in the event stream."""
    hub, watcher = ensure_hub(paths), HubClient(paths.hub_socket)
    i = _COUNT - 1
    box, arrived, began = f"box_crowd{i:04}", [], sys.maxsize
    want = _TURNS * 2

    def watch() -> None:
        end = time.monotonic() + _PATIENCE_S
        for event in watcher.events(after=0, box=box, kinds="run.state", tick=1.0):
            if event is not None:
                arrived.append(time.time_ns())
            if sum(at > began for at in arrived) >= want or time.monotonic() > end:
                return

    listening = threading.Thread(target=watch, daemon=True)
    listening.start()
    time.sleep(1)  # what is told of its past is told
    began = time.time_ns()
    argv = ["python3", "-c", _AGENT, f"run_crowd{i:04}", _session(i), str(_TURNS)]
    said = b""
    with hub.exec(f"crowd-{i:04}", api.ExecRequest(argv=argv, stdin=False)) as session:
        for _stream, data in session:
            said += data
    listening.join(_PATIENCE_S)
    arrived = [at for at in arrived if at > began]
    sent = [int(line) for line in said.split()]
    if len(sent) != want or len(arrived) != want:
        raise RuntimeError(f"of {want} turns' hooks {len(sent)} were sent and {len(arrived)} shown")
    took = [(a - s) / 1e6 for s, a in zip(sent, arrived, strict=True)]
    return Row(
        name=f"hook fired until its state is in the event stream, {_WORKING} boxes at work", value=p50(took),
        p99=p99(took), unit="ms", n=want, budget="≤ 100 ms p99",
    )  # fmt: skip


def _until_ready(hub: HubClient) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not hub.hub().ready:
        if time.monotonic() > end:
            raise RuntimeError(f"the hub is not ready after {_PATIENCE_S:.0f} s")
        time.sleep(0.01)


def _stop(paths: Paths) -> None:
    try:
        hub = ensure_hub(paths, start=False)
        pid = hub.hub().pid
        hub.stop()
    except Exception as e:  # noqa: BLE001 - there is none, or it went meanwhile
        print(f"no hub to stop: {e}", file=sys.stderr)
        return
    end = time.monotonic() + _PATIENCE_S
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
        time.sleep(0.02)
