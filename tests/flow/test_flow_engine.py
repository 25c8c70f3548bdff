"""Flows in one life: arguments and results, progress, many at once, the record."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from flow_support import STEPS, N, Trace, TripArgs, engine, nothing, until, use, value
from msgspec import Struct

from thopter.flow.engine import FlowContext, FlowEngine
from thopter.model.errors import (
    BadInput,
    Conflict,
    NotFound,
    StorageError,
    TimedOut,
)


class Made(Struct, frozen=True):
    """What a step makes."""

    id: str
    parts: tuple[int, ...]


def test_arguments_and_results_come_back_as_they_were_given(tmp_path: Path) -> None:
    got: list[Any] = []

    async def carry(ctx: FlowContext, args: N) -> Made:
        async def make() -> Made:
            return Made(id="é\n\x00", parts=(1, 2))

        plain = await ctx.step("plain", make)
        typed = await ctx.step("typed", make, returns=Made)
        empty = await ctx.step("nothing", nothing)
        got.extend([args, plain, typed, empty])
        return typed

    async def body(flows: FlowEngine) -> None:
        flow = await flows.submit("carry", N(7, ("a", "b"), "amber"))
        assert flow.startswith("flow_")
        view = await flows.wait(flow, 60)
        assert (view.status, view.kind, view.name) == ("done", "carry", "amber")
        assert view.result == {"id": "é\n\x00", "parts": [1, 2]}

    use(tmp_path, body, carry)
    assert got == [
        N(7, ("a", "b"), "amber"),
        {"id": "é\n\x00", "parts": [1, 2]},
        Made("é\n\x00", (1, 2)),
        None,
    ]


def test_what_is_wrong_with_a_submission_is_said_before_anything_is_recorded(tmp_path: Path) -> None:
    async def body(flows: FlowEngine) -> None:
        with pytest.raises(NotFound, match="'sail'"):
            await flows.submit("sail", N())
        with pytest.raises(BadInput):
            await flows.submit("trip", {"name": 5})
        with pytest.raises(BadInput):
            flows.register("trip", nothing)
        with pytest.raises(BadInput, match="args"):
            flows.register("other", nothing)
        with pytest.raises(NotFound):
            await flows.status("flow_nope")
        with pytest.raises(NotFound):
            await flows.wait("flow_nope", 5)
        with pytest.raises(NotFound):
            await flows.cancel("flow_nope")
        assert await flows.pending() == {} and not await flows.knows("flow_nope")

    use(tmp_path, body)


def test_one_id_is_one_flow_however_often_and_at_once_it_is_submitted(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "effects.log")
    args = TripArgs(name="n", log=str(trace.path))

    async def body(flows: FlowEngine) -> None:
        ids = await asyncio.gather(*(flows.submit("trip", args, flow_id="flow_1") for _ in range(20)))
        assert set(ids) == {"flow_1"} and await flows.knows("flow_1")
        await flows.wait("flow_1", 60)
        assert await flows.submit("trip", args, flow_id="flow_1") == "flow_1"
        assert (await flows.wait("flow_1", 60)).status == "done"
        with pytest.raises(Conflict):
            await flows.submit("other", N(), flow_id="flow_1")

    async def other(ctx: FlowContext, args: N) -> None:
        raise AssertionError

    use(tmp_path, body, other)
    use(tmp_path, body, other)  # and in a later life
    assert trace.count() == {"do one": 1, "do two": 1, "do three": 1, "end": 1}


def test_fifty_flows_at_once_all_on_the_callers_own_loop(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "effects.log")
    where: set[int] = set()
    together, most = 0, 0

    async def meet(ctx: FlowContext, args: N) -> dict[str, int]:
        async def be_there() -> int:
            nonlocal together, most
            where.add(threading.get_ident())
            together += 1
            most = max(most, together)
            await until(lambda: most == 50)
            together -= 1
            return args.n

        return {"n": await ctx.step("be there", be_there)}

    async def body(flows: FlowEngine) -> None:
        ids = await asyncio.gather(*(flows.submit("meet", N(n)) for n in range(50)))
        views = await asyncio.gather(*(flows.wait(f, 90) for f in ids))
        assert [v.result["n"] for v in views] == list(range(50))
        args = TripArgs(name="n", log=str(trace.path))
        ids = await asyncio.gather(*(flows.submit("trip", args) for _ in range(50)))
        assert {v.status for v in await asyncio.gather(*(flows.wait(f, 90) for f in ids))} == {"done"}

    use(tmp_path, body, meet)
    assert where == {threading.get_ident()}
    assert trace.count() == {"do one": 50, "do two": 50, "do three": 50, "end": 50}


def test_words_of_a_step_are_shown_thinned_out_but_the_last_ones_are_not_lost_to_the_next_step(
    tmp_path: Path,
) -> None:
    said: list[tuple[str, str, str]] = []

    async def talk(ctx: FlowContext, args: N) -> None:
        async def chatter() -> None:
            for n in range(2000):
                ctx.say(f"line {n}")
                if n % 500 == 0:
                    await asyncio.sleep(0.01)

        await ctx.step("first", chatter)
        await ctx.step("second", nothing)
        ctx.say("outside of a step: nobody hears it")

    async def whole() -> None:
        async def on_step(_flow: str, step: Any) -> None:
            said.append((step.name, step.status, step.title))

        flows = FlowEngine(tmp_path / "flows.db", on_step=on_step)
        flows.register("talk", talk)
        await flows.start()
        await flows.recover()
        view = await flows.wait(await flows.submit("talk", N()), 60)
        assert [(s.name, s.status) for s in view.steps] == [("first", "done"), ("second", "done")]
        await flows.stop()

    asyncio.run(whole())
    words = [title for _, status, title in said if status == "progress"]
    assert words[0] == "line 0" and 2 <= len(words) < 100
    kinds = [(name, status) for name, status, _ in said if status != "progress"]
    assert kinds == [("first", "started"), ("first", "done"), ("second", "started"), ("second", "done")]
    assert all(name == "first" for name, status, _ in said if status == "progress")


def test_progress_that_can_not_be_told_stopsnothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def whole() -> None:
        async def deaf(*_: Any) -> None:
            raise StorageError("no room")

        flows = FlowEngine(tmp_path / "flows.db", on_step=deaf, on_done=deaf)

        async def quiet(ctx: FlowContext, args: N) -> None:
            await ctx.step("one", nothing)

        flows.register("quiet", quiet)
        await flows.start()
        await flows.recover()
        assert (await flows.wait(await flows.submit("quiet", N()), 60)).status == "done"
        await flows.stop()

    asyncio.run(whole())
    assert [r.levelname for r in caplog.records if "could not be told" in r.message] == ["ERROR"] * 3


def test_a_step_may_submit_another_flow_and_wait_for_it(tmp_path: Path) -> None:
    async def outer(ctx: FlowContext, args: N) -> dict[str, Any]:
        async def inner_flow() -> dict[str, Any]:
            flow = await engines[0].submit("inner", N(4), flow_id=ctx.flow_id + "-inner")
            return (await engines[0].wait(flow, 60)).result

        return await ctx.step("inner", inner_flow)  # type: ignore[no-any-return]

    async def inner(ctx: FlowContext, args: N) -> dict[str, Any]:
        return {"n": await ctx.step("n", lambda: value(args.n))}

    engines: list[FlowEngine] = []

    async def body(flows: FlowEngine) -> None:
        engines.append(flows)
        view = await flows.wait(await flows.submit("outer", N(), flow_id="flow_o"), 60)
        assert view.result == {"n": 4} and [s.name for s in view.steps] == ["inner"]

    use(tmp_path, body, outer, inner)


def test_the_record_of_an_ended_flow_tells_the_same_story_in_a_later_life(tmp_path: Path) -> None:
    log = str(tmp_path / "effects.log")

    async def first(flows: FlowEngine) -> list[Any]:
        for n, fail in enumerate(("", "three")):
            await flows.submit("trip", TripArgs(name="n", log=log, fail=fail), flow_id=f"flow_{n}")
        return [await flows.wait(f"flow_{n}", 60) for n in range(2)]

    async def second(flows: FlowEngine) -> list[Any]:
        return [await flows.status(f"flow_{n}") for n in range(2)]

    before, after = use(tmp_path, first), use(tmp_path, second)
    assert after == before
    assert [v.status for v in before] == ["done", "failed"]


def test_waiting_is_bounded_and_the_flow_goes_on(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "effects.log")

    async def body(flows: FlowEngine) -> None:
        flow = await flows.submit("trip", TripArgs(name="n", log=str(trace.path), hold="one"))
        with pytest.raises(TimedOut, match="still running"):
            await flows.wait(flow, 0.2)
        assert (await flows.status(flow)).steps[0].status == "started"
        (tmp_path / "go").touch()
        assert (await flows.wait(flow, 60)).status == "done"

    use(tmp_path, body)


def test_ended_flows_can_be_forgotten_and_running_ones_can_not(tmp_path: Path) -> None:
    log = str(tmp_path / "effects.log")

    async def body(flows: FlowEngine) -> None:
        await flows.submit("trip", TripArgs(name="n", log=log), flow_id="flow_1")
        await flows.wait("flow_1", 60)
        await flows.submit("trip", TripArgs(name="n", log=log, hold="one"), flow_id="flow_2")
        assert await flows.prune(0) == 0
        for _ in range(200):  # its very last record may still be on its way
            if await flows.prune(1 << 42):
                break
            await asyncio.sleep(0.05)
        assert not await flows.knows("flow_1") and await flows.knows("flow_2")

    use(tmp_path, body)


def test_one_engine_in_one_process_and_a_stopped_one_says_so(tmp_path: Path) -> None:
    async def body(flows: FlowEngine) -> None:
        with pytest.raises(Conflict):
            await engine(tmp_path / "other").start()

    (tmp_path / "other").mkdir()
    use(tmp_path, body)

    async def stopped() -> None:
        flows = engine(tmp_path)
        for _ in range(2):
            with pytest.raises(StorageError, match="not running"):
                await flows.submit("trip", TripArgs(name="n", log=""))
            await flows.start()
            await flows.stop()
            await flows.stop()

    asyncio.run(stopped())


def test_a_record_that_can_not_be_opened_is_a_clear_error_and_leavesnothing_behind(tmp_path: Path) -> None:
    (tmp_path / "flows.db").write_bytes(b"this is no database at all, really" * 100)

    async def start() -> None:
        await engine(tmp_path).start()

    with pytest.raises(StorageError):
        asyncio.run(start())
    (tmp_path / "flows.db").unlink()
    use(tmp_path, lambda flows: flows.pending())
    assert not [t.name for t in threading.enumerate() if t.name.startswith("flows")]


def test_the_engine_beneath_talks_to_nobody_and_printsnothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DBOS__CLOUD", "DBOS_SYSTEM_DATABASE_URL", "DBOS__CONDUCTOR_URL"):
        monkeypatch.setenv(name, "true")

    def connections() -> set[str]:
        own = f"/proc/{os.getpid()}/fd"
        links = {os.readlink(f"{own}/{fd}") for fd in os.listdir(own) if os.path.islink(f"{own}/{fd}")}
        sockets = {link[8:-1] for link in links if link.startswith("socket:")}
        tables = [Path(f"/proc/net/{t}").read_text().splitlines()[1:] for t in ("tcp", "tcp6", "udp", "udp6")]
        return {row.split()[9] for table in tables for row in table} & sockets

    before = connections()  # of the test runner

    async def body(flows: FlowEngine) -> None:
        log = str(tmp_path / "effects.log")
        await flows.wait(await flows.submit("trip", TripArgs(name="n", log=log)), 60)
        assert connections() - before == set()

    use(tmp_path, body)
    out = capfd.readouterr()
    assert (out.out, out.err) == ("", "")
    assert logging.getLogger("dbos").propagate
    assert (tmp_path / "flows.db").stat().st_mode & 0o777 == 0o600


def test_steps_are_what_people_see(tmp_path: Path) -> None:
    async def body(flows: FlowEngine) -> None:
        log = str(tmp_path / "effects.log")
        view = await flows.wait(await flows.submit("trip", TripArgs(name="n", log=log)), 60)
        assert [(s.name, s.title) for s in view.steps] == [(s, f"step {s}") for s in STEPS]
        assert all(0 <= s.ms < 60_000 for s in view.steps)

    use(tmp_path, body)
