"""Approvals: asked by the real Claude Code, answered here, at its terminal, and across kill -9 of all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from e2e_lab import Lab, lab

from thopter.testing.scripted_model import Scenario, Script, Tool, Turn

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]


def _touch(name: str) -> Script:
    made = Tool(name="Bash", input={"command": f"echo {name} >> /etc/{name}", "description": "write it"})
    return Script(name=name, turns=(Turn(tools=(made,)), Turn(say=f"So much for {name}.")))


_QUESTION = {
    "question": "Which colour?", "header": "Colour", "multiSelect": False,
    "options": [{"label": "Red", "description": "r"}, {"label": "Blue", "description": "b"}],
}  # fmt: skip
NAMES = ("yes", "no", "other", "race", "dead1", "dead2", "dead3", "boxd")
SCENARIO = Scenario(
    script=(
        *map(_touch, NAMES),
        # Not in /etc: what was allowed there for the run must not cover it.
        Script(
            name="ended",
            turns=(
                Turn(tools=(Tool(name="Bash", input={"command": "mkfifo /root/ended"}),)),
                Turn(say="No."),
            ),
        ),
        Script(
            name="colour",
            turns=(
                Turn(tools=(Tool(name="AskUserQuestion", input={"questions": [_QUESTION]}),)),
                Turn(say="A fine colour."),
            ),
        ),
        Script(
            name="twice",
            turns=(
                Turn(tools=(Tool(name="Bash", input={"command": "mkdir /etc/one"}),)),
                Turn(tools=(Tool(name="Bash", input={"command": "mkdir /etc/two"}),)),
                Turn(say="Both made."),
            ),
        ),
    )
)


@pytest.fixture(scope="module")
def asks() -> Iterator[Lab]:
    """One thopter ``wren`` that must ask, at its prompt, for all tests of this file."""
    with lab(SCENARIO) as made:
        made.run("run", "-d", "--name", "wren", "--permission-mode", "default", "hello", timeout=300)
        made.rest("wren")
        yield made


def ask(made: Lab, script: str) -> dict[str, Any]:
    """Have wren come to its ask; what it asks is one open approval."""
    made.until("wren rests", lambda: made.view("wren").get("reason") == "turn_end")
    made.run("tell", "--no-tail", "wren", f"script:{script} go")
    found: list[dict[str, Any]] = made.until("it asks", lambda: made.json("approvals", "wren"))
    assert [a["state"] for a in found] == ["open"]
    return found[0]


def state(made: Lab, key: str) -> str:
    found = next(a for a in made.json("approvals", "wren", "-a") if a["id"] == key)
    return str(found["state"])


def there(made: Lab, name: str) -> str:
    """What stands in the file that the tool was to write, or nothing."""
    done = made.run("exec", "wren", "--", "cat", f"/etc/{name}", check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def press(made: Lab, key: str) -> None:
    """A key at the agent's own terminal."""
    tmux = ("tmux", "-S", "/run/thopter/tmux.sock", "send-keys", "-t", "agent:0.0", key)
    made.run("exec", "wren", "--", *tmux)


def over(made: Lab) -> str:
    """Wait for the turn's end and return what the model was told last."""
    made.until("the turn is over", lambda: made.view("wren").get("reason") == "turn_end")
    lines = made.run("log", "wren", "--json").stdout.splitlines()[-6:]
    return "\n".join(json.loads(line)["text"] for line in lines)


def test_what_is_asked_is_shown_everywhere_and_runs_when_it_is_approved(asks: Lab) -> None:
    asked = ask(asks, "yes")
    assert (asked["kind"], asked["tool"]) == ("permission", "Bash")
    assert asked["input"]["command"] == "echo yes >> /etc/yes"
    assert "echo yes" in asks.run("approvals").stdout
    assert asked["id"][-6:] in asks.run("status", "wren").stdout
    assert asks.view("wren")["approvals"] == 1
    assert there(asks, "yes") == ""
    asks.run("approve", "wren")
    over(asks)
    assert there(asks, "yes") == "yes"
    assert state(asks, asked["id"]) == "approved"
    again = asks.run("approve", "wren", check=False)
    assert again.returncode == 3 and "asks for nothing" in again.stderr
    said = asks.run("logs", "wren").stdout
    assert "approval.asked" in said and "approval.answered" in said
    given = asks.json("audit", "--kind", "approval.given")[-1]
    assert f"uid {os.getuid()}" in given["by"] and given["name"] == "wren"
    assert (given["data"]["digest"], given["data"]["allow"]) == (asked["digest"], True)


