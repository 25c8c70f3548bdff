"""Snapshots, forks, checkpoints and sleep with the real agent: files *and* conversation come along."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from e2e_lab import Lab, lab

from thopter.testing.scripted_model import Scenario, Script, Tool, Turn

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]


def _bash(command: str) -> Tool:
    return Tool(name="Bash", input={"command": command})


SCENARIO = Scenario(
    script=(
        Script(
            name="secret",
            turns=(
                Turn(tools=(_bash("echo walnut > word.txt && git add -A && git commit -qm word"),)),
                Turn(say="The word is walnut."),
            ),
        ),
        Script(name="more", turns=(Turn(tools=(_bash("echo more >> more.txt"),)), Turn(say="More it is."))),
        Script(name="long", turns=(Turn(tools=(_bash("sleep 3"),)), Turn(say="Slept."))),
    )
)


@pytest.fixture(scope="module")
def _house() -> Iterator[Lab]:
    with lab(SCENARIO) as made:
        made.repo("proj")
        yield made


@pytest.fixture
def house(_house: Lab) -> Iterator[Lab]:
    """The lab with nothing in it, whatever an earlier test left."""
    yield _house
    _house.run("hub", "start", check=False)
    names = [v["name"] for v in _house.json("status")]
    if names:
        _house.run("destroy", "--yes", *names, check=False)
    snaps = [s["name"] for s in _house.json("snapshot", "list")["snapshots"]]
    if snaps:
        _house.run("snapshot", "destroy", *snaps, check=False)


def _asked(house: Lab, words: str) -> list[Any]:
    """What the model was asked with these as the newest words, oldest first."""
    return [x for x in house.model.exchanges if words in x.seen.prompt and not x.seen.side]


def _knows(asked: Any, words: str) -> bool:
    return words in json.dumps(asked.body["messages"])


def _begin(house: Lab, name: str, script: str = "secret") -> None:
    house.run("run", "-d", "--repo", "proj", "--name", name, f"script:{script}", timeout=300)
    house.rest(name)


def test_a_fork_knows_what_was_said_and_the_original_goes_on(house: Lab) -> None:
    _begin(house, "orig")
    forks = json.loads(
        house.run("fork", "orig", "-n", "2", "--prompt", "script:more please", "--json", timeout=300).stdout
    )
    assert [f["name"] for f in forks] == ["orig-2", "orig-3"] and all(f["ok"] for f in forks), forks
    house.rest("orig-2", "orig-3")
    asked = _asked(house, "script:more please")
    assert len({x.body["metadata"]["user_id"] for x in asked}) == 2, "two sessions of their own"
    assert all(_knows(x, "The word is walnut.") for x in asked), "each knows the conversation"
    for name in ("orig-2", "orig-3"):
        text = house.run("tail", name, "-n", "100").stdout
        assert text.count("The word is walnut.") == 1 and text.count("More it is.") == 1, text
        assert house.run("exec", name, "--", "cat", "word.txt", "more.txt").stdout == "walnut\nmore\n"
        branch = house.run("exec", name, "--", "git", "branch", "--show-current").stdout
        assert branch == f"thopter/{name}\n"
        assert house.json("diff", name)["commits"] == 1
    assert "More it is." not in house.run("tail", "orig", "-n", "100").stdout
    assert house.run("exec", "orig", "--", "ls").stdout.split() == ["README.md", "word.txt"]
    house.run("tell", "--no-tail", "orig", "script:long on")
    house.until("the original works on", lambda: _asked(house, "script:long on"))
    house.rest("orig")
    assert house.run("pull", "orig-2", cwd=house.folder / "proj").returncode == 0
    assert house.git(house.folder / "proj", "show", "thopter/orig-2:word.txt") == "walnut"
    assert house.leaks() == []
    assert house.json("snapshot", "list")["snapshots"] == []


def test_forks_that_can_not_be_made_are_told_one_by_one_and_the_others_stand(house: Lab) -> None:
    _begin(house, "sow")
    # A branch below a fork's own leaves no room for that one: git refuses it.
    for taken in ("lamb-2", "lamb-4", "solo"):
        house.run("exec", "sow", "--", "git", "branch", f"thopter/{taken}/old")
    done = house.run("fork", "sow", "-n", "4", "--name", "lamb", "--json", check=False, timeout=300)
    assert done.returncode == 8, done.stderr
    assert "2 forks of 4 could not be made" in done.stderr
    told = json.loads(done.stdout)
    assert [(f["name"], f["ok"]) for f in told] == [
        ("lamb-1", True), ("lamb-2", False), ("lamb-3", True), ("lamb-4", False),
    ]  # fmt: skip
    assert all("branch" in f["problem"] for f in told if not f["ok"]), told
    spoken = house.run("fork", "sow", "--name", "solo", check=False)
    assert spoken.returncode == 1 and "branch" in spoken.stderr, spoken.stderr
    assert [v["name"] for v in house.json("status")] == ["sow", "lamb-1", "lamb-3"]
    house.rest("lamb-1", "lamb-3")
    assert house.run("exec", "lamb-3", "--", "cat", "word.txt").stdout == "walnut\n"
    assert house.json("snapshot", "list")["snapshots"] == [] and house.leaks() == []


def test_a_thopter_from_a_snapshot_has_the_files_and_a_conversation_of_its_own(house: Lab) -> None:
    _begin(house, "base")
    house.run("exec", "base", "--", "sh", "-c", "echo cached > /root/cache")
    house.run("snapshot", "create", "base", "gold")
    refused = house.run("snapshot", "create", "base", "gold", check=False)
    assert refused.returncode == 5 and "gold" in refused.stderr
    first = house.json("snapshot", "show", "gold")
    house.run("destroy", "--yes", "base")
    house.run("run", "-d", "--snapshot", "gold", "--name", "twig", "script:more on it", timeout=300)
    house.rest("twig")
    assert _asked(house, "script:more on it") and not _knows(
        _asked(house, "script:more on it")[-1], "walnut."
    )
    text = house.run("tail", "twig", "-n", "100").stdout
    assert "More it is." in text and "walnut" not in text, text
    assert house.run("exec", "twig", "--", "cat", "/root/cache", "word.txt").stdout == "cached\nwalnut\n"
    assert house.run("exec", "twig", "--", "git", "branch", "--show-current").stdout == "thopter/twig\n"
    house.run("snapshot", "replace", "twig", "gold")
    second = house.json("snapshot", "show", "gold")
    assert second["id"] != first["id"] and second["source"] == "twig" and second["session"]
    house.run(
        "run", "-d", "--snapshot", "gold", "--repo", "proj", "--name", "reset", "script:long", timeout=300
    )
    house.rest("reset")  # the clone in the snapshot is refreshed to the repository's own state
    assert house.run("exec", "reset", "--", "ls").stdout.split() == ["README.md", "more.txt"]
    assert house.run("exec", "reset", "--", "git", "status", "--porcelain").stdout == "?? more.txt\n"
    house.run("snapshot", "default", "gold")
    house.run("snapshot", "destroy", second["id"][:12])
    gone = house.run("create", "later", check=False)
    assert gone.returncode == 3 and "gold" in gone.stderr and "--clear" in gone.stderr, gone.stderr
    house.run("create", "later", "--fresh", timeout=300)
    house.run("snapshot", "default", "--clear")
    assert house.run("exec", "twig", "--", "cat", "/root/cache").stdout == "cached\n"
    assert house.leaks() == []


def test_suspended_to_the_disk_it_comes_back_with_its_conversation(house: Lab) -> None:
    _begin(house, "bear")
    house.run("suspend", "bear", "--disk")
    assert house.view("bear")["box_state"] == "stopped"
    refused = house.run("tell", "--no-tail", "bear", "hello", check=False)
    assert refused.returncode == 5 and "thopter resume bear" in refused.stderr, refused.stderr
    house.run("hub", "restart")
    assert house.view("bear")["box_state"] == "stopped"
    house.run("resume", "bear")
    house.rest("bear")
    assert house.view("bear")["box_state"] == "ready" and house.view("bear")["agent_running"]
    house.run("tell", "--no-tail", "bear", "script:more honey")
    house.until("it works", lambda: _asked(house, "script:more honey"))
    assert _knows(_asked(house, "script:more honey")[-1], "The word is walnut.")
    house.rest("bear")
    text = house.run("tail", "bear", "-n", "100").stdout
    assert text.count("The word is walnut.") == 1 and text.count("More it is.") == 1, text
    assert house.leaks() == []


def test_suspend_freezes_at_once_and_resume_goes_on_where_it_was(house: Lab) -> None:
    _begin(house, "nap")
    house.run("suspend", "nap")
    house.run("suspend", "nap")
    assert house.view("nap")["box_state"] == "suspended"
    refused = house.run("exec", "nap", "--", "true", check=False)
    assert refused.returncode == 5 and "thopter resume nap" in refused.stderr
    house.run("hub", "restart")
    assert house.view("nap")["box_state"] == "suspended"
    house.run("resume", "nap")
    house.run("resume", "nap")
    assert house.view("nap")["box_state"] == "ready"
    house.run("tell", "--no-tail", "nap", "script:more")
    house.rest("nap")
    house.until("it went on once", lambda: house.run("tail", "nap").stdout.count("More it is.") == 1)


def test_a_box_that_died_is_lost_and_resume_brings_it_back(house: Lab) -> None:
    _begin(house, "phoenix")
    _kill_box(house, "phoenix")
    house.until("it is seen", lambda: house.view("phoenix")["box_state"] == "lost")
    assert "thopter resume" in house.run("tell", "--no-tail", "phoenix", "x", check=False).stderr
    forked = json.loads(house.run("fork", "phoenix", "--name", "ash", "--json", timeout=300).stdout)
    assert forked[0]["ok"], forked
    house.rest("ash")
    assert house.run("exec", "ash", "--", "cat", "word.txt").stdout == "walnut\n"
    house.run("resume", "phoenix")
    house.rest("phoenix")
    house.run("tell", "--no-tail", "phoenix", "script:more feathers")
    house.until("it works", lambda: _asked(house, "script:more feathers"))
    assert _knows(_asked(house, "script:more feathers")[-1], "The word is walnut.")
    house.rest("phoenix")


def _kill_box(house: Lab, name: str) -> None:
    """kill -9 of everything in a box, boxd and its first process included."""
    ident = house.view(name)["id"]
    made = json.loads((house.paths.state / "boxes" / ident / "made.json").read_text())
    os.kill(made["pid"], signal.SIGKILL)


def test_a_dead_agent_comes_back_and_restart_keeps_the_conversation(house: Lab) -> None:
    _begin(house, "again")
    house.run("stop", "again")
    assert house.view("again")["state"] == "stopped"
    assert house.run("exec", "again", "--", "echo", "box").stdout == "box\n"
    house.run("resume", "again")
    house.rest("again")
    house.run("restart", "again")
    house.rest("again")
    house.run("tell", "--no-tail", "again", "script:more again")
    house.until("it works", lambda: _asked(house, "script:more again"))
    assert _knows(_asked(house, "script:more again")[-1], "The word is walnut.")
    house.rest("again")
    house.run("restart", "again", "--fresh-session")
    house.rest("again")
    house.run("tell", "--no-tail", "again", "script:more afresh")
    house.until("it works", lambda: _asked(house, "script:more afresh"))
    assert not _knows(_asked(house, "script:more afresh")[-1], "The word is walnut.")


def test_rewind_takes_files_and_conversation_back_and_can_be_undone(house: Lab) -> None:
    _begin(house, "time")
    house.run("checkpoint", "time", "start")
    house.run("tell", "--no-tail", "time", "script:more mistakes")
    house.until("it is made", lambda: house.run("exec", "time", "--", "ls").stdout.count("more.txt"))
    house.rest("time")
    back = json.loads(house.run("rewind", "time", "start", "--json", timeout=300).stdout)
    house.rest("time")
    assert house.run("exec", "time", "--", "ls").stdout.split() == ["README.md", "word.txt"]
    text = house.run("tail", "time", "-n", "100").stdout
    assert text.count("The word is walnut.") == 1 and "More it is." not in text, text
    house.run("tell", "--no-tail", "time", "script:long way")
    house.until("it works", lambda: _asked(house, "script:long way"))
    seen = _asked(house, "script:long way")[-1]
    assert _knows(seen, "The word is walnut.") and not _knows(seen, "More it is.")
    house.rest("time")
    house.run("rewind", "time", back["before"], timeout=300)
    house.rest("time")
    assert "more.txt" in house.run("exec", "time", "--", "ls").stdout
    text = house.run("tail", "time", "-n", "100").stdout
    assert text.count("More it is.") == 1 and "Slept." not in text, text
    assert len(house.json("checkpoints", "time")) == 3
    house.run("destroy", "--yes", "time")
    assert house.leaks() == []
