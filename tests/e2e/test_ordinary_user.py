"""A hub of an ordinary user does the whole job, in each of the ways in which its boxes may be made."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_lab import Lab, lab

from thopter.testing.scripted_model import Scenario, Script, Tool, Turn

sys.path.append(str(Path(__file__).parent.parent / "providers"))
from local_ways import as_user, need

_WAYS = ("namespaces-user", "bubblewrap", "none")
_WORK = Tool(
    name="Bash",
    input={
        "command": "pwd > where; git add -A && git commit -qm hello && thopter-status statusline 'said it'"
    },
)
SCENARIO = Scenario(
    script=(Script(name="hello", turns=(Turn(say="Hello.", tools=(_WORK,)), Turn(say="It is said."))),)
)


@pytest.mark.claude
@pytest.mark.root
@pytest.mark.slow
@pytest.mark.xdist_group("e2e")
@pytest.mark.timeout(1500)
def test_the_whole_job_is_done_by_an_ordinary_user_in_each_kind_of_box() -> None:
    said = as_user(54_350, str(Path(__file__)), "-k", "two_work", seconds=1400)
    assert f"{len(_WAYS)} passed" in said or "nothing is shown of boxes" in said, said[-3000:]


inside = pytest.mark.skipif(os.geteuid() == 0, reason="runs inside of the test above")


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab whose hub makes boxes of one kind; the golden box is built by the first."""
    need(request.param)
    with lab(SCENARIO) as made:
        made.env["THOPTER_LOCAL_ISOLATION"] = request.param
        yield made


@inside
@pytest.mark.timeout(600)
@pytest.mark.parametrize("own", _WAYS, indirect=True)
def test_two_work_side_by_side_are_talked_to_and_their_work_is_pulled(own: Lab) -> None:
    way = own.env["THOPTER_LOCAL_ISOLATION"]
    repo = own.repo("proj")
    for name in ("one", "two"):
        own.run("run", "-d", "--repo", "proj", "--name", name, "script:hello", timeout=400)
    own.rest("one", "two")
    for name in ("one", "two"):
        shown = own.json("status", name)
        assert shown["isolation"] == way and "said it" in str(shown), shown
        assert "It is said." in own.run("tail", name).stdout
        assert "+" in own.run("diff", name).stdout
        own.run("pull", name, cwd=repo)
        assert own.git(repo, "log", "-1", "--format=%s", f"thopter/{name}") == "hello"
        where = own.run("exec", name, "--", "cat", "where").stdout.strip()
        assert where.endswith("/work/proj")
    assert own.run("tell", "one", "script:hello", timeout=200).returncode == 0
    own.until("it answered", lambda: own.run("tail", "one").stdout.count("It is said.") == 2)
    doctor = {c["name"]: c for c in own.json("doctor")}["provider local"]
    assert way in doctor["text"], doctor
    assert doctor["level"] == ("warn" if way == "none" else "ok"), doctor
    own.run("destroy", "--yes", "one", "two")
    assert own.leaks() == []
