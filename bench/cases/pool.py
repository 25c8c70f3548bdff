"""The warm pool: from ``thopter run`` until the agent has its prompt, in a warm box and in a fresh one."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from bench.cases.hub import _end, _flow, house
from bench.rows import Row, p50, p99
from thopter.kit.paths import Paths
from thopter.mesh.client import HubClient, ensure_hub
from thopter.mesh.pool import clear, pools, set_pool
from thopter.model import api
from thopter.model.api.pool import PoolRequest
from thopter.testing.demo_repo import create_demo_repo

_RUNS = 5


def measure() -> list[Row]:
    """All rows of this case: warm and fresh in turn, so that the machine is the same for both."""
    with house() as paths, tempfile.TemporaryDirectory(prefix="thopter-bench-") as folder:
        paths.state.mkdir(parents=True, mode=0o700)
        repo = Path(folder) / "report"
        create_demo_repo(repo)
        try:
            return _measure(paths, str(repo))
        finally:
            _end(paths)


def _measure(paths: Paths, repo: str) -> list[Row]:
    hub = ensure_hub(paths)
    _flow(hub, hub.create(api.CreateRequest(name="first", repo=repo)))  # builds the golden
    warm, fresh, accepted, filled = [], [], [], []
    for i in range(_RUNS):
        began = time.perf_counter()
        set_pool(hub, PoolRequest(snapshot="golden", want=1, repo=repo))
        _until_ready(hub)
        filled.append((time.perf_counter() - began) * 1000)
        ms, took = _taken(hub, api.RunRequest(prompt="script:none", repo=repo, fresh=True))
        clear(hub, "")
        assert took.warm
        warm.append(ms)
        accepted.append(took)
        ms, took = _taken(hub, api.RunRequest(prompt="script:none", repo=repo, name=f"fresh-{i}", fresh=True))
        assert not took.warm
        fresh.append(ms)
        for name in (accepted[-1].name, took.name):
            _flow(hub, hub.destroy(name))
    return [
        Row(name="thopter run until the agent has its prompt, from the warm pool", value=p50(warm),
            p99=p99(warm), unit="ms", n=len(warm), anchor="the same in a fresh box", anchor_value=p50(fresh)),
        Row(name="thopter run until the agent has its prompt, fresh box", value=p50(fresh), p99=p99(fresh),
            unit="ms", n=len(fresh)),
        Row(name="one warm box until it can be taken", value=p50(filled), p99=p99(filled), unit="ms",
            n=len(filled)),
    ]  # fmt: skip


def _taken(hub: HubClient, request: api.RunRequest) -> tuple[float, api.Accepted]:
    """Milliseconds from the request until there is evidence that the agent took its prompt."""
    began = time.perf_counter()
    accepted = hub.run(request)
    _flow(hub, accepted)  # its last step ends with that evidence
    return (time.perf_counter() - began) * 1000, accepted


def _until_ready(hub: HubClient) -> None:
    end = time.monotonic() + 120
    while not any(p.ready for p in pools(hub)):
        if time.monotonic() > end:
            raise RuntimeError(f"the pool is not filled: {pools(hub)}")
        time.sleep(0.05)
