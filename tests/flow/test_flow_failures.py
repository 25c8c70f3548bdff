"""Flows that fail or are called off: errors, undo, cancellation, divergence."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from flow_support import N, Trace, TripArgs, engine, nothing, until, use, value

from thopter.flow import host
from thopter.flow.engine import FlowContext, FlowEngine
from thopter.model.errors import (
    Cancelled,
    Conflict,
    NotAllowed,
    Throttled,
    TimedOut,
    from_dict,
)


def test_a_flow_that_fails_undoes_what_it_did_last_first(tmp_path: Path) -> None:
    effects, told = Trace(tmp_path / "effects.log"), Trace(tmp_path / "told.log")

    async def body(flows: FlowEngine) -> None:
        args = TripArgs(name="n", log=str(effects.path), fail="three")
        view = await flows.wait(await flows.submit("trip", args), 60)
        assert view.status == "failed"
        assert [(s.name, s.status) for s in view.steps] == [
            ("one", "undone"),
            ("two", "undone"),
            ("three", "failed"),
        ]
        assert view.steps[2].error == view.error
        assert view.error == {
            "code": "refused", "message": "three is refused", "hint": "ask again", "data": {"step": "three"},
        }  # fmt: skip

    use(tmp_path, body, trace=told)
    assert effects.lines() == ["do one", "do two", "do three", "undo two n", "undo one n"]
    assert told.lines() == [
        "started one", "done one", "started two", "done two", "started three", "failed three",
        "started two", "undone two", "started one", "undone one", "told failed",
    ]  # fmt: skip


def test_an_error_comes_back_as_its_own_class_with_everything_it_said(tmp_path: Path) -> None:
    caught: list[Exception] = []

    async def fails(ctx: FlowContext, args: N) -> None:
        async def refuse() -> None:
            raise Throttled("slower", hint="wait", retry_after=2.5, odd={1: b"\xff"}, lone="\ud800")

        try:
            await ctx.step("first", refuse)
        except Throttled as e:
            caught.append(e)
        raise NotAllowed("never", hint="ask", who="me")

    async def body(flows: FlowEngine) -> None:
        view = await flows.wait(await flows.submit("fails", N()), 60)
        error = from_dict(view.error or {})
        assert isinstance(error, NotAllowed)
        assert (error.message, error.hint, error.data) == ("never", "ask", {"who": "me"})

    use(tmp_path, body, fails)
    assert isinstance(caught[0], Throttled) and caught[0].data["retry_after"] == 2.5
    assert caught[0].hint == "wait" and caught[0].data["lone"] == "?"


def test_a_step_whose_failure_is_caught_does_not_fail_the_flow(tmp_path: Path) -> None:
    undone: list[str] = []

    async def careful(ctx: FlowContext, args: N) -> dict[str, str]:
        async def undo(value: Any) -> None:
            undone.append(str(value))

        async def fail() -> None:
            raise TimedOut("too slow")

        await ctx.step("good", lambda: value("g"), undo=undo)
        try:
            await ctx.step("bad", fail, undo=undo)
        except TimedOut:
            return {"way": await ctx.step("instead", lambda: value("round"))}
        return {}

    async def body(flows: FlowEngine) -> None:
        view = await flows.wait(await flows.submit("careful", N()), 60)
        assert (view.status, view.result) == ("done", {"way": "round"})
        assert [s.status for s in view.steps] == ["done", "failed", "done"]

    use(tmp_path, body, careful)
    assert undone == []


def test_a_defect_in_a_step_or_a_flow_ends_as_a_failed_flow_with_undo(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    undone: list[int] = []

    async def broken(ctx: FlowContext, args: N) -> Any:
        async def undo(_value: Any) -> None:
            undone.append(args.n)

        async def divide() -> float:
            return args.n / 0

        await ctx.step("good", nothing, undo=undo)
        if args.n == 1:
            await ctx.step("divide", divide)
        if args.n == 2:
            raise KeyError("x")
        if args.n == 3:
            await ctx.step("no json", lambda: value(object()), undo=undo)
        if args.n == 4:
            return ["no", "object"]
        if args.n == 5:
            await ctx.step("outer", lambda: ctx.step("inner", nothing))
        return None

    async def body(flows: FlowEngine) -> list[str]:
        ids = [await flows.submit("broken", N(n)) for n in range(1, 6)]
        views = [await flows.wait(f, 60) for f in ids]
        assert {v.status for v in views} == {"failed"}
        return [(v.error or {})["message"] for v in views]

    said = use(tmp_path, body, broken)
    assert "ZeroDivisionError" in said[0] and "KeyError" in said[1] and "can't be recorded" in said[2]
    assert "returned no object" in said[3] and "one step at a time" in said[4]
    assert sorted(undone) == [1, 2, 3, 3, 4, 5]  # 3 twice: its step may have done something
    assert "ZeroDivisionError" in caplog.text


def test_an_undo_is_tried_again_and_one_that_never_works_is_reported_not_skipped(tmp_path: Path) -> None:
    calls: list[str] = []

    async def stubborn(ctx: FlowContext, args: N) -> None:
        async def undo_a(_v: Any) -> None:
            calls.append("a")

        async def undo_b(_v: Any) -> None:
            calls.append("b")
            raise Conflict("b is held", by="somebody")

        async def undo_c(_v: Any) -> None:
            calls.append("c")
            if calls.count("c") < 3:
                raise OSError("not yet")

        for name, undo in (("a", undo_a), ("b", undo_b), ("c", undo_c)):
            await ctx.step(name, nothing, undo=undo)
        raise TimedOut("late")

    async def body(flows: FlowEngine) -> None:
        flow = await flows.submit("stubborn", N())
        for view in (await flows.wait(flow, 60), await flows.status(flow)):
            assert (view.status, (view.error or {})["code"]) == ("failed", "timed_out")
            [problem] = view.result["problems"]
            assert problem["step"] == "b" and problem["error"]["message"] == "b is held"
            assert [(s.name, s.status) for s in view.steps] == [
                ("a", "undone"),
                ("b", "failed"),
                ("c", "undone"),
            ]

    use(tmp_path, body, stubborn)
    assert calls == ["c", "c", "c", "b", "b", "b", "a"]


def test_partial_work_is_undone_when_the_step_itself_asks_for_it(tmp_path: Path) -> None:
    undone: list[Any] = []

    async def partial(ctx: FlowContext, args: N) -> None:
        async def undo(value: Any) -> None:
            undone.append(value)

        async def fail() -> None:
            raise TimedOut("half done")

        await ctx.step("whole", lambda: value("w"), undo=undo)
        await ctx.step("half", fail, undo=undo, undo_partial=True)

    async def body(flows: FlowEngine) -> None:
        view = await flows.wait(await flows.submit("partial", N()), 60)
        assert [(s.name, s.status) for s in view.steps] == [("whole", "undone"), ("half", "undone")]

    use(tmp_path, body, partial)
    assert undone == [None, "w"]


def test_a_cancelled_flow_stops_in_the_middle_of_its_step_and_undoes_that_too(tmp_path: Path) -> None:
    undone: list[Any] = []
    asleep = asyncio.Event()

    async def sleeper(ctx: FlowContext, args: N) -> None:
        async def undo(value: Any) -> None:
            undone.append(value)

        async def sleep() -> None:
            asleep.set()
            await asyncio.sleep(600)

        await ctx.step("before", lambda: value("b"), undo=undo)
        await ctx.step("sleep", sleep, undo=undo)

    async def body(flows: FlowEngine) -> None:
        flow = await flows.submit("sleeper", N())
        await asleep.wait()
        assert (await flows.cancel(flow)).status == "running"
        view = await flows.wait(flow, 60)
        assert isinstance(from_dict(view.error or {}), Cancelled)
        assert [(s.name, s.status) for s in view.steps] == [("before", "undone"), ("sleep", "undone")]
        assert (await flows.cancel(flow)).status == "failed"

    use(tmp_path, body, sleeper)
    assert undone == [None, "b"]


def test_a_cancellation_survives_a_restart(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "effects.log")
    args = TripArgs(name="n", log=str(trace.path), hold="two")

    async def first(flows: FlowEngine) -> None:
        await flows.submit("trip", args, flow_id="flow_1")
        await until(lambda: "do two" in trace.lines())

    async def second() -> None:
        flows = engine(tmp_path)
        await flows.start()
        await flows.cancel("flow_1")
        await flows.stop()

    async def third(flows: FlowEngine) -> None:
        assert (await flows.wait("flow_1", 60)).error == {
            "code": "cancelled", "message": "it was called off", "hint": "", "data": {},
        }  # fmt: skip

    use(tmp_path, first)
    asyncio.run(second())
    use(tmp_path, third)
    assert trace.lines() == ["do one", "do two", "undo one n"]


def test_code_with_other_steps_than_the_record_is_noticed_and_not_run(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "effects.log")
    args = TripArgs(name="n", log=str(trace.path), hold="two")

    async def first(flows: FlowEngine) -> None:
        await flows.submit("trip", args, flow_id="flow_1")
        await until(lambda: "do two" in trace.lines())

    async def second() -> None:
        async def newer(ctx: FlowContext, args: TripArgs) -> None:
            await ctx.step("zero", lambda: value(trace.add(ctx.flow_id, "do zero")))

        flows = FlowEngine(tmp_path / "flows.db")
        flows.register("trip", newer)
        await flows.start()
        await flows.recover()
        view = await flows.wait("flow_1", 60)
        assert (view.status, (view.error or {})["code"]) == ("failed", "flow_diverged")
        await flows.stop()
        again = FlowEngine(tmp_path / "flows.db")
        await again.start()
        assert await again.recover() == []
        assert (await again.status("flow_1")).error == view.error
        await again.stop()

    use(tmp_path, first)
    asyncio.run(second())
    assert trace.lines() == ["do one", "do two"]


def test_a_flow_that_never_gets_to_its_end_is_given_up_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_LIVES", 2)
    trace = Trace(tmp_path / "effects.log")
    args = TripArgs(name="n", log=str(trace.path), hold="two")

    async def life(n: int) -> bool:
        flows = engine(tmp_path)
        await flows.start()
        await flows.recover()
        await flows.submit("trip", args, flow_id="flow_1")
        given_up = False

        async def look() -> None:
            nonlocal given_up
            while trace.count()["do two"] < n and not given_up:
                given_up = (await flows.status("flow_1")).status == "failed"
                await asyncio.sleep(0.05)

        async with asyncio.timeout(60):
            await look()
        if given_up:
            view = await flows.wait("flow_1", 5)
            assert "given up" in (view.error or {})["message"] and await flows.pending() == {}
        await flows.stop()
        return given_up

    ends = [asyncio.run(life(n)) for n in range(1, 5)]
    assert ends.index(True) in (2, 3), "given up too early or never"
    assert trace.count()["do one"] == 1 and trace.count()["end"] == 0
