"""Messages to a busy agent, interrupts, and work that goes on in the background."""

from __future__ import annotations

import os
import signal

import pytest
from claude_lab import SLEEP, Lab, bash, live, scenario, tool, versions

from thopter.model.evidence import Fact
from thopter.model.nouns import Role

pytestmark = [pytest.mark.claude, pytest.mark.timeout(240)]

TOOL = {"name": "tool", "turns": [{"say": "one", "tools": [bash(SLEEP.format(4))]}, {"say": "finished"}]}
STREAM = {"name": "stream", "turns": [{"say": "word " * 300, "chunk_ms": 200}]}
SILENT = {"name": "silent", "turns": [{"stall_after": 0, "say": "never"}]}
LONG_TOOL = {"name": "long", "turns": [{"tools": [bash(SLEEP.format(60))]}, {"say": "x"}]}


def busy(lab: Lab) -> bool:
    return lab.status() is Fact.BUSY


@versions
@live
async def test_a_message_to_a_busy_agent_is_queued_and_gets_into_the_running_turn(version: str) -> None:
    async with Lab(version, scenario(TOOL), prompt="script:tool go") as lab:
        lab.start()
        await lab.until("the tool", lambda: lab.events("PreToolUse"))
        assert lab.agent.read_screen(lab.screen(), 0).evidence[0].fact is Fact.BUSY
        await lab.say("also this\nsecond line `x`")
        queued = await lab.until(
            "the receipt", lambda: [r for r in lab.readings() if r.receipt_kind == "queued"]
        )
        assert [r.receipt for r in queued] == ["also this\nsecond line `x`"]
        await lab.rest(1)
        assert lab.asked()[-1].prompt == "also this\nsecond line `x`"
        said = [e.text for e in lab.entries() if e.role is Role.USER]
        assert said == ["script:tool go", "also this\nsecond line `x`"]
        taken = [r.receipt for r in lab.readings() if r.receipt_kind == "taken"]
        assert taken == said
        # It is part of the running turn, so it starts none.
        assert [e.detail for e in lab.told(Fact.TURN_STARTED)] == ["prompt"]


@versions
@live
async def test_a_message_queued_while_it_speaks_becomes_the_next_turn(version: str) -> None:
    speech = {"name": "speech", "turns": [{"say": "word " * 40, "chunk_ms": 250}]}
    async with Lab(version, scenario(speech), prompt="script:speech go") as lab:
        lab.start()
        await lab.until("the speech", lambda: "word word" in lab.screen())
        await lab.say("and then this")
        await lab.rest(2)
        assert [s.prompt for s in lab.asked()] == ["script:speech go", "and then this"]
        started = lab.told(Fact.TURN_STARTED)
        assert len(started) == 2
        first_end = lab.events("Stop")[0].at_ms
        assert started[1].at_ms >= first_end - 250


@versions
@live
async def test_an_interrupt_stops_the_speech_and_leaves_an_empty_prompt(version: str) -> None:
    async with Lab(version, scenario(STREAM), prompt="script:stream go") as lab:
        lab.start()
        await lab.until("the speech", lambda: "word word" in lab.screen())
        await lab.press(lab.agent.interrupt())
        await lab.until("idle", lambda: lab.status() is Fact.IDLE)
        await lab.until("the mark in the transcript", lambda: lab.told(Fact.INTERRUPTED))
        assert lab.events("Stop") == []
        assert lab.input_line() == ""
        assert Role.SYSTEM in {e.role for e in lab.entries()}
        lab.model.scenario = scenario({"name": "stream", "turns": [{"say": "brief"}]})
        await lab.say("go on with this")
        await lab.rest(1)
        assert lab.asked()[-1].prompt == "go on with this"


@versions
@live
async def test_an_interrupt_before_any_answer_leaves_its_mark_and_no_words_in_the_prompt(
    version: str,
) -> None:
    words = "script:silent\n" + "\n".join(f"line {n} of a longer task" for n in range(20))
    async with Lab(version, scenario(SILENT)) as lab:
        lab.start()
        await lab.up()
        await lab.say(words)
        await lab.until("the request", lambda: lab.asked())
        await lab.until("busy", lambda: busy(lab))
        await lab.press(lab.agent.interrupt())
        await lab.until("idle", lambda: lab.status() is Fact.IDLE)
        await lab.until("the mark in the transcript", lambda: lab.told(Fact.INTERRUPTED))
        assert lab.input_line() == ""
        lab.model.scenario = scenario({"name": "silent", "turns": [{"say": "brief"}]})
        await lab.say("something else")
        await lab.rest(1)
        assert lab.asked()[-1].prompt == "something else"


