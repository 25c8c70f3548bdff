"""Runs that were forked with their processes: their agent and their hooks become this box's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from boxd_support import BoxdProcess, run, until

from thopter.kit.channel import BoxLink
from thopter.model.errors import BadInput, NotFound

PAST = {"run": "run_new", "past": [["token-of-old", "run_old"], ["token-of-older", "run_older"]]}


@pytest.fixture
def heir(start: Callable[..., BoxdProcess]) -> BoxdProcess:
    """A boxd whose box was forked from another one, which was forked itself."""
    return start(inherits=PAST)


async def _records(link: BoxLink, kind: str) -> list[dict[str, Any]]:
    return [r async for r in link.journal(kinds=[kind])]


@pytest.mark.parametrize(
    ("token", "query", "taken"),
    [
        ("box-token", "run_new", "run_new"),
        ("token-of-old", "run_old", "run_new"),
        ("token-of-old", "run_old.2", "run_new"),
        ("token-of-older", "run_older.fork", "run_new"),
        ("box-token", "run_old", "run_new"),
        ("token-of-old", "run_else", "run_else"),
    ],
)
def test_hooks_of_processes_that_came_along_are_of_the_own_run(
    heir: BoxdProcess, token: str, query: str, taken: str
) -> None:
    assert heir.hook("Stop", b"{}", f"?run={query}", Authorization=f"Bearer {token}")[0] == 204

    async def work() -> list[dict[str, Any]]:
        async with heir.link() as link:
            return await _records(link, "hook")

    (record,) = run(work())
    assert record["run"] == taken


@pytest.mark.parametrize("token", ["", "token-of-ol", "token-of-oldd", "other"])
def test_no_other_token_is_taken(heir: BoxdProcess, token: str) -> None:
    assert heir.hook("Stop", b"{}", "?run=run_old", Authorization=f"Bearer {token}")[0] == 401


def test_a_box_that_inherited_nothing_takes_no_foreign_token(boxd: BoxdProcess) -> None:
    assert boxd.hook("Stop", b"{}", "?run=run_old", Authorization="Bearer token-of-old")[0] == 401


def test_an_agent_that_came_along_is_watched_and_its_end_is_told(heir: BoxdProcess) -> None:
    folder = Path(str(heir.config["run_dir"])) / "runs/run_old"
    folder.mkdir(parents=True)
    agent = subprocess.Popen(["sleep", "600"])
    stat = Path(f"/proc/{agent.pid}/stat").read_text().split()
    stat[21] = "1"  # by the count of the box where it was started
    (folder / "pid").write_text(f"{agent.pid}\n")
    (folder / "stat").write_text(" ".join(stat) + "\n")
    (folder / "session").write_text("agent\n")
    (folder / "once").mkdir()
    (folder / "started").touch()

    async def work() -> None:
        async with heir.link() as link:
            assert await link.run_inherit("run_new.fork", "run_old") == agent.pid
            assert await link.run_inherit("run_new.fork", "run_old") == agent.pid, "again: nothing new"
            assert [r["run"] for r in await _records(link, "run.started")] == ["run_new.fork"]
            (folder / "exit").write_text("7\n")  # its launcher writes where it always would
            agent.kill()
            agent.wait()
            await until(lambda: os.path.exists(folder / "exited"))
            (end,) = await _records(link, "run.exited")
            assert end["run"] == "run_new.fork"

    try:
        run(work())
    finally:
        agent.kill()
        agent.wait()


def test_what_is_not_there_can_not_be_inherited(heir: BoxdProcess) -> None:
    async def work() -> None:
        async with heir.link() as link:
            with pytest.raises(NotFound):
                await link.run_inherit("run_new.fork", "run_nobody")
            for bad in ("../run", "", "a/b"):
                with pytest.raises(BadInput):
                    await link.run_inherit("run_new.fork", bad)
            with pytest.raises(BadInput):
                await link.run_inherit("run_new", "run_new")

    run(work())
