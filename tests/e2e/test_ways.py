"""Boxes of the weaker kinds carry the whole job too: run, talk, see the work, pull it, end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_lab import Lab, lab

from thopter.testing.scripted_model import Scenario, Script, Tool, Turn

sys.path.append(str(Path(__file__).parent.parent / "providers"))
from local_ways import ASKED, as_user, need

_HELLO = Tool(name="Bash", input={"command": "pwd > where; git add -A && git commit -qm hello; echo $HOME"})
SCENARIO = Scenario(
    script=(Script(name="hello", turns=(Turn(say="Hello.", tools=(_HELLO,)), Turn(say="Said."))),)
)


@pytest.mark.claude
@pytest.mark.root
@pytest.mark.slow
@pytest.mark.xdist_group("e2e")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ["bubblewrap", "none"])
def test_the_whole_job_is_done_in_boxes_of_a_weaker_kind(way: str) -> None:
    need(way)
    said = as_user(54_350 + len(way), str(Path(__file__)), way=way)
    assert "1 passed" in said


@pytest.fixture
def weak() -> Iterator[Lab]:
    """A lab whose hub makes such boxes."""
    with lab(SCENARIO) as made:
        made.env["THOPTER_LOCAL_ISOLATION"] = ASKED
        yield made


@pytest.mark.skipif(not ASKED or os.geteuid() == 0, reason="runs inside of the test above")
def test_two_thopters_work_side_by_side_and_their_work_is_pulled(weak: Lab) -> None:
    repo = weak.repo("proj")
    for name in ("one", "two"):
        weak.run("run", "-d", "--repo", "proj", "--name", name, "script:hello", timeout=300)
    weak.rest("one", "two")
    for name in ("one", "two"):
        shown = weak.json("status", name)
        assert shown["isolation"] == ASKED, shown
        assert "+" in weak.run("diff", name).stdout
        weak.run("pull", name, cwd=repo)
        assert weak.git(repo, "log", "-1", "--format=%s", f"thopter/{name}").strip() == "hello"
        assert weak.run("exec", name, "--", "cat", "where").stdout.strip().endswith("/work/proj")
    told = weak.run("tell", "one", "script:hello", timeout=200)
    assert told.returncode == 0
    weak.run("destroy", "--yes", "one", "two")
    assert weak.leaks() == []
    checks = {c["name"]: c for c in weak.json("doctor")["checks"]}
    provider = checks["provider local"]
    assert ASKED in provider["text"]
    assert provider["level"] == ("warn" if ASKED == "none" else "ok")
