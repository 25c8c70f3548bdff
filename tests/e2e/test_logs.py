"""Logs end to end: a real agent's conversation as text, JSON, Markdown, raw lines and a page; and later."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_lab import Lab, lab

from thopter.testing.scripted_model import Scenario, Script, Tool, Turn

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

_WORK = Tool(name="Bash", input={"command": "echo '<b>```found</b>' && seq 3", "description": "Look"})
_SUB = Tool(
    name="Agent",
    input={"description": "Sub work", "prompt": "script:sub do it", "subagent_type": "general-purpose"},
)
SCENARIO = Scenario(
    script=(
        Script(name="work", turns=(Turn(say="I look around.", tools=(_WORK,)), Turn(say="Looked around."))),
        Script(name="boss", turns=(Turn(say="I delegate.", tools=(_SUB,)), Turn(say="Delegated."))),
        Script(name="sub", turns=(Turn(say="Subordinate words."),)),
    )
)


@pytest.fixture(scope="module")
def logged() -> Iterator[Lab]:
    """A lab with a thopter whose turn is over."""
    with lab(SCENARIO) as made:
        made.run("run", "-d", "--name", "heron", "script:work & more", timeout=300)
        made.rest("heron")
        made.until("it is read", lambda: "Looked around." in made.run("log", "heron").stdout)
        yield made


def test_the_whole_conversation_in_every_form(logged: Lab) -> None:
    text = logged.run("log", "heron").stdout
    for said in ("script:work & more", "I look around.", "<b>```found</b>", "3", "Looked around."):
        assert said in text
    entries = [json.loads(line) for line in logged.run("log", "heron", "--json").stdout.splitlines()]
    assert {"user", "assistant", "tool_use", "tool_result"} <= {e["role"] for e in entries}
    lines = [json.loads(line) for line in logged.run("log", "heron", "--raw").stdout.splitlines()]
    assert any(line.get("type") == "assistant" for line in lines)
    markdown = logged.run("log", "heron", "--md", "-o", "heron.md")
    assert markdown.stdout == ""
    kept = (logged.folder / "heron.md").read_text()
    assert "## You, 2" in kept
    assert "````\n<b>```found</b>" in kept
    assert logged.run("log", "nobody", check=False).returncode == 3
    assert logged.run("log", "heron", "--open", check=False).returncode == 2


def test_the_raw_copy_is_the_boxs_own_file(logged: Lab) -> None:
    script = "cat /root/.claude/projects/*/*.jsonl"
    inside = logged.run("exec", "heron", "--", "sh", "-c", script).stdout
    logged.until("the copy is whole", lambda: logged.run("log", "heron", "--raw").stdout == inside)


@pytest.mark.battery("X4")
def test_the_page_is_whole_and_fetches_nothing(logged: Lab) -> None:
    page = logged.run("log", "heron", "--html").stdout
    inside = re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.S)
    assert "Looked around." in inside
    assert "&lt;b&gt;```found&lt;/b&gt;" in inside
    assert not re.findall(r'\s(?:src|href|action|data)="(?!#|data:image/)[^"]*"', inside)
    assert "unpkg" not in page
    again = time.monotonic()
    assert logged.run("log", "heron", "--html").stdout == page  # made once
    assert time.monotonic() - again < 30


def test_a_followed_page_is_written_again_and_settles_at_the_end(logged: Lab) -> None:
    path = logged.folder / "live.html"
    argv = [sys.executable, "-m", "thopter.cli.main", "log", "heron", "--html", "-f", "-o", str(path)]
    follower = subprocess.Popen(
        argv, env=logged.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        logged.until("a page", lambda: path.exists() and 'http-equiv="refresh"' in path.read_text())
        logged.run("tell", "heron", "script:work once more")
        logged.until("more on it", lambda: "once more" in path.read_text())
        follower.send_signal(signal.SIGINT)
        out, err = follower.communicate(timeout=60)
        assert (follower.returncode, out.strip()) == (0, str(path)), err
        assert 'http-equiv="refresh"' not in path.read_text()
        assert [p.name for p in path.parent.glob(".live*")] == []
    finally:
        follower.kill()
        follower.wait()


def test_what_the_hub_did_with_it_step_by_step(logged: Lab) -> None:
    said = logged.run("logs", "heron", "-n", "0").stdout + logged.run("logs", "heron", "-n", "500").stdout
    assert "run.created" in said
    assert len(re.findall(r"flow.step .*: done", said)) >= 5
    assert "run.state waiting (turn_end)" in said
    found = json.loads(logged.run("logs", "heron", "--json").stdout)
    assert found[-1]["seq"] > found[0]["seq"]


def test_sub_agents_are_on_the_page_and_all_of_it_outlives_the_thopter(logged: Lab) -> None:
    logged.run("run", "-d", "--name", "boss", "script:boss", timeout=300)
    logged.rest("boss")
    logged.until("it is read", lambda: "Subordinate words." in logged.run("log", "boss", "--raw").stdout)
    logged.run("destroy", "--yes", "boss")
    assert logged.view("boss") == {}
    for form in ((), ("--raw",), ("--html",), ("--md",)):
        said = logged.run("log", "boss", *form).stdout
        assert "Subordinate words." in said, form
        assert "Delegated." in said
    assert "box.destroyed" in logged.run("logs", "boss").stdout
    copies = sorted(logged.paths.state.glob("transcripts/*/**/*.jsonl"))
    assert any("subagents" in str(p) for p in copies)
    assert {oct(Path(p).stat().st_mode & 0o777) for p in copies} == {"0o600"}
