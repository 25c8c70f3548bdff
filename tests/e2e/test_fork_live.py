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
