"""Killed at any point and started again, every flow ends exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flow_support import STEPS, Trace, TripArgs, engine, until

from thopter.model.errors import StorageFull, TimedOut

PROCESS = Path(__file__).with_name("flow_process.py")
AROUND = ("before", "after", "recorded")


def _life(folder: Path, *more: str) -> tuple[int, list[dict[str, Any]], str]:
    """One process: its exit code, the earlier flows as it found them ended, what it said last."""
    argv = [sys.executable, str(PROCESS), str(folder), *more]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=110)
    lines = done.stdout.splitlines()
    assert lines, done.stderr
    return done.returncode, json.loads(lines[0]), lines[-1]


def _chain(folder: Path, points: list[str], fail: str) -> dict[str, dict[str, Any]]:
    """A life for each point: it ends the flow of the life before, and is killed in its own."""
    ended: dict[str, dict[str, Any]] = {}
    for n, point in enumerate([*points, ""]):
        code, earlier, said = _life(folder, *((point, f"flow_{n}", fail) if point else ()))
        assert [v["id"] for v in earlier] == ([f"flow_{n - 1}"] if n else [])
        assert (code, said) == (-signal.SIGKILL, "accepted") or not point, f"{point} was never reached"
        ended |= {v["id"]: v for v in earlier}
    assert _life(folder)[1] == [], "a flow that has ended was taken up again"
    return ended


@pytest.mark.slow
def test_a_flow_killed_at_any_step_is_done_once_after_the_restart(tmp_path: Path) -> None:
    points = [f"flow.{s}.{w}" for s in STEPS for w in AROUND] + [
        "flow.outcome.before",
        "flow.outcome.recorded",
    ]
    ended = _chain(tmp_path, points, "")
    effects, told = Trace(tmp_path / "effects.log"), Trace(tmp_path / "told.log")
    for n, point in enumerate(points):
        view = ended[f"flow_{n}"]
        assert (view["status"], view["error"]) == ("done", None), point
        assert view["result"] == {"name": f"flow_{n}", "made": list(STEPS)}
        assert [(s["name"], s["status"], s["title"]) for s in view["steps"]] == [
            (s, "done", f"step {s}") for s in STEPS
        ]
        done = effects.count(f"flow_{n}")
        # Only the step that was under way, and had begun, is run again.
        twice = point.split(".")[1] if point.endswith(".after") else ""
        assert done == Counter({f"do {s}": 1 + (s == twice) for s in STEPS} | {"end": done["end"]}), point
        assert done["end"] == (2 if "outcome" in point else 1)
        said = told.count(f"flow_{n}")
        assert all(said[f"started {s}"] == said[f"done {s}"] == 1 for s in STEPS if s != twice), point
        if twice:
            assert said[f"started {twice}"] == 2 and said[f"done {twice}"] == 1
        assert said["told done"] == 1


@pytest.mark.slow
def test_a_failing_flow_killed_at_any_step_of_its_undoing_is_undone_once(tmp_path: Path) -> None:
    points = [f"flow.undo {s}.{w}" for s in ("two", "one") for w in AROUND]
    points += ["flow.three.after", "flow.three.recorded", "flow.outcome.before", "flow.outcome.recorded"]
    ended = _chain(tmp_path, points, "three")
    effects = Trace(tmp_path / "effects.log")
    for n, point in enumerate(points):
        view = ended[f"flow_{n}"]
        assert view["status"] == "failed" and view["result"] == {}, point
        assert view["error"] == {
            "code": "refused", "message": "three is refused", "hint": "ask again", "data": {"step": "three"},
        }  # fmt: skip
        assert [(s["name"], s["status"]) for s in view["steps"]] == [
            ("one", "undone"), ("two", "undone"), ("three", "failed"),
        ]  # fmt: skip
        want = [f"do {s}" for s in STEPS] + [f"undo two flow_{n}", f"undo one flow_{n}"]
        _, step, when = point.split(".")
        if when == "after":
            again = f"do {step}" if not step.startswith("undo") else f"{step} flow_{n}"
            want.insert(want.index(again), again)
        assert effects.lines(f"flow_{n}") == want, point


def test_a_hundred_flows_under_way_go_on_after_a_kill(tmp_path: Path) -> None:
    log = tmp_path / "effects.log"
    script = f"""
