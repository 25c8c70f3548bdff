"""Files that make Claude Code come up in a fresh box with no question asked, hooks included.

Facts and the versions they were measured on: docs/decisions/0005-driving-claude-code.md.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlsplit

from thopter.model.briefing import briefing
from thopter.model.sockets import FileSpec, LaunchContext

MANAGED_SETTINGS = "/etc/claude-code/managed-settings.json"
TOKEN_VARIABLE = "THOPTER_HOOK_TOKEN"
_OWN_OPT = "/opt/thopter"
HOLD_SECONDS = 43_200  # how long a permission or a question may wait for the hub's answer
_KEEP_DAYS = 3650

# Hooks over HTTP cost a tool call well under a millisecond; a shell script costs ten times that.
EVENTS = (
    "UserPromptSubmit", "PreToolUse", "PostToolUse", "PostToolUseFailure", "Notification", "PermissionDenied",
    "Stop", "StopFailure", "SubagentStart", "SubagentStop", "PreCompact", "PostCompact", "SessionEnd",
    "Elicitation", "ElicitationResult", "TaskCreated", "TaskCompleted", "CwdChanged",
)  # fmt: skip
HELD_EVENTS = ("PermissionRequest",)
COMMAND_EVENTS = ("SessionStart", "Setup")  # Claude Code never runs HTTP hooks for these two

# Plain bash: a box may have neither curl nor python, and a hook must not fail or print anything.
HOOK_SCRIPT = r"""#!/bin/bash
# Hands one hook event (stdin) to the supervisor of this box: hook EVENT HOST PORT TARGET
export LC_ALL=C
IFS= read -r -d '' -t 5 body
{
  exec 3<>"/dev/tcp/$2/$3" || exit 0
  # $PPID: whose hook this is; there may be several agents in the box.
  printf 'POST %s&pid=%s HTTP/1.1\r\nHost: %s:%s\r\n' "$4" "$PPID" "$2" "$3" >&3
  printf 'Authorization: Bearer %s\r\nContent-Type: application/json\r\n' "$THOPTER_HOOK_TOKEN" >&3
  printf 'Content-Length: %d\r\nConnection: close\r\n\r\n%s' "${#body}" "$body" >&3
  IFS= read -r -t 5 status <&3
} >/dev/null 2>&1
exit 0
"""


def hook_target(ctx: LaunchContext, event: str) -> str:
    """The URL that gets ``event``; ``ctx.hook_url`` may be given with or without its ``/hook``."""
    base = ctx.hook_url.rstrip("/")
    if not urlsplit(base).path:
        base += "/hook"
    hold = f"&hold={HOLD_SECONDS}" if event in HELD_EVENTS else ""
    return f"{base}/{event}?run={quote(ctx.run, safe='')}{hold}"


def script_path(ctx: LaunchContext) -> str:
    """Where the hook script goes."""
    return f"{ctx.home}/.claude/thopter-hook"


def _http_hook(ctx: LaunchContext, event: str) -> dict[str, Any]:
    return {
        "type": "http",
        "url": hook_target(ctx, event),
        "headers": {"Authorization": f"Bearer ${TOKEN_VARIABLE}"},
        "allowedEnvVars": [TOKEN_VARIABLE],
        "timeout": HOLD_SECONDS + 60 if event in HELD_EVENTS else 10,
    }


def _command_hook(ctx: LaunchContext, event: str) -> dict[str, Any]:
    url = urlsplit(hook_target(ctx, event))
    target = f"{url.path}?{url.query}"
    command = f"/bin/bash '{script_path(ctx)}' {event} {url.hostname} {url.port} '{target}'"
    return {"type": "command", "command": command, "timeout": 10}


def hooks(ctx: LaunchContext) -> dict[str, Any]:
    """The ``hooks`` table of the settings."""
    table = {event: _http_hook(ctx, event) for event in (*EVENTS, *HELD_EVENTS)}
    table |= {event: _command_hook(ctx, event) for event in COMMAND_EVENTS}
    return {event: [{"hooks": [hook]}] for event, hook in table.items()}


def settings(ctx: LaunchContext) -> dict[str, Any]:
    """Settings that keep the terminal quiet, scrollable and free of pop-ups that eat keys."""
    return {
        "skipDangerousModePermissionPrompt": True,
        "enableAllProjectMcpServers": True,
        "tui": "default",
        "cleanupPeriodDays": _KEEP_DAYS,
        "promptSuggestionEnabled": False,
        "emojiCompletionEnabled": False,
        "awaySummaryEnabled": False,
        "spinnerTipsEnabled": False,
        "disableRemoteControl": True,
    }


def state(ctx: LaunchContext) -> dict[str, Any]:
    """``~/.claude.json``: onboarding is over and the work folder is trusted."""
    trusted = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True, "allowedTools": []}
    return {
        "hasCompletedOnboarding": True,
        "autoUpdates": False,
        "fullscreenUpsellSeenCount": 3,
        "projects": {ctx.cwd: trusted},
    }


def instructions(ctx: LaunchContext) -> str:
    """What the agent is told of where it is: the operator's own text in place of thopter's."""
    own = ctx.settings.get("instructions_text")
    return own if isinstance(own, str) and own else briefing(ctx.name, ctx.cwd)


def _json(path: str, data: dict[str, Any], mode: int = 0o600) -> FileSpec:
    return FileSpec(path=path, content=json.dumps(data, indent=1).encode() + b"\n", mode=mode)


def files(ctx: LaunchContext) -> tuple[FileSpec, ...]:
    """Every file; the same context always gives the same bytes."""
    ours = {"hooks": hooks(ctx)}
    # Here the settings of a repository cannot switch our hooks off (``disableAllHooks``).
    managed: tuple[FileSpec, ...] = (_json(MANAGED_SETTINGS, ours, mode=0o644),)
    if ctx.opt != _OWN_OPT:  # a box without isolation has no /etc of its own
        managed = ()
    return (
        _json(f"{ctx.home}/.claude.json", state(ctx)),
        _json(f"{ctx.home}/.claude/settings.json", settings(ctx) | ({} if managed else ours)),
        # The user's own memory file: a repository's CLAUDE.md is read beside it, and never written.
        FileSpec(path=f"{ctx.home}/.claude/CLAUDE.md", content=instructions(ctx).encode(), mode=0o644),
        FileSpec(path=script_path(ctx), content=HOOK_SCRIPT.encode(), mode=0o755),
        *managed,
    )
