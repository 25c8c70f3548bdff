"""Budgets with the real Claude Code: it stops where it shall, can't get around it, goes on when raised."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from e2e_lab import Lab, lab
from test_cost import _gateway

from thopter.testing.scripted_model import Scenario, Script, Tool, Turn, Usage

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

# 1,000 x 3 + 200 x 15 + 10,000 x 0.30 dollars for a million: 0.9 cents a call
CALL = Usage(input_tokens=1_000, output_tokens=200, cache_read_input_tokens=10_000)
CENT = 0.009
LOOP = tuple(
    Turn(say=f"Step {n}.", tools=(Tool("Bash", {"command": f"echo step {n}"}),), usage=CALL)
    for n in range(40)
)
SCENARIO = Scenario(
    script=(Script(name="loop", turns=(*LOOP, Turn(say="All steps done.", usage=CALL))),),
    default=(Turn(say="Hello.", usage=CALL),),
    side=Turn(say="Title", usage=CALL),
)
MODEL = "claude-sonnet-4-5"


def _start(made: Lab, name: str, *argv: str) -> None:
    where = made.model.url.removeprefix("http://")
    made.env["THOPTER_PRICES_ENDPOINTS"] = where
    made.run("run", "-d", "--name", name, "--model", MODEL, *argv, timeout=300)


def _told(made: Lab) -> int:
    """How many calls the scripted model answered."""
    calls = [e.seen for e in made.model.exchanges if e.seen.path == "/v1/messages"]
    return sum(c.status == 200 for c in calls)


def _stopped(made: Lab, name: str) -> Any:
    view = made.view(name)
    return view if (view.get("state"), view.get("reason")) == ("waiting", "budget") else None


def _raw(made: Lab, name: str, body: str) -> str:
    """A call from inside the box, with no agent and no hooks."""
    code = (
        "import os, urllib.request, urllib.error\n"
        "port = os.environ.get('P') or '8401'\n"
        f"q = urllib.request.Request('http://127.0.0.1:' + port + '/v1/messages', data={body.encode()!r}, "
        "headers={'content-type': 'application/json', 'anthropic-version': '2023-06-01'})\n"
        "try:\n    print(urllib.request.urlopen(q, timeout=30).status)\n"
        "except urllib.error.HTTPError as e:\n    print(e.code, e.read().decode())\n"
    )
    return made.run("exec", name, "--", "python3", "-c", code).stdout


def test_an_agent_in_a_loop_stops_at_its_budget_and_goes_on_when_it_is_raised() -> None:
    with lab(SCENARIO) as made:
        _start(made, "heron", "--budget", "0.05usd", "script:loop")
        view = made.until("it is stopped", lambda: _stopped(made, "heron"))
        assert "budget of thopter heron is used up" in view["problem"]
        calls = _told(made)
        found = made.json("budget", "heron")
        (line,) = found["limits"]
        assert (line["what"], line["most"]) == ("usd", 0.05)
        assert line["spent"] == pytest.approx(calls * CENT), "exactly what the model told"
        assert 0.05 <= line["spent"] < 0.05 + CENT, "not one call more than the one that crosses the line"
        assert found["spent"]["turns"] == calls and found["under_way"] == 0
        usage = made.view("heron")["usage"]
        assert usage["cost_usd"] == pytest.approx(line["spent"]), "thopter cost says the same"
        notes = made.until(
            "people are told",
            lambda: [n for n in made.json("notify", "list") if n["note"]["kind"] == "budget"],
        )
        assert {n["note"]["letter"]["title"] for n in notes} >= {"heron has used up its budget"}

        said = _raw(made, "heron", '{"model":"claude-sonnet-4-5","max_tokens":10,"messages":[]}')
        assert said.startswith("402") and "used up" in said, "hooks and agent are not asked"
        os.kill(_gateway(made), signal.SIGKILL)
        made.kill_hub()
        made.run("hub", "start")
        made.until("it is stopped still", lambda: _stopped(made, "heron"))
        said = _raw(made, "heron", '{"model":"claude-sonnet-4-5","max_tokens":10,"messages":[]}')
        assert said.startswith("402") and _told(made) == calls, "kill -9 of gateway and hub forgets nothing"

        raised = made.run("budget", "heron", "--add", "0.45usd")
        assert "0.50" in raised.stdout and "told to go on" in raised.stderr
        made.until("it goes on", lambda: _told(made) > calls)
        made.until("it comes to rest", lambda: made.view("heron").get("reason") == "turn_end")
        spent = made.json("budget", "heron")["limits"][0]["spent"]
        assert spent == pytest.approx(_told(made) * CENT)

        made.run("fork", "heron", "--name", "egret", timeout=300)
        (forked,) = made.json("budget", "egret")["limits"]
        assert (forked["most"], forked["spent"]) == (0.05, 0), "as its original was given, unspent"
