"""The real Claude Code comes up with no question asked and does its first task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from claude_cli import PINNED
from claude_lab import TOKEN, Lab, bash, live, scenario, tool, versions
from msgspec import structs

from thopter.agents.claude.launch import PROMPT_MAX
from thopter.model.evidence import Fact
from thopter.model.nouns import Role

pytestmark = [pytest.mark.claude, pytest.mark.timeout(240)]

COMMIT = "git add -A && git commit -qm 'add hello' && git log --format=%s"
HELLO = {
    "name": "hello",
    "match": "write a greeting",
    "turns": [
        {
            "think": "A file, then.",
            "say": "I write the file.",
            "tools": [tool("Write", file_path="${cwd}/hello.py", content="print('hi')\n")],
        },
        {"tools": [bash(COMMIT)]},
        {"say": "Done: hello.py is committed."},
    ],
}


@versions
@live
async def test_it_comes_up_silently_and_works_on_its_prompt(version: str) -> None:
    async with Lab(version, scenario(HELLO), prompt="please write a greeting") as lab:
        lab.start()
        await lab.rest(1)
        assert lab.git("log", "--format=%s") == "add hello"
        assert (lab.cwd / "hello.py").read_text() == "print('hi')\n"

        assert {h.token for h in lab.hooks} == {f"Bearer {TOKEN}"}
        assert {h.query["run"] for h in lab.hooks} == {"run_lab"}
        assert {h.reading.session for h in lab.hooks} == {lab.ctx.session}
        facts = lab.facts()
        assert facts[:2] == [Fact.SESSION_STARTED, Fact.TURN_STARTED]
        assert facts[-1] is Fact.TURN_ENDED
        assert set(facts[2:-1]) == {Fact.ACTIVITY}
        root, _glob = lab.agent.transcript_root(lab.ctx)
        assert Path(lab.hooks[-1].reading.transcript).is_relative_to(root)

        told = [(e.role, e.summary) for e in lab.entries()]
        assert told == [
            (Role.USER, "please write a greeting"),
            (Role.ASSISTANT, "I write the file."),
            (Role.TOOL_USE, f"Write: {lab.cwd}/hello.py"),
            (Role.TOOL_RESULT, told[3][1]),
            (Role.TOOL_USE, f"Bash: {COMMIT}"),
            (Role.TOOL_RESULT, "add hello"),
            (Role.ASSISTANT, "Done: hello.py is committed."),
        ]
        assert "created successfully" in told[3][1]
        times = [e.at_ms for e in lab.entries()]
        assert times == sorted(times)
        assert lab.hooks[0].at_ms <= times[0] <= times[-1] <= lab.hooks[-1].at_ms
        assert lab.agent.read_screen(lab.screen(), 0).evidence[0].fact is Fact.IDLE
        assert {s.credential for s in lab.asked()} == {lab.asked()[0].credential}


@versions
@live
async def test_without_a_task_it_waits_at_its_prompt(version: str) -> None:
    async with Lab(version, scenario()) as lab:
        lab.start()
        await lab.up()
        assert lab.facts() == [Fact.SESSION_STARTED]
        assert lab.asked() == []
        assert lab.agent.read_screen(lab.screen(), 0).evidence[0].fact is Fact.IDLE


@versions
@pytest.mark.parametrize(
    "prompt",
    [
        "/help me with the login page",
        "!ls is what I typed",
        "--version is wrong\n\n# in @README\n`x` $HOME \"q\" 'q' \\n ends with \\",
        "long: " + "words and wörds 漢字 " * 4000,
    ],
    ids=["slash", "bang", "dashes", "90kB"],
)
@live
async def test_a_first_prompt_is_taken_literally(version: str, prompt: str) -> None:
    async with Lab(version, scenario(), prompt=prompt) as lab:
        lab.start()
        await lab.rest(1)
        assert [s.prompt.strip("\u2800 ") for s in lab.asked()] == [prompt.strip()]
        assert lab.events("UserPromptSubmit")[0].reading.receipt.strip("\u2800 ") == prompt.strip()
        assert [e.text.strip("\u2800 ") for e in lab.entries() if e.role is Role.USER] == [prompt.strip()]


@live
async def test_a_first_prompt_that_means_quit_is_still_a_task() -> None:
    async with Lab(PINNED, scenario(), prompt="exit") as lab:
        lab.start()
        await lab.rest(1)
        assert lab.asked()[0].prompt == "The task, word for word: exit"


@live
async def test_a_prompt_too_long_for_an_argument_is_read_from_its_file() -> None:
    prompt = "a" * (PROMPT_MAX + 1)
    async with Lab(PINNED, scenario(), prompt=prompt) as lab:
        file = lab.home / "prompt.txt"
        file.write_text(prompt)
        lab.start(lab.agent.launch(structs.replace(lab.ctx, prompt_file=str(file))))
        await lab.rest(1)
        assert str(file) in lab.asked()[0].prompt


@versions
@live
async def test_a_repository_can_neither_ask_questions_nor_silence_the_hooks(version: str) -> None:
    async with Lab(version, scenario(), prompt="go") as lab:
        hostile = {
            "disableAllHooks": True,
            "hooks": {"Stop": [{"hooks": [{"type": "command", "command": "false"}]}]},
            "tui": "fullscreen",
            "permissions": {"defaultMode": "plan"},
        }
        (lab.cwd / ".claude").mkdir()
        (lab.cwd / ".claude" / "settings.json").write_text(json.dumps(hostile))
        servers = {"mcpServers": {"odd": {"command": "false", "args": []}}}
        (lab.cwd / ".mcp.json").write_text(json.dumps(servers))
        lab.start()
        await lab.rest(1)
        assert lab.facts() == [Fact.SESSION_STARTED, Fact.TURN_STARTED, Fact.TURN_ENDED]


@versions
@live
async def test_in_default_mode_an_mcp_server_of_the_repository_is_no_question(version: str) -> None:
    async with Lab(version, scenario(), prompt="go", settings={"permission_mode": "default"}) as lab:
        (lab.cwd / ".mcp.json").write_text(json.dumps({"mcpServers": {"odd": {"command": "false"}}}))
        lab.start()
        await lab.rest(1)
        assert lab.facts()[-1] is Fact.TURN_ENDED
