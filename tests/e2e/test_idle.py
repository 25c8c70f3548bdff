"""How long real agents may go on: idle is what truth says of them, and no restart forgets a deadline."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e_lab import Lab, lab

from thopter.testing.scripted_model import Scenario, Script, Tool, Turn

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

# At work without a word on any network: the model waits, the tool sleeps.
_QUIET = Tool(name="Bash", input={"command": "while [ ! -e /tmp/go ]; do sleep 0.2; done"})
SCENARIO = Scenario(script=(Script(name="quiet", turns=(Turn(tools=(_QUIET,)), Turn(say="Done."))),))
SOON = "0.03"  # not two seconds


@pytest.fixture(scope="module")
def house() -> Iterator[Lab]:
    """A lab without a thopter."""
    with lab(SCENARIO) as made:
        yield made


def _box(house: Lab, name: str) -> str:
    gone = [v for v in house.json("status", "--all") if v["name"] == name and v["box_state"] == "gone"]
    return str(house.view(name).get("box_state") or ("gone" if gone else ""))


def test_each_policy_does_what_it_says_once_its_box_is_idle_also_after_a_restart(house: Lab) -> None:
    for name in ("calm", "owl"):
        house.run("create", name, "-d", timeout=300)
        house.rest(name)
    house.run("keepalive", "calm", "--idle-timeout", SOON, "--on-idle", "none")
    house.run("keepalive", "owl", "--idle-timeout", SOON, "--on-idle", "suspend")
    house.run("hub", "restart")  # before that time, or after it
    house.until("it is suspended", lambda: _box(house, "owl") == "suspended")
    for policy, state in (("freeze", "frozen"), ("stop", "stopped"), ("destroy", "gone")):
        house.run("resume", "owl")  # it is wanted again: its time begins anew
        house.run("keepalive", "owl", "--on-idle", policy)
        house.until(f"it is {state}", lambda s=state: _box(house, "owl") == s)
    assert _box(house, "calm") == "ready"
    assert not any("its time is over" in line for line in house.json("status", "calm")["log"])
    house.run("destroy", "--yes", "calm")
    assert house.leaks() == []


def test_an_agent_at_work_without_a_word_is_not_idle_and_is_when_its_turn_is_over(house: Lab) -> None:
    times = ("--keep-alive", SOON, "--idle-timeout", SOON)
    house.run("run", "-d", "--name", "mute", *times, "script:quiet", timeout=300)
    lease = house.json("keepalive", "mute", "--show")
    assert (lease["keep_alive"], lease["idle_timeout"]) == (float(SOON), float(SOON))
    house.until("both times are long over", lambda: _now(house) > lease["expires_ms"] + 5_000)
    house.run("hub", "restart")
    view = house.view("mute")
    assert (view["state"], view["box_state"], lease["idle_until_ms"]) == ("working", "ready", 0), view
    house.run("exec", "mute", "--", "touch", "/tmp/go")
    house.until("its turn is over, and so is its time", lambda: _box(house, "mute") == "suspended")
    house.run("destroy", "--yes", "mute")


def _now(house: Lab) -> int:
    """What the box's clock says, which is the hub's."""
    return int(house.run("exec", "mute", "--", "date", "+%s%3N").stdout)


@pytest.mark.parametrize("length", ["-1", "nan", "inf", "soon", "6000000"])
def test_what_is_no_length_of_time_is_refused(house: Lab, length: str) -> None:
    for argv in (("create", "x", "--idle-timeout", length), ("keepalive", "x", "--", length)):
        done = house.run(*argv, check=False)
        assert done.returncode == 2 and "minutes" in done.stderr, done.stderr
