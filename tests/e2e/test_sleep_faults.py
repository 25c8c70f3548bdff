"""kill -9 of the hub while it wakes, forks, saves and goes back: nothing lost, doubled or leaked.

``after`` is the worst place: the step was done, and nobody has written that down."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator

import pytest
from e2e_lab import Lab, lab

from thopter.testing.scripted_model import Scenario, Script, Tool, Turn

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

_WORK = Tool(name="Bash", input={"command": "echo walnut >> word.txt"})
SCENARIO = Scenario(
    script=(Script(name="secret", turns=(Turn(tools=(_WORK,)), Turn(say="The word is walnut."))),)
)
WAKE = ("revive", "gateways", "agent")
RESTART = ("end", "agent")
FORK = ("snapshot", "box1", "agent1", "drop")
REWIND = ("save", "remove", "restore", "agent")


@pytest.fixture(scope="module")
def house() -> Iterator[Lab]:
    """A lab with one thopter, ``cat``, that has said its word and has a checkpoint ``start``."""
    with lab(SCENARIO) as made:
        made.repo("proj")
        made.run("run", "-d", "--repo", "proj", "--name", "cat", "script:secret", timeout=300)
        made.rest("cat")
        made.run("checkpoint", "cat", "start")
        yield made


def _dies_at(made: Lab, point: str, *argv: str) -> None:
    """Run ``argv`` against a hub that kills itself at ``point``; afterwards another hub runs."""
    made.dies_at(point, *argv)
    made.run("hub", "start")


def _files(made: Lab) -> set[str]:
    """The names in the work folder; just "" while the box is not there."""
    return set(made.run("exec", "cat", "--", "ls", check=False).stdout.split("\n")[:-1]) or {""}


def _waits(view: dict[str, object]) -> bool:
    return view.get("state") == "waiting" and view.get("agent_running") is True


def _whole(made: Lab, name: str) -> None:
    """It waits at its prompt, with the files and the conversation, once each."""
    made.until(f"{name} is up", lambda: made.view(name).get("box_state") == "ready")
    made.until(f"{name} waits", lambda: _waits(made.view(name)))
    assert made.run("exec", name, "--", "cat", "word.txt").stdout == "walnut\n"
    made.until("once", lambda: made.run("tail", name, "-n", "99").stdout.count("The word is walnut.") == 1)
    agents = made.run(
        "exec", name, "--", "sh", "-c", "ls -d /proc/[0-9]*/exe | xargs -n1 readlink || :"
    ).stdout
    assert sum("claude" in line for line in agents.splitlines()) == 1, agents


@pytest.mark.parametrize("step", WAKE)
def test_waking_survives_kill_9_of_the_hub(house: Lab, step: str) -> None:
    house.run("suspend", "cat", "--disk")
    _dies_at(house, f"flow.{step}.after", "resume", "cat")
    _whole(house, "cat")
    assert house.leaks() == []


@pytest.mark.parametrize("step", RESTART)
def test_restarting_an_agent_survives_kill_9_of_the_hub(house: Lab, step: str) -> None:
    before = house.json("status", "cat")["session"]
    _dies_at(house, f"flow.{step}.after", "restart", "cat")
    _whole(house, "cat")
    assert house.json("status", "cat")["session"] == before, "with its conversation"


@pytest.mark.parametrize("step", ("halt",))
def test_going_to_sleep_survives_kill_9_of_the_hub(house: Lab, step: str) -> None:
    _dies_at(house, f"flow.{step}.after", "suspend", "cat", "--disk")
    house.until("it sleeps", lambda: house.view("cat")["box_state"] == "stopped")
    house.run("resume", "cat")
    _whole(house, "cat")


@pytest.mark.parametrize("step", FORK)
def test_forking_survives_kill_9_of_the_hub(house: Lab, step: str) -> None:
    _dies_at(house, f"flow.{step}.after", "fork", "cat", "--name", "kitten")
    _whole(house, "kitten")
    _whole(house, "cat")
    assert house.json("snapshot", "list")["snapshots"] == []
    assert [v["name"] for v in house.json("status")] == ["cat", "kitten"]
    house.run("destroy", "--yes", "kitten")
    assert house.leaks() == []


def test_a_fork_that_can_not_be_removed_does_not_take_the_others_with_it(house: Lab) -> None:
    # A branch below a fork's own leaves no room for that one: git refuses it, and it is undone.
    house.run("exec", "cat", "--", "git", "branch", "thopter/lamb-2/old")
    house.dies_at("flow.repository2.before", "fork", "cat", "-n", "3", "--name", "lamb")
    with sqlite3.connect(house.paths.state / "hub.db") as db:
        (ident,) = db.execute("SELECT id FROM boxes WHERE name = 'lamb-2'").fetchone()
    folder = house.paths.state / "boxes" / ident
    if subprocess.run(["chattr", "+i", folder], check=False, capture_output=True).returncode:
        pytest.skip("no file can be made immutable here")
    try:
        house.run("hub", "start")
        house.until("it is told", lambda: "could not be removed" in house.view("lamb-2").get("problem", ""))
        for name in ("lamb-1", "lamb-3"):
            _whole(house, name)
    finally:
        subprocess.run(["chattr", "-i", folder], check=True)
    house.run("destroy", "--yes", "lamb-1", "lamb-2", "lamb-3")
    house.run("exec", "cat", "--", "git", "branch", "-D", "thopter/lamb-2/old")
    assert [v["name"] for v in house.json("status")] == ["cat"]
    assert house.leaks() == []


@pytest.mark.parametrize("step", REWIND)
def test_going_back_survives_kill_9_of_the_hub(house: Lab, step: str) -> None:
    before = len(house.json("checkpoints", "cat"))
    house.run("exec", "cat", "--", "touch", "mistake.txt")
    _dies_at(house, f"flow.{step}.after", "rewind", "cat", "start")
    house.until("it is back", lambda: _files(house).isdisjoint({"", "mistake.txt"}))
    _whole(house, "cat")
    assert len(house.json("checkpoints", "cat")) == before + 1, "what was there was saved, once"
    assert house.leaks() == []


@pytest.mark.parametrize("step", ("snapshot", "keep"))
def test_saving_survives_kill_9_of_the_hub(house: Lab, step: str) -> None:
    _dies_at(house, f"flow.{step}.after", "snapshot", "create", "cat", "milk")
    house.until(
        "it is there",
        lambda: (
            [s["state"] for s in house.json("snapshot", "list")["snapshots"] if s["name"] == "milk"]
            == ["ready"]
        ),
    )
    old = house.json("snapshot", "show", "milk")["id"]
    _dies_at(house, f"flow.{step}.after", "snapshot", "replace", "cat", "milk")
    house.until("it is another", lambda: house.json("snapshot", "show", "milk")["id"] != old)
    house.until("and only that", lambda: len(house.json("snapshot", "list")["snapshots"]) == 1)
    house.run("snapshot", "destroy", "milk")
    assert house.leaks() == []


def test_after_kill_9_of_everything_the_hub_says_lost_and_resume_brings_it_back(house: Lab) -> None:
    ident = house.view("cat")["id"]
    house.kill_hub()
    made = json.loads((house.paths.state / "boxes" / ident / "made.json").read_text())
    os.kill(made["pid"], 9)
    house.run("hub", "start")
    house.until("it says so", lambda: house.view("cat")["box_state"] == "lost")
    house.run("hub", "stop")
    house.run("hub", "start", env={"THOPTER_RUN_REVIVE": "auto"})
    _whole(house, "cat")
    assert house.leaks() == []
