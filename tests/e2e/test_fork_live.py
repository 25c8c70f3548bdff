"""``fork --live``: running processes are forked, the agent's terminal with typed words and all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_lab import Lab, lab

from thopter.model.errors import ThopterError
from thopter.providers.local import criu
from thopter.testing.scripted_model import Scenario, Script, Tool, Turn

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

SCENARIO = Scenario(
    script=(
        Script(name="secret", turns=(Turn(say="The word is walnut."),)),
        Script(name="more", turns=(Turn(say="More it is."),)),
        Script(
            name="long",
            turns=(
                Turn(tools=(Tool(name="Bash", input={"command": "sleep 6; echo $$ > /work/proj/slept"}),)),
                Turn(say="Slept."),
            ),
        ),
    )
)
UNSENT = "script:more from the same half sentence"


def _have_criu(tmp: Path) -> str:
    """The setting with which CRIU is found here; skips with the reason where it is not."""
    wish = os.environ.get("THOPTER_LOCAL_CRIU") or "auto"
    try:
        criu.find(wish, tmp)
    except ThopterError as e:
        pytest.skip(f"{e.message} ({e.hint})")
    return wish


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with a thopter ``orig`` that has said its word and has something in its input."""
    wish = _have_criu(tmp_path_factory.mktemp("criu"))
    with lab(SCENARIO) as made:
        made.env["THOPTER_LOCAL_CRIU"] = wish
        made.repo("proj")
        made.run("run", "-d", "--repo", "proj", "--name", "orig", "script:secret", timeout=300)
        made.rest("orig")
        yield made


def _screen(house: Lab, name: str) -> str:
    ask = ["tmux", "-S", "/run/thopter/tmux.sock", "capture-pane", "-p", "-t", "=agent:0.0"]
    return house.run("exec", name, "--", *ask).stdout


def _keys(house: Lab, name: str, *keys: str) -> None:
    send = ["tmux", "-S", "/run/thopter/tmux.sock", "send-keys", "-t", "=agent:0.0"]
    house.run("exec", name, "--", *send, *keys)


def _agents(house: Lab, name: str) -> list[str]:
    show = (
        'for p in /proc/[0-9]*; do [ "$(readlink $p/exe | grep -c claude)" = 1 ] && echo ${p#/proc/}; done; :'
    )
    return house.run("exec", name, "--", "sh", "-c", show).stdout.split()


def _fork(house: Lab, *argv: str) -> list[dict[str, Any]]:
    done = house.run("fork", "orig", "--live", "--json", *argv, timeout=300)
    forks: list[dict[str, Any]] = json.loads(done.stdout)
    assert all(f["ok"] for f in forks), forks
    return forks


def test_a_live_fork_goes_on_with_the_same_processes_and_what_was_typed(house: Lab) -> None:
    _keys(house, "orig", "-l", UNSENT)
    house.until("it is typed", lambda: UNSENT in _screen(house, "orig"))
    before = _agents(house, "orig")
    assert [f["name"] for f in _fork(house, "-n", "2")] == ["orig-2", "orig-3"]
    for name in ("orig-2", "orig-3"):
        assert UNSENT in _screen(house, name), "the words nobody has sent are in its input"
        assert _agents(house, name) == before, "the same process, not a new one"
        house.until("its state", lambda n=name: house.view(n).get("state") == "waiting")
        text = house.run("tail", name, "-n", "100").stdout
        assert text.count("The word is walnut.") == 1, text
    assert UNSENT in _screen(house, "orig") and _agents(house, "orig") == before
    _keys(house, "orig-2", "Enter")
    house.until("it is answered", lambda: "More it is." in house.run("tail", "orig-2").stdout)
    house.rest("orig-2")
    evidence = json.dumps(house.json("status", "orig-2"))
    assert "hook" in evidence, "the hooks of its processes are heard, in their box"
    for name in ("orig", "orig-3"):
        assert "More it is." not in house.run("tail", name, "-n", "100").stdout
        assert house.view(name)["state"] == "waiting"
    house.run("tell", "--no-tail", "orig-2", "script:secret once more")
    house.until(
        "told", lambda: house.run("tail", "orig-2", "-n", "9").stdout.count("The word is walnut.") > 1
    )
    branch = house.run("exec", "orig-3", "--", "git", "branch", "--show-current").stdout
    assert branch == "thopter/orig-3\n"
    house.run("restart", "orig-3", timeout=300)
    house.rest("orig-3")
    assert _agents(house, "orig-3") not in ([], before), "it can be restarted like any other"
    assert house.json("snapshot", "list")["snapshots"] == []
    house.run("destroy", "--yes", "orig-2", "orig-3")
    assert house.leaks() == []


