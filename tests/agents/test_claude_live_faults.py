"""The real Claude Code when its model fails, when it is killed, and when it leaves."""

from __future__ import annotations

import os
import signal

import pytest
from claude_lab import SLEEP, Lab, bash, live, scenario, versions

from thopter.model.evidence import Fact
from thopter.model.nouns import Role
from thopter.model.sockets import Keys

pytestmark = [pytest.mark.claude, pytest.mark.timeout(240)]

FAILURES = {
    "limit": ({"status": 429, "message": "slow down", "retry_after": 1}, "rate_limit"),
    "overload": ({"status": 529, "message": "Overloaded"}, "server_error"),
    "broken": ({"status": 500, "message": "boom"}, "server_error"),
    "key": ({"status": 401, "message": "invalid x-api-key"}, "authentication_failed"),
    "bad": ({"status": 400, "message": "bad thing"}, "unknown"),
    "cut": ({"say": "word " * 40, "drop_after": 3}, "server_error"),
    "refused": ({"say": "word", "drop_after": 0}, "server_error"),
}


@versions
@live
async def test_a_failing_model_ends_the_turn_with_its_reason_and_the_next_one_works(version: str) -> None:
    scripts = [{"name": name, "turns": [turn]} for name, (turn, _word) in FAILURES.items()]
    async with Lab(version, scenario(*scripts, {"name": "well", "turns": [{"say": "ok"}]})) as lab:
        lab.start()
        await lab.up()
        for number, (name, (_turn, word)) in enumerate(FAILURES.items(), 1):
            await lab.say(f"script:{name} go")
            await lab.rest(number)
            told = lab.events("StopFailure")[-1].reading.evidence[0]
            assert (told.fact, told.data) == (Fact.TURN_FAILED, {"error": word}), name
            read = await lab.until("the transcript", lambda n=number: lab.told(Fact.TURN_FAILED)[n - 1 :])
            assert (read[0].data["error"], read[0].detail) == (word, told.detail), name
        errors = [e for e in lab.entries() if e.is_error]
        assert [e.role for e in errors] == [Role.SYSTEM] * len(FAILURES)
        await lab.say("script:well again?")
        await lab.rest(len(FAILURES) + 1)
        assert lab.events("Stop")[-1].reading.evidence[0].fact is Fact.TURN_ENDED


@versions
@live
async def test_a_model_that_recovers_is_tried_again_without_a_word(version: str) -> None:
    shaky = {"name": "shaky", "turns": [{"say": "here I am", "status": 529, "fail_first": 2}]}
    retries = {"CLAUDE_CODE_MAX_RETRIES": "4"}
    async with Lab(version, scenario(shaky), prompt="script:shaky go", env=retries) as lab:
        lab.start()
        await lab.rest(1)
        assert [s.status for s in lab.asked()] == [529, 529, 200]
        assert [s.attempt for s in lab.asked()] == [1, 2, 3]
        assert lab.facts() == [Fact.SESSION_STARTED, Fact.TURN_STARTED, Fact.TURN_ENDED]
        assert lab.entries()[-1].text == "here I am"


@versions
@live
async def test_killed_in_a_tool_it_says_nothing_and_resumes_where_it_was(version: str) -> None:
    script = {
        "name": "work",
        "turns": [{"say": "one", "tools": [bash(SLEEP.format(60))]}, {"say": "two"}],
    }
    async with Lab(version, scenario(script), prompt="script:work go") as lab:
        lab.start()
        await lab.until("the tool", lambda: lab.events("PreToolUse"))
        # What was not yet in the transcript when it died is gone; without a line of it nothing resumes.
        await lab.until("the transcript", lambda: [e for e in lab.entries() if e.role is Role.TOOL_USE])
        os.kill(int(lab.pane("#{pane_pid}")), signal.SIGKILL)
        await lab.until("its death", lambda: lab.pane("#{pane_dead}") == "1")
        assert lab.events("SessionEnd") == []
        before = [e.key for e in lab.entries()]
        lab.start(lab.agent.resume(lab.ctx))
        await lab.until("the resumed session", lambda: len(lab.events("SessionStart")) == 2)
        assert lab.events("SessionStart")[-1].reading.session == lab.ctx.session
        await lab.until("idle", lambda: lab.status() is Fact.IDLE)
        await lab.say("go on")
        await lab.rest(1)
        assert lab.asked()[-1].prompt == "go on"
        assert lab.asked()[-1].messages > 3  # it has the conversation from before
        assert [e.key for e in lab.entries()][: len(before)] == before


@versions
@live
async def test_leaving_ends_the_session_with_exit_code_zero(version: str) -> None:
    async with Lab(version, scenario()) as lab:
        lab.start()
        await lab.up()
        await lab.press((Keys(text="/exit", pause_ms=400), Keys(keys=("Enter",))))
        await lab.until("its end", lambda: lab.pane("#{pane_dead}") == "1")
        assert lab.pane("#{pane_dead_status}") in ("0", "")  # tmux 3.3a loses it now and then
        await lab.until("the goodbye", lambda: Fact.SESSION_ENDED in lab.facts())
        ended = lab.events("SessionEnd")[-1].reading.evidence[0]
        assert (ended.fact, ended.data["reason"]) == (Fact.SESSION_ENDED, "prompt_input_exit")


@versions
@live
async def test_terminated_from_outside_it_says_goodbye(version: str) -> None:
    async with Lab(version, scenario()) as lab:
        lab.start()
        await lab.up()
        os.kill(int(lab.pane("#{pane_pid}")), signal.SIGTERM)
        await lab.until("its end", lambda: lab.pane("#{pane_dead}") == "1")
        await lab.until("the goodbye", lambda: Fact.SESSION_ENDED in lab.facts())