import asyncio, sys
from pathlib import Path
from flow_support import TripArgs, engine, until

from thopter.model.errors import StorageFull, TimedOut
async def main():
    flows = engine(Path({str(tmp_path)!r}))
    await flows.start()
    await flows.recover()
    for n in range(100):
        hold = ("one", "two", "three")[n % 3]
        args = TripArgs(name=f"n{{n}}", log={str(log)!r}, hold=hold)
        await flows.submit("trip", args, flow_id=f"flow_{{n}}")
    print("accepted", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    first = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=PROCESS.parent)
    try:
        assert first.stdout is not None and first.stdout.readline() == b"accepted\n"
        deadline = time.monotonic() + 60
        while sum(line == "do two" for line in Trace(log).lines()) < 30 and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        first.kill()
        first.wait(30)
        assert first.stdout is not None
        first.stdout.close()
    before = Trace(log).count()
    assert before["do one"] >= 30 and before["end"] == 0
    (tmp_path / "go").touch()

    async def second() -> None:
        flows = engine(tmp_path)
        await flows.start()
        assert {f: a["name"] for f, a in (await flows.pending()).items()} == {
            f"flow_{n}": f"n{n}" for n in range(100)
        }
        assert Trace(log).count() == before, "flows ran before recover() allowed it"
        assert len(await flows.recover()) == 100
        for n in range(100):
            view = await flows.wait(f"flow_{n}", 90)
            assert (view.status, view.name) == ("done", f"n{n}")
        assert await flows.pending() == {}
        await flows.stop()

    asyncio.run(second())
    for n in range(100):
        done = Trace(log).count(f"flow_{n}")
        held = STEPS[n % 3]
        assert done["end"] == 1
        assert all(done[f"do {s}"] == 1 for s in STEPS if STEPS.index(s) > n % 3), done
        assert all(done[f"do {s}"] in (1, 2) for s in STEPS if STEPS.index(s) <= n % 3), (held, done)


def test_stopping_an_engine_in_the_middle_is_like_a_crash_but_quiet(tmp_path: Path) -> None:
    log = tmp_path / "effects.log"

    async def first() -> None:
        flows = engine(tmp_path)
        await flows.start()
        await flows.recover()
        await flows.submit("trip", TripArgs(name="n", log=str(log), hold="two"), flow_id="flow_1")
        await until(lambda: "do two" in Trace(log).lines())
        await flows.stop()

    async def second() -> None:
        (tmp_path / "go").touch()
        flows = engine(tmp_path)
        await flows.start()
        assert await flows.recover() == ["flow_1"]
        assert (await flows.wait("flow_1", 60)).status == "done"
        await flows.stop()

    asyncio.run(first())
    asyncio.run(second())
    assert Trace(log).lines() == ["do one", "do two", "do two", "do three", "end"]


@contextlib.contextmanager
def _small_disk(at: Path, size: str) -> Iterator[Path]:
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
def test_flows_on_a_full_disk_wait_and_go_on_by_themselves_when_there_is_room(tmp_path: Path) -> None:
    log = tmp_path / "effects.log"

    async def go(disk: Path) -> None:
        flows = engine(disk)
        await flows.start()
        await flows.recover()
        held = [
            await flows.submit("trip", TripArgs(name="n", log=str(log), hold="two", fail=fail))
            for fail in ("", "", "three")
        ]
        await until(lambda: Trace(log).count()["do two"] == 3)
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        with pytest.raises(StorageFull):
            for _ in range(1000):
                await flows.submit("trip", TripArgs(name="x" * 50_000, log=str(log), hold="two"))
        before = Trace(log).count()
        (tmp_path / "go").touch()  # the held step ends now, and can't be recorded
        with pytest.raises(TimedOut):
            await flows.wait(held[0], 3)
        assert Trace(log).count()["do three"] == 0 and Trace(log).count() >= before
        (disk / "filler").unlink()
        ended = [await flows.wait(f, 90) for f in held]
        assert [v.status for v in ended] == ["done", "done", "failed"]
        await flows.stop()
        for flow, fail in zip(held, ("", "", "three"), strict=True):
            done = Trace(log).count(flow)
            assert (done["do one"], done["do three"], done["undo one n"]) == (1, 1, 1 if fail else 0)

    with _small_disk(tmp_path / "disk", "4m") as disk:
        asyncio.run(go(disk))