def test_a_no_is_heard_by_the_model_in_the_persons_words(asks: Lab) -> None:
    asked = ask(asks, "no")
    asks.run("deny", "wren", "not in /etc, you bird")
    assert "not in /etc, you bird" in over(asks)
    assert there(asks, "no") == "" and state(asks, asked["id"]) == "denied"


def test_who_answers_at_the_terminal_first_has_answered(asks: Lab) -> None:
    asked = ask(asks, "other")
    asks.until("the dialog", lambda: "Do you want to proceed" in _screen(asks))
    press(asks, "1")
    over(asks)
    assert there(asks, "other") == "other"
    assert asks.until("it is told", lambda: state(asks, asked["id"]) == "elsewhere")
    assert "answered elsewhere" in asks.run("approvals", "-a").stdout


def _screen(made: Lab) -> str:
    tmux = ("tmux", "-S", "/run/thopter/tmux.sock", "capture-pane", "-p", "-t", "agent:0.0")
    return made.run("exec", "wren", "--", *tmux).stdout


def test_an_answer_to_something_else_is_refused(asks: Lab) -> None:
    from thopter.mesh.approvals import ApprovalsClient
    from thopter.mesh.client import HubClient
    from thopter.model.api.approvals import AnswerRequest
    from thopter.model.errors import Conflict

    asked = ask(asks, "race")
    with HubClient(asks.paths.hub_socket) as hub:
        client = ApprovalsClient(hub)
        (found,) = client.asked("wren")
        with pytest.raises(Conflict, match="not what you were shown"):
            client.answer(found, AnswerRequest(digest="0" * 64, allow=True))
        assert state(asks, asked["id"]) == "open"
        assert client.answer(found, AnswerRequest(digest=found.digest, allow=True)).state == "approved"
        with pytest.raises(Conflict, match="approved already"):
            client.answer(found, AnswerRequest(digest=found.digest, allow=False))
    over(asks)
    assert there(asks, "race") == "race"


@pytest.mark.parametrize(
    ("point", "script"),
    [("approval.decided", "dead1"), ("approval.recorded", "dead2"), ("approval.given", "dead3")],
)
def test_a_hub_that_dies_while_it_answers_answers_once(asks: Lab, point: str, script: str) -> None:
    asks.run("hub", "stop")
    asks.run("hub", "start", env={"THOPTER_FAILPOINT": point})
    asked = ask(asks, script)
    asks.run("approve", "wren", check=False)  # its hub dies under it
    asks.until("another hub", lambda: asks.run("hub", "start", check=False).returncode == 0)
    over(asks)
    assert there(asks, script) == script
    assert state(asks, asked["id"]) == "approved"


def test_an_approval_of_a_boxd_that_died_expires_and_the_terminal_still_answers(asks: Lab) -> None:
    asked = ask(asks, "boxd")
    asks.run("exec", "wren", "--", "sh", "-c", "kill -9 $(pgrep -o -P 1)", check=False)
    asks.until("it expired", lambda: state(asks, asked["id"]) == "expired")
    late = asks.run("approve", "wren", check=False)
    assert late.returncode == 3
    press(asks, "1")
    over(asks)
    assert there(asks, "boxd") == "boxd"


def test_a_question_gets_the_persons_answer(asks: Lab) -> None:
    asked = ask(asks, "colour")
    assert (asked["kind"], asked["questions"][0]["options"]) == ("question", ["Red", "Blue"])
    bare = asks.run("approve", "wren", check=False)
    assert bare.returncode == 2 and "--answer" in bare.stderr
    asks.run("approve", "wren", "--answer", "Blue")
    assert "Blue" in over(asks)
    assert state(asks, asked["id"]) == "approved"


def test_for_the_run_means_that_it_does_not_ask_again(asks: Lab) -> None:
    asked = ask(asks, "twice")
    assert "/etc" in asked["for_run"]
    done = asks.run("approve", "wren", "--for-run")
    assert "for this run also" in done.stdout
    over(asks)
    assert asks.run("exec", "wren", "--", "ls", "-d", "/etc/one", "/etc/two").returncode == 0


def test_what_an_agent_asked_that_ended_is_expired_not_answered(asks: Lab) -> None:
    asked = ask(asks, "ended")
    asks.run("stop", "wren")
    asks.until("it expired", lambda: state(asks, asked["id"]) == "expired")
    assert "the agent ended" in asks.run("approvals", "wren", "-a").stdout
