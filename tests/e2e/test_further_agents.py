"""Several real agents in one box: each is shown for what it does, and the run stays what it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from e2e_lab import Lab, lab

from thopter.testing.scripted_model import Scenario, Script, Tool, Turn

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

CLAUDE = "/opt/thopter/claude/bin/claude"
_NESTED = f"{CLAUDE} -p --dangerously-skip-permissions 'script:quiet' </dev/null >/dev/null"
_WAITS = "while [ ! -e /tmp/go ]; do sleep 0.2; done"


def _script(name: str, command: str, said: str, first: str = "") -> Script:
    call = Tool(name="Bash", input={"command": command})
    return Script(name=name, turns=(Turn(say=first, tools=(call,)), Turn(say=said)))


SCENARIO = Scenario(
    script=(
        _script("nest", _NESTED, "Nest done."),
        _script("quiet", _WAITS, "Quiet done.", "Looking."),
        _script("ask", "touch /work/asked", "Asked done.", "May I?"),
    )
)


@pytest.fixture(scope="module")
def house() -> Iterator[Lab]:
    """A lab without a thopter."""
    with lab(SCENARIO) as made:
        yield made


def _other(house: Lab, name: str) -> dict[str, Any]:
    """The newest further agent, or an empty dict."""
    agents = house.view(name).get("agents") or [{}]
    return dict(agents[-1])


def _sure(house: Lab, name: str, state: str, reason: str = "") -> dict[str, Any]:
    def found() -> dict[str, Any]:
        other = _other(house, name)
        return other if (other.get("state"), other.get("reason")) == (state, reason) else {}

    return dict(house.until(f"its other agent is {state} {reason}", found))


def test_agents_that_the_agent_and_a_person_start_are_shown_and_never_taken_for_the_runs(house: Lab) -> None:
    name = f"bee{sum(v['name'].startswith('bee') for v in house.json('status', '--all'))}"
    house.run("run", "-d", "--name", name, "script:nest", timeout=300)
    _nested(house, name)
    _a_persons(house, name)


def _nested(house: Lab, name: str) -> None:
    nested = _sure(house, name, "working")
    house.until("it is known what it is", lambda: _other(house, name)["by"])
    nested = _other(house, name)
    assert (nested["name"], nested["by"], nested["headless"]) == (f"{name}.2", "agent", True)
    house.until("its last words", lambda: _other(house, name)["last_message"] == "Looking.")
    view = house.view(name)
    assert view["state"] == "working" and view["last_message"] == "script:nest"
    text = house.run("status", name).stdout
    assert "Also in this box:" in text and f"{name}.2  working" in text and "because hook" in text
    assert "claude +1" in house.run("status").stdout
    house.kill_hub()
    again = house.until("the next hub shows it", lambda: house.view(name).get("agents"))
    assert [(a["number"], a["session"], a["pid"]) for a in again] == [(2, nested["session"], nested["pid"])]
    assert again[0]["state"] == "working"
    house.run("exec", name, "--", "touch", "/tmp/go")
    _sure(house, name, "ended")
    house.rest(name)
    house.until("the run's own last words", lambda: house.view(name)["last_message"] == "Nest done.")
    said = house.run("tail", name).stdout
    assert "Nest done." in said and "Quiet done." not in said and "Looking." not in said


def _a_persons(house: Lab, name: str) -> None:
    """In a window of the box's tmux, from a login shell, as ``thopter attach`` gives one."""
    words = f"{CLAUDE} --permission-mode default -- script:ask; exec sleep 600"
    argv = ["tmux", "-S", "/run/thopter/tmux.sock", "new-window", "-d", "-t", "agent", "bash", "-lc", words]
    house.run("exec", name, "--", *argv)
    asks = _sure(house, name, "waiting", "permission")
    house.run("keepalive", name, "--idle-timeout", "0.03", "--on-idle", "freeze")  # not two seconds
    from_now = time.monotonic()
    assert (asks["name"], asks["by"], asks["headless"]) == (f"{name}.3", "person", False)
    house.until("where it is", lambda: _other(house, name)["pane"] == "agent:1.0")
    assert f"{name}.3 asks for permission" in house.run("status").stdout
    (asked,) = house.json("approvals", name)
    assert asked["agent"] == f"{name}.3" and asked["input"]["command"] == "touch /work/asked"
    house.until("it was idle for longer than allowed", lambda: time.monotonic() - from_now > 5)
    view = house.view(name)
    assert (view["state"], view["reason"], view["box_state"]) == ("waiting", "turn_end", "ready")
    house.run("approve", name)
    done = _sure(house, name, "waiting", "turn_end")
    theirs = house.until(
        "it is written", lambda: [x for x in [house.run("tail", f"{name}.3").stdout] if "Asked" in x]
    )
    assert "May I?" in theirs[0] and "Nest done." not in theirs[0]
    unknown = house.run("tail", f"{name}.9", check=False)
    assert unknown.returncode == 3 and f"{name}.2, {name}.3" in unknown.stderr
    house.until("its last words", lambda: _other(house, name)["last_message"] == "Asked done.")
    since = view["since_ms"]
    house.until("now that all rest, so does the box", lambda: house.view(name)["box_state"] == "frozen")
    view = house.view(name)
    assert view["since_ms"] == since and view["last_message"] == "Nest done."  # nothing was taken for its own
    house.run("keepalive", name, "--on-idle", "none")
    house.run("thaw", name)
    house.run("exec", name, "--", "kill", "-9", str(done["pid"]))
    ended = _sure(house, name, "ended")
    assert "not known" in ended["problem"] and len(house.view(name)["agents"]) == 2
