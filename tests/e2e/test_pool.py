"""The warm pool with the real Claude Code: taken, told, refilled; raced for; the hub killed anywhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from e2e_lab import Lab, lab

from thopter.testing.scripted_model import Scenario, Script, Tool, Turn

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

_HELLO = Tool(name="Bash", input={"command": "echo hello >> hello.txt && git add -A && git commit -qm hello"})
SCENARIO = Scenario(
    script=(Script(name="hello", turns=(Turn(say="I say hello.", tools=(_HELLO,)), Turn(say="Said."))),)
)


@pytest.fixture(scope="module")
def _ponds() -> Iterator[Lab]:
    with lab(SCENARIO) as made:
        made.repo("proj")
        made.run("hub", "start")
        yield made
        made.run("pool", "clear", check=False)
        _nothing_left(made)


@pytest.fixture
def pond(_ponds: Lab) -> Iterator[Lab]:
    """A lab with no thopter; a pool of an earlier test may be there, which saves a filling."""
    yield _ponds
    _ponds.run("hub", "start", check=False)
    names = [v["name"] for v in _ponds.json("status")]
    if names:
        _ponds.run("destroy", "--yes", *names, check=False)


def _nothing_left(made: Lab) -> None:
    made.until("all boxes are gone", lambda: all(v["box_state"] == "gone" for v in _all(made)))


def _all(made: Lab) -> list[dict[str, Any]]:
    return list(made.json("status", "--all"))


def _pool(made: Lab) -> dict[str, Any]:
    return dict((made.json("pool", "list") or [{}])[0])


def _filled(made: Lab, count: int = 1, snapshot: str = "golden") -> list[str]:
    """Have ``count`` warm boxes with the repository; returns their names."""
    now = _pool(made)
    if (now.get("snapshot"), now.get("want")) != (snapshot, count):
        made.run("pool", "clear")
        made.run("pool", "set", snapshot, str(count), "--repo", "proj")
    made.until("the pool is full", lambda: _pool(made).get("ready") == count and not _pool(made)["filling"])
    return [b["name"] for b in _pool(made)["boxes"] if b["state"] == "warm"]


def _worked_once(made: Lab, name: str) -> None:
    made.rest(name)
    assert made.view(name)["state"] == "waiting", made.view(name)
    assert made.json("diff", name)["commits"] == 1
    log = made.run("exec", name, "--", "git", "log", "--format=%s", f"thopter/{name}", "-1").stdout
    assert log == "hello\n"


def test_a_run_takes_a_warm_box_works_in_it_and_the_pool_is_filled_again(pond: Lab) -> None:
    (name,) = _filled(pond)
    assert pond.json("status") == [] and [v["name"] for v in _all(pond) if v["pool"]] == [name]
    assert pond.json("hub", "status")["warm"] == 1
    assert (
        pond.run("exec", name, "--", "sh", "-c", "hostname; echo $THOPTER_NAME").stdout == f"{name}\n{name}\n"
    )
    (pond.folder / "proj" / "later.txt").write_text("later")
    pond.git(pond.folder / "proj", "add", "-A")
    pond.git(pond.folder / "proj", "commit", "-q", "-m", "later")

    said = pond.run("run", "--repo", "proj", "script:hello")
    assert f"Thopter '{name}' running" in said.stdout and "takes a warm box" in said.stderr
    _worked_once(pond, name)
    assert pond.run("exec", name, "--", "cat", "later.txt").stdout == "later"  # its base is the newest commit
    view = pond.view(name)
    assert view["pool"] == "" and view["task"] == "script:hello"
    pond.run("pull", name, cwd=pond.folder / "proj")
    assert pond.git(pond.folder / "proj", "log", "-1", "--format=%s", f"thopter/{name}") == "hello"
    assert "Said." in pond.run("tail", name, "-n", "50").stdout

    assert _filled(pond) != [name]
    assert _pool(pond)["taken"] == 1
    assert [v["name"] for v in pond.json("status")] == [name]


def test_create_takes_one_that_waits_and_a_name_of_ones_own_never_does(pond: Lab) -> None:
    (name,) = _filled(pond)
    own = pond.json("run", "-d", "--repo", "proj", "--name", "own", "script:hello")
    assert not own["warm"] and own["name"] == "own"
    other = pond.json("run", "-d", "--repo", "proj", "--model", "else", "script:hello")
    assert not other["warm"]  # its agent would be another one
    made = pond.json("create", "--repo", "proj")
    assert (made["warm"], made["name"]) == (True, name)
    pond.run("tell", "--no-tail", name, "script:hello")
    _worked_once(pond, name)


def test_two_runs_race_for_one_box_and_one_gets_it(pond: Lab) -> None:
    (name,) = _filled(pond)
    argv = [sys.executable, "-m", "thopter.cli.main", "run", "--json", "--repo", "proj", "script:hello"]
    both = [
        subprocess.Popen(argv, cwd=pond.folder, env=pond.env, stdout=subprocess.PIPE, text=True) for _ in "ab"
    ]
    said = [p.communicate(timeout=120)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    views = pond.json("status")
    assert len(views) == 2 and name in [v["name"] for v in views]
    assert sorted('"warm": true' in text for text in said) == [False, True]
    for view in views:
        _worked_once(pond, view["name"])


def test_where_its_agent_has_read_what_is_old_a_fresh_box_takes_its_place(pond: Lab) -> None:
    (name,) = _filled(pond)
    (pond.folder / "proj" / "CLAUDE.md").write_text("Speak softly.\n")
    pond.git(pond.folder / "proj", "add", "-A")
    pond.git(pond.folder / "proj", "commit", "-q", "-m", "instructions")
    before = next(v["id"] for v in _all(pond) if v["name"] == name)
    said = pond.run("run", "--repo", "proj", "script:hello")
    assert "a fresh box instead (the repository's instructions for agents have changed" in said.stderr
    assert [(v["name"], v["id"]) for v in pond.json("status")] == [(name, before)]
    _worked_once(pond, name)
    assert pond.run("tail", name, "-n", "50").stdout.count("Said.") == 1
    assert pond.leaks() == []


def test_a_pool_of_a_snapshot_lives_and_ends_with_it(pond: Lab) -> None:
    pond.run("snapshot", "destroy", "marked", check=False)
    pond.run("create", "--repo", "proj", "base")
    pond.run("exec", "base", "--", "touch", "/root/mark")
    pond.run("snapshot", "create", "base", "marked")
    missing = pond.run("pool", "set", "nowhere", "1", check=False)
    assert missing.returncode == 3 and "nowhere" in missing.stderr
    (name,) = _filled(pond, snapshot="marked")
    made = pond.json("run", "-d", "--snapshot", "marked", "--repo", "proj", "script:hello")
    assert (made["warm"], made["name"]) == (True, name)
    assert pond.run("exec", name, "--", "ls", "/root/mark").stdout == "/root/mark\n"
    _worked_once(pond, name)
    _filled(pond, snapshot="marked")
    pond.run("snapshot", "destroy", "marked")
    pond.until("the pool says so", lambda: "marked" in _pool(pond)["problem"] and not _pool(pond)["boxes"])
    pond.run("pool", "clear", "marked")
    assert pond.json("pool", "list") == []


KILLS = ("pool.claimed", "flow.mirror.before", "flow.warm.after", "pool.telling", "flow.prompt.after")


@pytest.mark.parametrize("point", KILLS)
def test_a_warm_start_survives_kill_9_of_the_hub(pond: Lab, point: str) -> None:
    (name,) = _filled(pond)
    run = ("run", "-d", "--repo", "proj", "script:hello")
    pond.dies_at(point, *run, ready=lambda: _pool(pond)["ready"] == 1)
    pond.run("hub", "start")
    pond.until("the thopter is there", lambda: pond.view(name).get("box_state") == "ready")
    _worked_once(pond, name)
    assert [v["name"] for v in pond.json("status")] == [name]
    assert name not in [b["name"] for b in _pool(pond)["boxes"]]
    assert pond.leaks() == []


def test_a_hub_killed_while_it_fills_goes_on_and_leaks_nothing(pond: Lab) -> None:
    pond.run("pool", "clear")
    _nothing_left(pond)
    pond.dies_at("flow.launch.after", "pool", "set", "golden", "1", "--repo", "proj")
    pond.run("hub", "start")
    (name,) = _filled(pond)
    assert [v["name"] for v in _all(pond) if v["box_state"] != "gone"] == [name]
    pond.run("pool", "clear")
    _nothing_left(pond)
    assert pond.leaks() == []
