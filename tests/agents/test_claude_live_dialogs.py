"""Permissions and questions of the real Claude Code, answered by a held hook."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from claude_lab import Hook, Lab, live, scenario, tool, versions

from thopter.agents.claude.prepare import HOLD_SECONDS
from thopter.model.evidence import Fact

pytestmark = [pytest.mark.claude, pytest.mark.timeout(240)]

WRITE = {
    "name": "write",
    "turns": [{"tools": [tool("Write", file_path="${cwd}/new.txt", content="x\n")]}, {"say": "over"}],
}
QUESTION = {
    "question": "Which colour?",
    "header": "Colour",
    "multiSelect": False,
    "options": [{"label": "Red", "description": "r"}, {"label": "Blue", "description": "b"}],
}
ASK = {"name": "ask", "turns": [{"tools": [tool("AskUserQuestion", questions=[QUESTION])]}, {"say": "over"}]}
FINE = {"name": "fine", "turns": [{"say": "yes"}]}
ASKING = {"permission_mode": "default"}


class Held:
    """Holds a hook until the test answers it."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def __call__(self, hook: Hook) -> bytes:
        decision = {"hookEventName": "PermissionRequest", "decision": await self.answer}
        return json.dumps({"hookSpecificOutput": decision}).encode()


@versions
@pytest.mark.parametrize("behavior", ["allow", "deny"])
@live
async def test_a_held_permission_is_decided_by_the_answer(version: str, behavior: str) -> None:
    async with Lab(version, scenario(WRITE, FINE), prompt="script:write go", settings=ASKING) as lab:
        held = lab.answers["PermissionRequest"] = Held()
        lab.start()
        await lab.until("the request", lambda: lab.events("PermissionRequest"))
        asked = lab.events("PermissionRequest")[0]
        assert asked.query["hold"] == str(HOLD_SECONDS)
        ask = asked.reading.evidence[0]
        assert (ask.fact, ask.data["tool"]) == (Fact.PERMISSION_ASKED, "Write")
        assert f"{lab.cwd}/new.txt" in ask.detail
        await lab.until("the dialog", lambda: "Do you want to" in lab.screen())
        assert lab.agent.read_screen(lab.screen(), 0).evidence[0].fact is Fact.PERMISSION_ASKED
        await lab.until("the status", lambda: lab.status() is Fact.PERMISSION_ASKED)
        held.answer.set_result({"behavior": behavior, **({"message": "no"} if behavior == "deny" else {})})
        await lab.rest(1)
        assert (lab.cwd / "new.txt").exists() == (behavior == "allow")
        if behavior == "allow":
            use = lab.events("PostToolUse")[0].reading.evidence[0]
            assert use.data["call"] == ask.data["call"]
        assert "Do you want to" not in lab.screen()


@versions
@live
async def test_a_person_at_the_terminal_may_answer_first(version: str) -> None:
    async with Lab(version, scenario(WRITE, FINE), prompt="script:write go", settings=ASKING) as lab:
        held = lab.answers["PermissionRequest"] = Held()
        lab.start()
        await lab.until("the dialog", lambda: "Do you want to" in lab.screen())
        lab.tmux("send-keys", "-t", "agent", "1")
        await lab.rest(1)
        assert (lab.cwd / "new.txt").exists()
        held.answer.set_result({"behavior": "deny", "message": "too late"})
        await lab.say("script:fine?")
        await lab.rest(2)


@versions
@live
async def test_escape_at_a_permission_is_an_interrupt(version: str) -> None:
    async with Lab(version, scenario(WRITE, FINE), prompt="script:write go", settings=ASKING) as lab:
        held = lab.answers["PermissionRequest"] = Held()
        lab.start()
        await lab.until("the dialog", lambda: "Do you want to" in lab.screen())
        await lab.press(lab.agent.interrupt())
        await lab.until("idle", lambda: lab.status() is Fact.IDLE)
        await lab.until("the mark in the transcript", lambda: lab.told(Fact.INTERRUPTED))
        assert not (lab.cwd / "new.txt").exists()
        held.answer.set_result({"behavior": "allow"})
        await lab.say("script:fine?")
        await lab.rest(1)
        assert not (lab.cwd / "new.txt").exists()


@versions
@live
async def test_a_question_is_a_question_even_when_everything_is_permitted(version: str) -> None:
    async with Lab(version, scenario(ASK), prompt="script:ask go") as lab:
        held = lab.answers["PermissionRequest"] = Held()
        lab.start()
        await lab.until("the request", lambda: lab.events("PermissionRequest"))
        hook = lab.events("PermissionRequest")[0]
        ask = hook.reading.evidence[0]
        assert (ask.fact, ask.detail) == (Fact.QUESTION_ASKED, "PermissionRequest Which colour?")
        await lab.until("the dialog", lambda: "Which colour?" in lab.screen())
        await lab.until("a sign on the screen", lambda: lab.agent.read_screen(lab.screen(), 0).evidence)
        assert lab.agent.read_screen(lab.screen(), 0).evidence[0].fact is Fact.QUESTION_ASKED
        given = {**hook.body["tool_input"], "answers": {"Which colour?": "Blue"}}
        held.answer.set_result({"behavior": "allow", "updatedInput": given})
        await lab.rest(1)
        use = lab.events("PostToolUse")[0].reading.evidence[0]
        assert (use.fact, use.data["call"]) == (Fact.ACTIVITY, ask.data["call"])
        assert any("Blue" in e.text for e in lab.entries())
