"""Files, argv and environment: pure, without a program; the hook script with a real bash."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from msgspec import structs

from thopter.agents.claude import ClaudeAgent
from thopter.agents.claude.launch import PLACEHOLDER, PROMPT_MAX
from thopter.agents.claude.prepare import MANAGED_SETTINGS
from thopter.kit.settings import setting
from thopter.model.errors import BadInput
from thopter.model.sockets import Agent, LaunchContext
from thopter.testing.http1 import Reply, Request, Server

CLAUDE = ClaudeAgent()
CTX = LaunchContext(
    run="run_1",
    name="flag",
    session="11111111-2222-4333-8444-555555555555",
    home="/root",
    cwd="/work/report",
    prompt_file="/root/.thopter/prompt.txt",
    model_url="http://127.0.0.1:8401",
    hook_url="http://127.0.0.1:8400",
    box_token="t0ken",
    prompt="do it",
)


def files() -> dict[str, bytes]:
    return {f.path: f.content for f in CLAUDE.prepare(CTX)}


def test_it_is_an_agent() -> None:
    assert isinstance(CLAUDE, Agent)
    assert CLAUDE.name == "claude"


def test_the_version_is_pinned_to_the_setting() -> None:
    part = CLAUDE.golden_part({})
    assert part.version == setting("agents.claude.version").default
    assert (part.name, part.npm, part.check) == (
        "claude",
        "@anthropic-ai/claude-code",
        ("bin/claude", "--version"),
    )
    assert CLAUDE.golden_part({"version": "2.1.197"}).version == "2.1.197"


def test_preparation_is_the_same_every_time_and_trusts_only_the_work_folder() -> None:
    assert CLAUDE.prepare(CTX) == CLAUDE.prepare(CTX)
    state = json.loads(files()["/root/.claude.json"])
    assert list(state["projects"]) == ["/work/report"]
    assert state["projects"]["/work/report"]["hasTrustDialogAccepted"] is True


def test_the_token_of_the_box_is_in_no_file() -> None:
    assert not any(b"t0ken" in content for content in files().values())
    assert CLAUDE.launch(CTX).env["THOPTER_HOOK_TOKEN"] == "t0ken"


def test_every_hook_goes_to_boxd_and_only_permissions_are_held() -> None:
    hooks = json.loads(files()[MANAGED_SETTINGS])["hooks"]
    assert "WorktreeCreate" not in hooks
    for event, ((group),) in hooks.items():
        (hook,) = group["hooks"]
        if hook["type"] == "http":
            url = urlsplit(hook["url"])
            assert (url.netloc, url.path) == ("127.0.0.1:8400", f"/hook/{event}")
            assert ("hold=" in url.query) == (event == "PermissionRequest")
            assert url.query.startswith("run=run_1")
            assert hook["allowedEnvVars"] == ["THOPTER_HOOK_TOKEN"]
        else:
            assert event in ("SessionStart", "Setup")
            assert f"/hook/{event}?run=run_1" in hook["command"]


def test_hooks_find_boxd_also_when_the_address_has_its_path() -> None:
    ctx = structs.replace(CTX, hook_url="http://127.0.0.1:8400/hook/")
    assert CLAUDE.prepare(ctx) == CLAUDE.prepare(CTX)


def test_the_environment_is_exactly_this_and_holds_no_credential() -> None:
    env = dict(CLAUDE.launch(CTX).env)
    assert env["ANTHROPIC_AUTH_TOKEN"] == PLACEHOLDER
    assert env["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8401"
    assert (env["HOME"], env["TERM"], env["IS_SANDBOX"]) == ("/root", "tmux-256color", "1")
    assert set(env) == {
        "HOME", "PATH", "TERM", "LANG", "SHELL", "IS_SANDBOX", "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL",
        "CLAUDE_CODE_DISABLE_ALTERNATE_SCREEN", "CLAUDE_CODE_DISABLE_TERMINAL_TITLE",
        "CLAUDE_CODE_DISABLE_FEEDBACK_SURVEY", "DISABLE_AUTOUPDATER",
        "THOPTER_NAME", "THOPTER_RUN", "THOPTER_HOOK_TOKEN",
    }  # fmt: skip


def test_the_prompt_is_one_exact_argument_behind_a_double_dash() -> None:
    argv = CLAUDE.launch(CTX).argv
    assert argv[0] == "/opt/thopter/claude/bin/claude"
    assert argv[1:3] == ("--session-id", CTX.session)
    assert argv[-2:] == ("--", "do it")
    assert "--dangerously-skip-permissions" in argv


def test_prompts_that_do_not_fit_name_their_file_and_none_is_none() -> None:
    long = CLAUDE.launch(structs.replace(CTX, prompt="é" * (PROMPT_MAX // 2 + 1))).argv
    assert CTX.prompt_file in long[-1]
    fits = CLAUDE.launch(structs.replace(CTX, prompt="é" * (PROMPT_MAX // 2))).argv
    assert fits[-1] == "é" * (PROMPT_MAX // 2)
    unknown = CLAUDE.launch(structs.replace(CTX, prompt="")).argv
    assert CTX.prompt_file in unknown[-1]
    assert "--" not in CLAUDE.launch(structs.replace(CTX, prompt="", prompt_file="")).argv
    assert CLAUDE.launch(structs.replace(CTX, prompt="exit")).argv[-1] == "The task, word for word: exit"


def test_mode_and_model_are_settings() -> None:
    argv = CLAUDE.launch(structs.replace(CTX, settings={"permission_mode": "plan", "model": "opus"})).argv
    assert argv[3:7] == ("--permission-mode", "plan", "--model", "opus")
    assert set(setting("agents.claude.permission_mode").choices) == set(
        ("bypassPermissions", "acceptEdits", "default", "plan")
    )
    with pytest.raises(BadInput, match="permission mode"):
        CLAUDE.launch(structs.replace(CTX, settings={"permission_mode": "yolo"}))


def test_resuming_takes_the_session_and_no_prompt() -> None:
    argv = CLAUDE.resume(CTX).argv
    assert argv[1:3] == ("--resume", CTX.session)
    assert "do it" not in argv


@pytest.mark.parametrize("size", [10, 70_000])
def test_the_hook_script_hands_the_event_over_with_bash_alone(tmp_path: Path, size: int) -> None:
    got: list[Request] = []

    async def receive(request: Request, reply: Reply) -> None:
        got.append(request)
        await reply.send(204)

    body = json.dumps({"hook_event_name": "SessionStart", "note": "é" * size}, ensure_ascii=False).encode()

    async def go() -> tuple[int, bytes]:
        async with Server(receive) as server:
            ctx = structs.replace(CTX, home=str(tmp_path), hook_url=server.url)
            script = next(f for f in CLAUDE.prepare(ctx) if f.path.endswith("thopter-hook"))
            Path(script.path).parent.mkdir(parents=True, exist_ok=True)
            Path(script.path).write_bytes(script.content)
            managed = next(f for f in CLAUDE.prepare(ctx) if f.path == MANAGED_SETTINGS)
            command = json.loads(managed.content)["hooks"]["SessionStart"][0]["hooks"][0]["command"]
            child = await asyncio.create_subprocess_shell(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={"PATH": "", "THOPTER_HOOK_TOKEN": "t0ken"},
            )
            out, _ = await asyncio.wait_for(child.communicate(body), 60)
            return child.returncode or 0, out

    assert asyncio.run(go()) == (0, b"")
    (request,) = got
    assert (request.method, request.path, request.query["run"]) == ("POST", "/hook/SessionStart", "run_1")
    assert request.query["pid"].isdigit()  # whose hook it is
    assert request.headers["authorization"] == "Bearer t0ken"
    assert request.body == body


def test_the_hook_script_is_silent_when_nobody_listens(tmp_path: Path) -> None:
    script = next(f for f in CLAUDE.prepare(CTX) if f.path.endswith("thopter-hook"))
    file = tmp_path / "hook"
    file.write_bytes(script.content)
    done = subprocess.run(
        ["/bin/bash", str(file), "Setup", "127.0.0.1", "1", "/hook/Setup"],
        input=b"{}", capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
