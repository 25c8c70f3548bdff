"""A rate limit with the real Claude Code: shown with its end, waited for, and gone on after by itself."""

from __future__ import annotations

import time

import pytest
from e2e_lab import lab

from thopter.testing.scripted_model import Scenario, Script, Turn

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

SCENARIO = Scenario(
    script=(
        Script(
            name="slow",
            turns=(Turn(say="At last.", status=429, message="slow down", retry_after=15, fail_first=1),),
        ),
    ),
)


def test_a_limited_run_shows_when_it_goes_on_and_does() -> None:
    with lab(SCENARIO) as made:
        made.run("run", "--no-wait", "--name", "crow", "script:slow")
        view = made.until(
            "it is held up", lambda: (v := made.view("crow")).get("reason") == "rate_limit" and v
        )
        assert view["state"] == "waiting"
        assert abs(view["resets_ms"] / 1000 - time.time()) < 16
        shown = made.run("status", "crow").stdout
        assert "over at" in shown and "goes on by itself" in shown
        made.until("it went on", lambda: made.view("crow").get("reason") == "turn_end")
        calls = [e.seen for e in made.model.exchanges if e.seen.script == "slow"]
        assert [c.status for c in calls] == [429, 200], "nobody hammered"
        assert "At last." in made.run("tail", "crow").stdout
