"""``thopter-status`` as it runs in a box, against a real boxd."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from boxd_support import BoxdProcess, run, wait_for

from thopter.fleet.status_tool import SCRIPT


class Tool:
    """The program as a box has it."""

    def __init__(self, boxd: BoxdProcess, folder: Path) -> None:
        self.boxd = boxd
        self.file = folder / "thopter-status"
        self.file.write_text(SCRIPT)
        self.where = boxd.folder / "run" / "status"
        wait_for(self.where.exists)

    def __call__(self, *argv: str, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
        """Run it with nothing but a PATH in its environment."""
        given = {"PATH": os.environ["PATH"], "THOPTER_STATUS_FILE": str(self.where), **env}
        return subprocess.run(
            ["/bin/bash", str(self.file), *argv], input=stdin, env=given, capture_output=True, timeout=60,
            check=False,
        )  # fmt: skip

    def journaled(self) -> list[dict[str, Any]]:
        """What stands in the journal."""

        async def go() -> list[dict[str, Any]]:
            async with self.boxd.link() as link:
                return [r async for r in link.journal(kinds=["said"])]

        return run(go())


@pytest.fixture
def tool(boxd: BoxdProcess, tmp_path: Path) -> Tool:
    return Tool(boxd, tmp_path)


def test_every_verb_is_journaled_with_its_text_and_run(tool: Tool) -> None:
    for argv in (
        ("log", "one", "two"), ("waiting", "for a key"), ("done",), ("running",), ("inactive",),
        ("statusline", "counting"), ("task", "counting on"), ("message", "hello\nworld"),
    ):  # fmt: skip
        done = tool(*argv, THOPTER_RUN="run_1")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), argv
    assert tool("heartbeat").returncode == 0
    assert [(r["verb"], r["text"], r["run"]) for r in tool.journaled()] == [
        ("log", "one two", "run_1"), ("waiting", "for a key", "run_1"), ("done", "", "run_1"),
        ("running", "", "run_1"), ("inactive", "", "run_1"), ("statusline", "counting", "run_1"),
        ("statusline", "counting on", "run_1"), ("message", "hello\nworld", "run_1"),
    ]  # fmt: skip


def test_show_tells_what_was_reported_also_after_a_restart_of_boxd(tool: Tool) -> None:
    tool("statusline", "counting")
    tool("done", "all of it")
    tool("log", "ünï")
    shown = tool("show").stdout.decode()
    assert "statusline: counting\n" in shown and "log: ünï" in shown
    assert "declared: done: all of it\n" in shown
    os.kill(tool.boxd.boxd_pid(), signal.SIGKILL)
    wait_for(lambda: tool("show").stdout.decode() == shown)


def test_hostile_text_is_made_harmless_and_cut(tool: Tool) -> None:
    tool("log", "a\x1b]52;c;x\x07b\x9bc\nd\re", stdin=b"")
    tool("statusline", "é" * 3000)
    tool("log", "-", stdin=b"from\x00stdin" + b"x" * 200_000)
    first, line, long = tool.journaled()
    assert first["text"] == "a ]52;c;x b c d e"
    assert line["text"] == "é" * 500
    assert long["text"].startswith("from stdin") and len(long["text"]) == 2000


def test_what_it_can_not_do_is_said_and_has_its_code(tool: Tool, tmp_path: Path) -> None:
    assert tool("sing").returncode == 2 and b"no verb" in tool("sing").stderr
    assert tool().returncode == 2 and tool("log").returncode == 2 and tool("task").returncode == 2
    assert tool("help").stdout.count(b"\n") > 8
    assert tool("message").returncode == 0  # an empty standard input is no message
    lost = tool("log", "x", THOPTER_STATUS_FILE=str(tmp_path / "none"))
    assert lost.returncode == 1 and b"can't be read" in lost.stderr
    (tmp_path / "wrong").write_text(f"{tool.boxd.hook_port} wrong\n")
    assert tool("log", "x", THOPTER_STATUS_FILE=str(tmp_path / "wrong")).returncode == 1
    (tmp_path / "closed").write_text("1 token\n")
    assert b"does not answer" in tool("log", "x", THOPTER_STATUS_FILE=str(tmp_path / "closed")).stderr
    assert tool.journaled() == []


def test_a_flood_is_refused_after_a_burst(tool: Tool) -> None:
    codes = [tool("log", str(n)).returncode for n in range(40)]
    assert codes[:30] == [0] * 30 and 1 in codes[30:]
    assert b"too many" in tool("log", "more").stderr or tool.journaled()[-1]["text"] == "more"
    assert len(tool.journaled()) < 40
