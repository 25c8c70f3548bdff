"""Runs: the agent as a child in its terminal, its true end, once in the journal, whatever dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from boxd_support import BoxdProcess, run, until

from thopter.boxd import procfs, wire
from thopter.kit.channel import BoxLink
from thopter.model.errors import BadInput, Conflict, NotFound, ProviderError

ENV = {"PATH": "/usr/bin:/bin", "HOME": "/tmp"}


def with_link(boxd: BoxdProcess, work: Any) -> Any:
    async def go() -> Any:
        async with boxd.link() as link:
            return await work(link)

    return run(go())


async def records(link: BoxLink, kind: str = "run.") -> list[dict[str, Any]]:
    return [r async for r in link.journal() if r["kind"].startswith(kind)]


async def exited(link: BoxLink, name: str) -> dict[str, Any]:
    async with asyncio.timeout(45):
        async for record in link.journal(follow=True, kinds=["run.exited"]):
            if record["run"] == name:
                return record
    raise AssertionError("unreachable")


def test_argv_env_and_cwd_reach_the_agent_byte_for_byte(boxd: BoxdProcess) -> None:
    every = bytes(b for b in range(1, 256))
    argv = [
        b"$(touch /tmp/x) `id` \"quoted\" 'single'",
        every,
        b"",
        b"-n",
        b"a\nb\r\tc",
        b"\\",
        b"x" * 60_000,
    ]
    env = {"A b.c-d": "1", "Q": "'\n\"$x", "RAW": wire.to_text(every), **ENV}
    out = boxd.folder / "out"
    cwd = boxd.folder / "a folder's $name"
    cwd.mkdir()
    script = (
        f"cat /proc/$$/cmdline >{out}.argv; cat /proc/$$/environ >{out}.env; pwd >{out}.cwd; exec sleep 999"
    )

    async def work(link: BoxLink) -> None:
        words = [wire.to_text(a) for a in argv]
        pid = await link.run_start("r1", ["sh", "-c", script, *words], env, str(cwd))
        assert os.readlink(f"/proc/{pid}/exe").endswith("sleep")
        await until(lambda: os.path.exists(f"{out}.cwd") and os.path.getsize(f"{out}.cwd"))

    with_link(boxd, work)
    got = Path(f"{out}.argv").read_bytes().split(b"\0")[:-1]
    assert got == [b"/usr/bin/sh", b"-c", script.encode(), *argv]
    want = {wire.to_bytes(k) + b"=" + wire.to_bytes(v) for k, v in env.items()}
    seen = set(Path(f"{out}.env").read_bytes().split(b"\0")[:-1])
    assert want <= seen and seen - want == {b"THOPTER_RUN=r1", b"TERM=tmux-256color"}
    assert Path(f"{out}.cwd").read_text().strip() == str(cwd)


@pytest.mark.parametrize(
    ("script", "end"),
    [
        ("sleep 0.5; exit 0", {"exit": 0}),
        ("sleep 0.5; exit 3", {"exit": 3}),
        ("sleep 0.5; kill -KILL $$", {"signal": 9}),
        ("sleep 0.5; exit 143", {"exit": 143}),
    ],
)
def test_the_end_is_told_truly_and_a_shell_is_left(
    boxd: BoxdProcess, script: str, end: dict[str, int]
) -> None:
    async def work(link: BoxLink) -> None:
        pid = await link.run_start("r1", ["bash", "-c", script], ENV, "/tmp", settle_ms=0)
        record = await exited(link, "r1")
        got = {k: record[k] for k in ("exit", "signal") if k in record}
        if "143" in script and got != end:  # told apart only by kernels from 6.15
            assert got == {"signal": 15}
        else:
            assert got == end
        assert record["pid"] == pid
        await link.tmux_keys("agent", [{"text": "echo shell-$((6*7))"}, {"keys": ["Enter"]}])
        await until(lambda: "shell-42" in boxd.tmux("capture-pane", "-p", "-t", "agent"))
        assert [r["kind"] for r in await records(link)] == ["run.started", "run.exited"]

    with_link(boxd, work)


def test_an_agent_that_ends_at_once_is_told_with_code_and_screen(boxd: BoxdProcess) -> None:
    async def work(link: BoxLink) -> None:
        for _ in range(2):  # asking again gives the same honest answer
            with pytest.raises(ProviderError, match="exit code 5") as e:
                await link.run_start(
                    "r1", ["sh", "-c", "echo no login; exit 5"], ENV, "/tmp", settle_ms=30_000
                )
            assert e.value.data["exit"] == 5 and "no login" in e.value.data["screen"]
        assert [r["kind"] for r in await records(link)] == ["run.started", "run.exited"]

    with_link(boxd, work)


def test_starting_the_same_run_again_is_the_same_run(boxd: BoxdProcess) -> None:
    async def work(link: BoxLink) -> None:
        start = [link.run_start("r1", ["sleep", "1000"], ENV, "/tmp", settle_ms=10) for _ in range(5)]
        pids = await asyncio.gather(*start)
        assert len(set(pids)) == 1
        assert [r["kind"] for r in await records(link)] == ["run.started"]

    with_link(boxd, work)


def test_a_second_run_waits_for_the_first_to_end_and_takes_its_place(boxd: BoxdProcess) -> None:
    name = boxd.folder.name

    async def work(link: BoxLink) -> None:
        await link.run_start(name, ["sleep", "1000"], ENV, "/tmp")
        with pytest.raises(Conflict, match=name):
            await link.run_start("r2", ["sleep", "1000"], ENV, "/tmp")
        assert await link.run_stop(name) == {"signal": 15}
        pid = await link.run_start("r2", ["sleep", "1000"], ENV, "/tmp")
        assert procfs.stat(pid) is not None
        assert len(await link.tmux_list()) == 1

    with_link(boxd, work)


def test_stop_takes_everything_the_agent_started(boxd: BoxdProcess) -> None:
    script = (
        "trap '' TERM; sleep 1000 & setsid sleep 1001 & (setsid sleep 1002 &) ; while :; do sleep 0.1; done"
    )

    name = boxd.folder.name  # looked for among all processes of this machine

    async def work(link: BoxLink) -> None:
        await link.run_start(name, ["bash", "-c", script], ENV, "/tmp")
        before = procfs.with_variable(b"THOPTER_RUN=" + name.encode())
        assert len(before) >= 4
        assert await link.run_stop(name, grace_ms=200) == {"signal": 9}
        await until(
            lambda: not {p for p in procfs.with_variable(b"THOPTER_RUN=" + name.encode()) if running(p)}
        )
        assert await link.run_stop(name) == {"signal": 9}
        assert len(await link.tmux_list()) == 1

    with_link(boxd, work)


def running(pid: int) -> bool:
    found = procfs.stat(pid)
    return found is not None and found.state not in "ZX"


def test_impossible_runs_are_refused_and_leave_nothing(boxd: BoxdProcess) -> None:
    async def work(link: BoxLink) -> None:
        for name in ("", "a/b", "..", ".x", "x" * 200, "a b", 5):
            with pytest.raises(BadInput):
                await link.run_start(name, ["true"], ENV, "/tmp")  # type: ignore[arg-type]
        with pytest.raises(NotFound, match="no program nope"):
            await link.run_start("r1", ["nope"], ENV, "/tmp")
        with pytest.raises(NotFound, match="/no/folder"):
            await link.run_start("r1", ["true"], ENV, "/no/folder")
        with pytest.raises(NotFound):
            await link.run_stop("r1")
        assert await link.tmux_list() == [] and await records(link) == []

    with_link(boxd, work)


# ------------------------------------------------------------------------- boxd dies, the rest lives


def test_a_killed_boxd_comes_back_and_loses_neither_agent_nor_journal(boxd: BoxdProcess) -> None:
    async def go() -> None:
        async with boxd.link() as link:
            pid = await link.run_start("r1", ["sleep", "1000"], ENV, "/tmp")
            first = link.facts
            os.kill(boxd.boxd_pid(), signal.SIGKILL)
            async with asyncio.timeout(45):
                await link.lost()
        async with boxd.link() as link:
            assert link.facts["boot"] != first["boot"] and link.facts["hook_port"] == first["hook_port"]
            assert running(pid)
            assert await link.run_start("r1", ["sleep", "1000"], ENV, "/tmp") == pid
            os.kill(pid, signal.SIGTERM)
            assert (await exited(link, "r1"))["signal"] == 15
            kinds = [r["kind"] for r in await records(link, "")]
            assert kinds == ["boot", "run.started", "boot", "run.exited"]
            numbers = [r["seq"] async for r in link.journal()]
            assert numbers == [1, 2, 3, 4]

    run(go())


def test_an_agent_that_ends_while_boxd_is_away_is_still_told_once(start: Callable[..., BoxdProcess]) -> None:
    boxd = start()

    async def go() -> None:
        async with boxd.link() as link:
            pid = await link.run_start("r1", ["sleep", "1000"], ENV, "/tmp")
        # Stopped, it can't see the end; killed, its successor must.
        old = boxd.boxd_pid()
        os.kill(old, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        await until((boxd.folder / "run/runs/r1/exit").exists)
        os.kill(old, signal.SIGKILL)
        async with boxd.link() as link:
            record = await exited(link, "r1")
            assert (record["pid"], record["signal"]) == (pid, 9)
            assert [r["kind"] for r in await records(link)] == ["run.started", "run.exited"]

    run(go())


@pytest.mark.parametrize("marker", ["started", "exited"])
def test_a_boxd_killed_between_journal_and_marker_tells_nothing_twice(
    start: Callable[..., BoxdProcess], marker: str
) -> None:
    boxd = start()

    async def go() -> None:
        async with boxd.link() as link:
            await link.run_start("r1", ["sh", "-c", "sleep 0.2"], ENV, "/tmp", settle_ms=0)
            await exited(link, "r1")
        await until((boxd.folder / f"run/runs/r1/{marker}").exists)
        (boxd.folder / f"run/runs/r1/{marker}").unlink()
        os.kill(boxd.boxd_pid(), signal.SIGKILL)
        async with boxd.link() as link:
            await until((boxd.folder / f"run/runs/r1/{marker}").exists)
            assert [r["kind"] for r in await records(link)] == ["run.started", "run.exited"]

    run(go())


def test_boxds_killed_again_and_again_while_runs_come_and_go_tell_each_once(boxd: BoxdProcess) -> None:
    async def go() -> None:
        for i in range(4):
            async with boxd.link() as link:
                script = f"sleep 0.3; exit {i}"
                start = link.run_start(f"r{i}", ["sh", "-c", script], ENV, "/tmp")
                await asyncio.gather(start, kill_soon(boxd, 0.02 * i), return_exceptions=True)
            async with boxd.link() as link:
                with contextlib.suppress(ProviderError):  # it may have ended meanwhile: the journal says so
                    await link.run_start(f"r{i}", ["sh", "-c", script], ENV, "/tmp")
                assert (await exited(link, f"r{i}"))["exit"] == i
        async with boxd.link() as link:
            told = [(r["kind"], r["run"]) for r in await records(link)]
        assert sorted(told) == sorted((k, f"r{i}") for i in range(4) for k in ("run.started", "run.exited"))

    run(go())


async def kill_soon(boxd: BoxdProcess, seconds: float) -> None:
    await asyncio.sleep(seconds)
    os.kill(boxd.boxd_pid(), signal.SIGKILL)


def test_a_killed_boxd_takes_its_execs_along(boxd: BoxdProcess) -> None:
    async def go() -> int:
        async with boxd.link() as link, link.open_exec(["sh", "-c", "sleep 1000; :"]) as stream:
            os.kill(boxd.boxd_pid(), signal.SIGKILL)
            with pytest.raises(ProviderError, match="went away"):
                async for _ in stream:
                    pass
            pid = stream.pid
        async with boxd.link() as link:
            await link.ping()
        return pid

    pid = run(go())
    run(until(lambda: not running(pid)))


def test_a_box_started_anew_tells_the_ends_nobody_saw(folder: Any, start: Callable[..., BoxdProcess]) -> None:
    boxd = start()

    async def first() -> None:
        async with boxd.link() as link:
            await link.run_start("r1", ["sleep", "1000"], ENV, "/tmp")

    run(first())
    os.kill(boxd.boxd_pid(), signal.SIGSTOP)  # it sees nothing of what comes
    boxd.stop()
    os.rename(folder / "run", folder / "old-run")  # the run folder is in memory: gone after a restart
    again = start()

    async def second() -> None:
        async with again.link() as link:
            record = await exited(link, "r1")
            assert record["lost"] is True and "exit" not in record

    run(second())


def test_the_end_of_the_terminal_is_the_end_of_the_run(boxd: BoxdProcess) -> None:
    async def work(link: BoxLink) -> None:
        await link.run_start("r1", ["sleep", "1000"], ENV, "/tmp")
        boxd.tmux("kill-server")
        assert (await exited(link, "r1"))["signal"] == 1
        await link.run_start("r2", ["sleep", "1000"], ENV, "/tmp")

    with_link(boxd, work)


def test_hundreds_of_boxd_deaths_are_survived_with_pauses(boxd: BoxdProcess) -> None:
    async def go() -> None:
        for _ in range(6):
            os.kill(boxd.boxd_pid(), signal.SIGKILL)
        async with boxd.link() as link:
            await link.ping()

    run(go())
    assert "a new one starts in 0.00 s" in boxd.log.read_text()