def test_a_turn_that_is_under_way_is_finished_in_both(house: Lab) -> None:
    _keys(house, "orig", "C-u")
    house.run("tell", "--no-tail", "orig", "script:long please")
    house.until("its tool runs", lambda: "sleep 6" in house.run("tail", "orig", "-n", "5").stdout)
    (twin,) = _fork(house, "--name", "twin")
    assert twin["name"] == "twin"
    for name in ("orig", "twin"):
        house.until(f"{name} has slept", lambda n=name: "Slept." in house.run("tail", n, "-n", "5").stdout)
        house.rest(name)
        assert house.run("exec", name, "--", "cat", "/work/proj/slept").stdout.strip().isdigit()
    house.run("destroy", "--yes", "twin")


def test_a_live_fork_of_a_live_fork_is_watched_and_heard_like_any_other(house: Lab) -> None:
    _fork(house, "--name", "child")
    (grandchild,) = json.loads(
        house.run("fork", "child", "--live", "--name", "grandchild", "--json", timeout=300).stdout
    )
    assert grandchild["ok"], grandchild
    house.run(
        "exec", "grandchild", "--", "sh", "-c", "kill -9 $PPID", check=False
    )  # its boxd: another one comes
    house.run("destroy", "--yes", "child")
    house.run("tell", "--no-tail", "grandchild", "script:more please")
    house.until("it answers", lambda: "More it is." in house.run("tail", "grandchild", "-n", "5").stdout)
    house.rest("grandchild")
    (agent,) = _agents(house, "grandchild")
    house.run("exec", "grandchild", "--", "kill", "-9", agent)
    house.until("its end is told", lambda: house.view("grandchild").get("state") == "failed")
    house.run("resume", "grandchild", timeout=300)
    house.rest("grandchild")
    assert "More it is." in house.run("tail", "grandchild", "-n", "9").stdout
    house.run("destroy", "--yes", "grandchild")
    assert "More it is." not in house.run("tail", "orig", "-n", "99").stdout


def _dies_at(made: Lab, point: str, *argv: str) -> None:
    """Run ``argv`` against a hub that kills itself at ``point``; afterwards another hub runs."""
    made.run("hub", "stop", check=False)
    made.run("hub", "start", env={"THOPTER_FAILPOINT": point})
    pid = made.hub_pid()
    made.run(*argv, check=False, env={"THOPTER_NO_START": "1"}, timeout=300)
    made.until(f"the hub dies at {point}", lambda: not os.path.exists(f"/proc/{pid}"), 60.0)
    made.run("hub", "start")


@pytest.mark.parametrize(
    "point",
    ("live.dumped", "snapshot.still", "live.started", "flow.processes1.after"),
)
def test_a_live_fork_survives_kill_9_of_the_hub(house: Lab, point: str) -> None:
    before = _agents(house, "orig")
    _dies_at(house, point, "fork", "orig", "--live", "--name", "kitten")
    house.until("the fork waits", lambda: house.view("kitten").get("state") == "waiting")
    assert _agents(house, "orig") == before == _agents(house, "kitten")
    stopped = "cat /proc/[0-9]*/stat | sed 's/.*) //' | grep -c ^T || :"
    for name in ("orig", "kitten"):
        assert house.run("exec", name, "--", "sh", "-c", stopped).stdout == "0\n", "nothing stands still"
        assert house.run("tail", name, "-n", "99").stdout.count("The word is walnut.") == 1
        assert house.view(name)["state"] == "waiting"
    house.until("the saved box goes", lambda: house.json("snapshot", "list")["snapshots"] == [])
    house.run("destroy", "--yes", "kitten")
    assert house.leaks() == []


def test_what_can_not_be_forked_live_is_told_in_one_sentence(house: Lab) -> None:
    refused = house.run("fork", "orig", "--live", "--prompt", "go", check=False)
    assert refused.returncode == 5 and "tell" in refused.stderr, refused.stderr
    house.run("suspend", "orig")
    asleep = house.run("fork", "orig", "--live", check=False)
    assert asleep.returncode != 0 and "suspended" in asleep.stderr, asleep.stderr
    house.run("resume", "orig")
    viewer = "exec script -qc 'tmux -S /run/thopter/tmux.sock attach -t agent' /dev/null"
    start = f'(setsid sh -c "{viewer}" </dev/null >/dev/null 2>&1 &)'
    house.run("exec", "orig", "--", "sh", "-c", start)
    attached = house.until(
        "the viewer is seen", lambda: _when(house.run("fork", "orig", "--live", check=False), "attached")
    )
    assert attached
    house.run("exec", "orig", "--", "pkill", "script")
    assert [v["name"] for v in house.json("status")] == ["orig"]
    assert house.leaks() == []


def _when(done: Any, word: str) -> bool:
    return done.returncode != 0 and word in done.stderr
