"""kill -9 of the hub at every step, and faults of agents and models: nothing lost, doubled or leaked."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest
from e2e_lab import Lab, lab

from thopter.testing.scripted_model import Scenario, Script, Tool, Turn

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

_HELLO = Tool(name="Bash", input={"command": "echo hello >> hello.txt && git add -A && git commit -qm hello"})
_SLEEP = Tool(name="Bash", input={"command": "sleep 6"})
SCENARIO = Scenario(
    script=(
        Script(name="hello", turns=(Turn(say="I say hello.", tools=(_HELLO,)), Turn(say="Said."))),
        Script(
            name="long",
            turns=(Turn(tools=(Tool(name="Bash", input={"command": "sleep 3"}),)), Turn(say="Slept.")),
        ),
        Script(name="limited", turns=(Turn(status=429, retry_after=600),)),
        Script(name="refused", turns=(Turn(status=401),)),
        Script(name="stalled", turns=(Turn(say="I think", stall_after=1),)),
    )
)
FLY = ("accept", "golden", "mirror", "box", "gateways", "clone", "prepare", "launch", "sign")
END = ("detach", "remove", "record")
PLACES = ("after", "recorded")  # "recorded" of a step is "before" the next one


def _points(steps: tuple[str, ...]) -> list[str]:
    """Every moment that differs: before the first step, and in and after the record of each."""
    return [f"flow.{steps[0]}.before", *(f"flow.{step}.{place}" for step in steps for place in PLACES)]


@pytest.fixture(scope="module")
def _shaken() -> Iterator[Lab]:
    with lab(SCENARIO) as made:
        made.repo("proj")
        made.run("run", "-d", "--repo", "proj", "--name", "warm", "script:hello", timeout=300)
        made.rest("warm")
        made.run("destroy", "--yes", "warm")
        yield made


@pytest.fixture
def shaken(_shaken: Lab) -> Iterator[Lab]:
    """The lab with nothing in it, whatever an earlier test left."""
    yield _shaken
    _shaken.run("hub", "start", check=False)
    names = [v["name"] for v in _shaken.json("status")]
    if names:
        _shaken.run("destroy", "--yes", *names, check=False)


@pytest.mark.parametrize("point", _points(FLY))
def test_a_run_survives_kill_9_of_the_hub(shaken: Lab, point: str) -> None:
    shaken.dies_at(point, "run", "-d", "--repo", "proj", "--name", "fly", "script:hello")
    shaken.run("hub", "start")
    shaken.rest("fly")
    views = shaken.json("status")
    assert [v["name"] for v in views] == ["fly"]
    assert views[0]["state"] == "waiting", views[0]
    assert shaken.json("diff", "fly")["commits"] == 1  # the agent worked once, not twice
    shaken.run("destroy", "--yes", "fly")
    assert shaken.leaks() == []


@pytest.mark.parametrize("point", _points(END))
def test_a_destruction_survives_kill_9_of_the_hub(shaken: Lab, point: str) -> None:
    shaken.run("run", "-d", "--repo", "proj", "--name", "end", "script:hello")
    shaken.rest("end")
    shaken.dies_at(point, "destroy", "--yes", "end")
    shaken.run("hub", "start")
    shaken.until("it is gone", lambda: shaken.json("status") == [])
    assert shaken.leaks() == []


def test_agents_work_on_while_the_hub_is_dead_and_nothing_of_it_is_lost(shaken: Lab) -> None:
    shaken.run("run", "-d", "--repo", "proj", "--name", "on", "script:long")
    shaken.kill_hub()
    time.sleep(4)  # the agent's turn ends meanwhile (if it does not, less is shown, and nothing fails)
    shaken.rest("on")
    assert shaken.view("on")["reason"] == "turn_end"
    text = shaken.run("tail", "on", "-n", "50").stdout
    assert "Slept." in text and text.count("Slept.") == 1
    assert shaken.run("tell", "--no-tail", "on", "script:hello").returncode == 0
    shaken.until("it committed", lambda: shaken.json("diff", "on")["commits"] == 1)
    shaken.run("destroy", "--yes", "on")


def test_a_killed_agent_is_failed_with_its_signal_and_its_box_stays(shaken: Lab) -> None:
    shaken.run("run", "-d", "--name", "dead", "script:hello")
    shaken.rest("dead")
    shaken.run("exec", "dead", "--", "sh", "-c", "kill -9 $(cat /run/thopter/runs/*/pid)")
    shaken.until("it is failed", lambda: shaken.view("dead").get("state") == "failed")
    checked = shaken.run("check", "dead", "--json", check=False)
    assert checked.returncode == 1 and json.loads(checked.stdout)["claude"] is False
    refused = shaken.run("tell", "--no-tail", "dead", "hello?", check=False)
    assert refused.returncode == 5 and "not running" in refused.stderr
    assert shaken.run("exec", "dead", "--", "echo", "box").stdout == "box\n"
    shaken.run("destroy", "--yes", "dead")


@pytest.mark.parametrize(("script", "word"), [("limited", "rate_limit"), ("refused", "401")])
def test_a_model_that_refuses_is_told_as_it_is(shaken: Lab, script: str, word: str) -> None:
    shaken.run("run", "-d", "--name", script, f"script:{script}", check=False)
    shaken.until(f"{word} shows", lambda: word in shaken.run("status", script).stdout, 180.0)
    states = {"limited": ("waiting",), "refused": ("working", "waiting", "failed")}  # it may try on by itself
    assert shaken.view(script)["state"] in states[script]
    assert script == "limited" or "401" in shaken.view(script)["problem"]
    shaken.run("destroy", "--yes", script)


def test_a_silent_model_leaves_the_run_working_and_interrupt_ends_the_turn(shaken: Lab) -> None:
    shaken.run("run", "-d", "--name", "mute", "script:stalled")
    shaken.until("it works", lambda: shaken.view("mute").get("state") == "working")
    shaken.run("interrupt", "mute")
    shaken.until("it waits", lambda: shaken.view("mute").get("state") == "waiting")
    shaken.run("destroy", "--yes", "mute")


def test_a_dead_model_endpoint_is_seen_and_the_run_goes_on_when_it_is_back(shaken: Lab) -> None:
    shaken.run("hub", "stop")
    shaken.run("hub", "start", env={"THOPTER_AGENTS_CLAUDE_BASE_URL": "http://127.0.0.1:9"})
    shaken.run("run", "-d", "--name", "deaf", "script:hello", check=False)
    shaken.until("it shows a problem or works on retries", lambda: shaken.view("deaf").get("state") in
                 ("working", "waiting", "failed"))  # fmt: skip
    shaken.run("hub", "restart")  # with the endpoint of the lab again
    shaken.until("it said something", lambda: "Said." in shaken.run("tail", "deaf").stdout
                 or shaken.view("deaf").get("state") == "waiting", 180.0)  # fmt: skip
    shaken.run("destroy", "--yes", "deaf")


def test_frozen_is_frozen_and_thawed_goes_on(shaken: Lab) -> None:
    shaken.run("run", "-d", "--name", "ice", "script:hello")
    shaken.rest("ice")
    shaken.run("freeze", "ice")
    assert shaken.view("ice")["box_state"] == "frozen"
    assert shaken.view("ice")["state"] == "waiting"  # a finished turn stays finished
    shaken.run("thaw", "ice")
    assert shaken.run("exec", "ice", "--", "echo", "warm").stdout == "warm\n"
    shaken.run("destroy", "--yes", "ice")


def test_killing_everything_of_ours_is_told_as_lost_and_destroyed_without_a_trace(shaken: Lab) -> None:
    shaken.run("run", "-d", "--name", "gone", "script:hello")
    shaken.rest("gone")
    key = shaken.view("gone")["id"]
    shaken.kill_hub()
    records = (shaken.paths.state / "boxes" / key).glob("*.json")
    pid = max(int(json.loads(r.read_text()).get("pid", 0)) for r in records)
    assert pid > 1
    os.kill(pid, signal.SIGKILL)  # its pid 1: the kernel ends the rest
    shaken.run("hub", "start")
    shaken.until("it is told as lost", lambda: shaken.view("gone").get("box_state") == "lost")
    assert shaken.view("gone")["state"] in ("unknown", "failed")
    shaken.run("destroy", "--yes", "gone")
    assert shaken.leaks() == []
