"""Tokens of a run: exactly what the model told, through kill -9 of gateway and hub; no made-up money."""

from __future__ import annotations

import json
import os
import signal
import socket
from typing import Any

import pytest
from e2e_lab import Lab, lab

from thopter.testing.scripted_model import Scenario, Script, Turn, Usage

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

MAIN = Usage(
    input_tokens=1_000, output_tokens=200, cache_read_input_tokens=50_000, cache_creation_input_tokens=300
)
SIDE = Usage(input_tokens=7, output_tokens=3)
SCENARIO = Scenario(
    script=(Script(name="count", turns=(Turn(say="Counted.", usage=MAIN),)),),
    default=(Turn(say="Hello.", usage=MAIN),),
    side=Turn(say="Title", usage=SIDE),
)


def _gateway(made: Lab) -> int:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(made.paths.runtime / "model.sock"))
        sock.sendall(b'{"op":"ping"}\n')
        answer = json.loads(sock.makefile("rb").readline())
    return int(answer["ok"]["pid"])


def _told(made: Lab) -> dict[str, int]:
    """What the scripted model told, by its own log."""
    calls = [
        e.seen
        for e in made.model.exchanges
        if e.seen.path.startswith("/v1/messages") and e.seen.status == 200
    ]
    calls = [c for c in calls if "count_tokens" not in c.path]
    side = sum(c.side for c in calls)
    main = len(calls) - side
    return {
        "requests": len(calls), "input_tokens": 1_000 * main + 7 * side,
        "output_tokens": 200 * main + 3 * side,
        "cache_read_tokens": 50_000 * main, "cache_write_tokens": 300 * main,
    }  # fmt: skip


def _used(made: Lab) -> dict[str, Any]:
    found: dict[str, Any] = made.view("crow").get("usage") or {}
    return found


def test_tokens_are_exactly_what_the_model_told_through_kill_9() -> None:
    with lab(SCENARIO) as made:
        argv = ("run", "-d", "--name", "crow", "--model", "claude-opus-4-5", "script:count")
        made.run(*argv, timeout=300)
        made.rest("crow")
        os.kill(_gateway(made), signal.SIGKILL)
        made.run("tell", "--no-tail", "crow", "once more")
        made.until("the second turn is over", lambda: _told(made)["requests"] > 1 and _rests(made))
        made.kill_hub()
        made.run("hub", "start")
        made.until("all is counted", lambda: _used(made).get("requests") == _told(made)["requests"])
        told, found = _told(made), _used(made)
        assert {k: found[k] for k in told} == told
        by_model = made.json("cost", "crow")["runs"][0]["usage"]["models"]
        assert sum(m["requests"] for m in by_model) == told["requests"]
        where = made.model.url.removeprefix("http://")
        assert {m["model"] for m in by_model} >= {f"claude-opus-4-5@{where}"}
        assert found["cost_usd"] is None, "whoever answers there does not ask the list's prices"
        assert "crow" in made.run("cost").stdout
        assert f"{told['requests']} calls" in made.run("status", "crow").stdout


def _rests(made: Lab) -> bool:
    return bool(made.view("crow").get("reason") == "turn_end")