@versions
@live
async def test_an_interrupt_ends_a_tool(version: str) -> None:
    async with Lab(version, scenario(LONG_TOOL), prompt="script:long go") as lab:
        lab.start()
        await lab.until("the tool", lambda: lab.events("PreToolUse"))
        await lab.press(lab.agent.interrupt())
        await lab.until("idle", lambda: lab.status() is Fact.IDLE)
        await lab.until("the mark in the transcript", lambda: lab.told(Fact.INTERRUPTED))
        results = [e for e in lab.entries() if e.role is Role.TOOL_RESULT]
        assert len(results) == 1
        assert results[0].is_error


@versions
@live
async def test_an_interrupt_reaches_an_agent_that_is_too_busy_to_read_at_once(version: str) -> None:
    async with Lab(version, scenario(STREAM), prompt="script:stream go") as lab:
        lab.start()
        await lab.until("the speech", lambda: "word word" in lab.screen())
        agent = int(lab.pane("#{pane_pid}"))
        os.kill(agent, signal.SIGSTOP)
        try:
            await lab.press(lab.agent.interrupt())
        finally:
            os.kill(agent, signal.SIGCONT)
        await lab.until("idle", lambda: lab.status() is Fact.IDLE)
        assert lab.input_line() == ""


@versions
@live
async def test_interrupting_an_idle_agent_again_and_again_does_no_harm(version: str) -> None:
    async with Lab(version, scenario()) as lab:
        lab.start()
        await lab.up()
        for _ in range(3):
            await lab.press(lab.agent.interrupt())
        assert lab.pane("#{pane_dead}") == "0"
        await lab.say("still there?")
        await lab.rest(1)
        assert lab.asked()[-1].prompt == "still there?"


@versions
@live
async def test_a_turn_that_leaves_work_in_the_background_says_so_and_it_wakes_by_itself(version: str) -> None:
    work = bash(SLEEP.format(3) + "; echo over", run_in_background=True)
    script = {"name": "bg", "turns": [{"tools": [work]}, {"say": "started"}, {"say": "noticed"}]}
    async with Lab(version, scenario(script), prompt="script:bg go") as lab:
        lab.start()
        await lab.rest(2)
        ends = [e for h in lab.events("Stop") for e in h.reading.evidence]
        assert [e.fact for e in ends] == [Fact.TURN_ENDED, Fact.TURN_ENDED]
        assert [e.data.get("background") for e in ends] == [1, None]
        woken = lab.events("UserPromptSubmit")[-1]
        assert woken.reading.receipt == ""
        assert woken.reading.evidence[0].fact is Fact.TURN_STARTED
        assert [e.text for e in lab.entries() if e.role is Role.USER] == ["script:bg go"]


@versions
@live
async def test_a_subagent_is_told_apart(version: str) -> None:
    ask = tool("Agent", description="sub", prompt="script:subwork do it", subagent_type="general-purpose")
    scripts = (
        {"name": "sub", "turns": [{"tools": [ask]}, {"say": "sub finished"}]},
        {"name": "subwork", "turns": [{"tools": [bash("echo from-sub")]}, {"say": "sub result text"}]},
    )
    async with Lab(version, scenario(*scripts), prompt="script:sub go") as lab:
        lab.start()
        await lab.until("the subagent's end", lambda: lab.events("SubagentStop"))
        await lab.until("its words", lambda: any(e.text == "sub result text" for e in lab.entries()))
        await lab.rest(1)
        side = [e for e in lab.entries() if e.sidechain]
        assert [e.role for e in side] == [Role.USER, Role.TOOL_USE, Role.TOOL_RESULT, Role.ASSISTANT]
        assert {e.session for e in side} == {lab.ctx.session}
        uses = [e for h in lab.events("PostToolUse") for e in h.reading.evidence if e.data["tool"] == "Bash"]
        assert [e.data.get("side") for e in uses] == [True]
        # Its prompt is no turn of the agent.
        assert len([e for e in lab.told(Fact.TURN_STARTED) if e.data.get("side")]) == 0
