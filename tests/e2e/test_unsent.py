"""Messages that an agent acknowledged and did not live to hear, and turns that its death cut short."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pytest
from e2e_lab import Lab, lab

from thopter.testing.scripted_model import Scenario, Script, Tool, Turn
from thopter.testing.victims import Victims

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

_numbers = itertools.count(100)  # a number that was said stays said, also when a test is run again
GO_ON = "Your program was ended in the middle of your work"
_NOTE = Tool(name="Bash", input={"command": "echo ${n} >> /work/notes.txt"})
_NAP = Tool(name="Bash", input={"command": "while :; do sleep 1; done", "timeout": 600000})
SCENARIO = Scenario(
    script=(
        Script(name="nap", turns=(Turn(tools=(_NAP,)), Turn(say="Up."))),
        Script(name="going", match="Look at what is already done", turns=(Turn(say="I go on."),)),
        Script(name="note", match=r"note (?P<n>\d+)", turns=(Turn(tools=(_NOTE,)), Turn(say="Noted ${n}."))),
    )
)  # fmt: skip


@pytest.fixture(scope="module")
def tree() -> Iterator[Lab]:
    """A lab with one thopter, ``owl``, at its prompt after a first turn."""
    with lab(SCENARIO) as made:
        made.run("run", "-d", "--name", "owl", "note 0", timeout=300)
        made.rest("owl")
        yield made


@pytest.fixture
def nest(tree: Lab) -> Lab:
    """The thopter at its prompt, with nothing that waits for it."""
    tree.run("resume", "--no-go-on", "owl")
    for message in tree.json("queue", "owl"):
        tree.run("queue", "owl", "--drop", message["id"], check=False)
    if tree.view("owl")["state"] == "working":
        tree.run("interrupt", "owl", check=False)
    tree.rest("owl")
    return tree


def _users(made: Lab) -> list[str]:
    lines = made.run("tail", "owl", "-n", "500", "--json").stdout.splitlines()
    return [e["text"] for e in map(json.loads, lines) if e["role"] == "user"]


def _notes(made: Lab) -> list[str]:
    return made.run("exec", "owl", "--", "cat", "/work/notes.txt").stdout.split()


def _kill(made: Lab, victim: str) -> None:
    assert Victims(made.paths).kill(victim, str(made.view("owl")["id"])), f"there was no {victim}"


def _gone(made: Lab) -> None:
    made.until("its death is known", lambda: made.view("owl")["state"] in ("failed", "stopped", "unknown"))


def _nap(made: Lab) -> None:
    made.run("tell", "--no-tail", "owl", "script:nap")
    made.until("it naps", lambda: "while :" in made.run("tail", "owl", "-n", "1").stdout)


def _rest(made: Lab, *numbers: int) -> None:
    """All is delivered, once each and in this order, and it is at its prompt."""
    want = [str(n) for n in numbers]
    made.until(f"notes {want}", lambda: _notes(made)[-len(want) :] == want)
    made.until(
        "nothing waits", lambda: not [m for m in made.json("queue", "owl") if m["state"] != "delivered"]
    )
    made.rest("owl")
    for number in numbers:
        assert sum(f"note {number}" in u.splitlines() for u in _users(made)) == 1, _users(made)


def test_what_it_had_queued_is_said_again_in_order_before_what_waited(nest: Lab) -> None:
    _nap(nest)
    nest.run("tell", "--when-idle", "owl", "note 13")
    assert nest.json("tell", "--no-tail", "owl", "note 11")["receipt"] == "queued"
    nest.run("tell", "--no-tail", "owl", "note 12")
    _kill(nest, "agent")
    _gone(nest)
    held = [m["text"] for m in nest.json("queue", "owl") if m["held"]]
    assert held == ["note 13", "note 11", "note 12"]
    assert "said again" in nest.run("queue", "owl").stderr
    done = nest.run("resume", "--no-go-on", "owl")
    assert "2 messages that its conversation lacked: said again" in done.stderr
    _rest(nest, 11, 12, 13)
    assert not any(GO_ON in u for u in _users(nest))


def test_what_it_took_and_did_not_live_to_write_down_is_said_again_once(nest: Lab) -> None:
    for number in (next(_numbers) for _ in range(3)):
        assert nest.json("tell", "--no-tail", "owl", f"note {number}")["receipt"] == "taken"
        _kill(nest, "agent")
        _gone(nest)
        nest.run("resume", "--no-go-on", "owl")
        nest.until("it is heard", lambda n=number: f"note {n}" in _users(nest))
        nest.rest("owl")
        assert sum(u == f"note {number}" for u in _users(nest)) == 1, _users(nest)
        assert _notes(nest).count(str(number)) <= 1


def test_a_box_that_dies_in_a_turn_goes_on_and_hears_what_was_queued(nest: Lab) -> None:
    before = sum(GO_ON in u for u in _users(nest))
    _nap(nest)
    nest.run("tell", "--no-tail", "owl", "note 31")
    _kill(nest, "box")
    nest.until("it is lost", lambda: nest.view("owl")["box_state"] == "lost")
    done = nest.run("resume", "owl")
    assert "is told to go on" in done.stderr
    _rest(nest, 31)
    users = _users(nest)
    assert sum(GO_ON in u for u in users) == before + 1
    last = max(i for i, u in enumerate(users) if GO_ON in u)
    assert users.index("note 31") > last, users
    assert "message go_on delivered" in nest.run("status", "owl").stdout


def test_a_death_at_rest_or_by_a_persons_wish_is_not_gone_on_from(nest: Lab) -> None:
    before = sum(GO_ON in u for u in _users(nest))
    _kill(nest, "tmux")
    _gone(nest)
    assert "go on" not in nest.run("resume", "owl").stderr
    nest.rest("owl")
    _nap(nest)
    nest.run("stop", "owl")
    nest.run("resume", "owl")
    nest.rest("owl")
    _nap(nest)
    nest.run("restart", "owl")
    nest.rest("owl")
    assert sum(GO_ON in u for u in _users(nest)) == before


def test_a_turn_put_to_sleep_on_the_disk_goes_on_when_it_is_woken(nest: Lab) -> None:
    before = sum(GO_ON in u for u in _users(nest))
    _nap(nest)
    nest.run("suspend", "--disk", "owl")
    nest.run("resume", "owl")
    nest.until("told once", lambda: sum(GO_ON in u for u in _users(nest)) == before + 1)
    nest.rest("owl")


def test_what_stood_in_its_queue_when_it_was_interrupted_is_taken_next(nest: Lab) -> None:
    _nap(nest)
    assert nest.json("tell", "--no-tail", "owl", "note 41")["receipt"] == "queued"
    nest.run("tell", "-i", "--no-tail", "owl", "note 42")
    nest.until("both are noted", lambda: {"41", "42"} <= set(_notes(nest)))
    nest.rest("owl")
    assert _notes(nest).count("41") == _notes(nest).count("42") == 1


def test_a_fresh_session_gives_up_what_was_said_to_the_old_one(nest: Lab) -> None:
    _nap(nest)
    nest.run("tell", "--no-tail", "owl", "note 51")
    nest.run("restart", "--fresh-session", "owl")
    kept = [m for m in nest.json("queue", "owl", "--all") if m["text"] == "note 51"]
    assert [m["state"] for m in kept] == ["dropped"]
    nest.rest("owl")
    assert "51" not in _notes(nest)
