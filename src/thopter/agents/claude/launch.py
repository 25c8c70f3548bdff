"""How Claude Code is started: its argv and exactly its environment."""

from __future__ import annotations

from thopter.agents.claude.clean import is_quit, own_words
from thopter.agents.claude.prepare import TOKEN_VARIABLE
from thopter.model.errors import BadInput
from thopter.model.sockets import Launch, LaunchContext

BINARY = "claude/bin/claude"  # below the folder of the golden's parts
PROMPT_MAX = 100_000  # bytes; Linux refuses a single argument of 131072
PLACEHOLDER = "thopter-placeholder"  # the model gateway puts the real credential in its place
MODES = ("bypassPermissions", "acceptEdits", "default", "plan")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def environment(ctx: LaunchContext) -> dict[str, str]:
    """Everything the agent sees; no secret of the operator is ever among it."""
    return {
        **ctx.settings.get("env", {}),  # the operator's variables for boxes; what follows is not theirs
        "HOME": ctx.home,
        "PATH": f"{ctx.home}/.local/bin:{_PATH}",
        "TERM": "tmux-256color",
        "LANG": "C.UTF-8",
        "SHELL": "/bin/bash",
        "IS_SANDBOX": "1",
        "ANTHROPIC_BASE_URL": ctx.model_url,
        "ANTHROPIC_AUTH_TOKEN": PLACEHOLDER,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL": "1",
        "CLAUDE_CODE_DISABLE_ALTERNATE_SCREEN": "1",
        "CLAUDE_CODE_DISABLE_TERMINAL_TITLE": "1",
        "CLAUDE_CODE_DISABLE_FEEDBACK_SURVEY": "1",
        "DISABLE_AUTOUPDATER": "1",
        "THOPTER_NAME": ctx.name,
        "THOPTER_RUN": ctx.run,
        TOKEN_VARIABLE: ctx.box_token,
    }


def _options(ctx: LaunchContext) -> list[str]:
    mode = str(ctx.settings.get("permission_mode") or "bypassPermissions")
    if mode not in MODES:
        raise BadInput(f"{mode!r} is not a permission mode of claude", hint=f"use one of {', '.join(MODES)}")
    options = (
        ["--permission-mode", mode] if mode != "bypassPermissions" else ["--dangerously-skip-permissions"]
    )
    model = str(ctx.settings.get("model") or "")
    return [*options, *(["--model", model] if model else [])]


def first_words(ctx: LaunchContext) -> list[str]:
    """The prompt as arguments: the user's own words where they fit, else where to find them."""
    if ctx.prompt.strip():
        words = own_words(ctx.prompt)
        if is_quit(words):
            return ["--", f"The task, word for word: {words}"]
        if len(words.encode("utf-8", "surrogateescape")) <= PROMPT_MAX:
            return ["--", words]
    elif not ctx.prompt_file:
        return []
    return ["--", f"Read the file {ctx.prompt_file} to its end: it holds your task. Then do that task."]


def fresh(ctx: LaunchContext) -> Launch:
    """A new session with the id ``ctx.session``."""
    argv = (f"{ctx.opt}/{BINARY}", "--session-id", ctx.session, *_options(ctx), *first_words(ctx))
    return Launch(argv=argv, env=environment(ctx), cwd=ctx.cwd)


def again(ctx: LaunchContext) -> Launch:
    """The session ``ctx.session`` as it was; it waits at its prompt."""
    argv = (f"{ctx.opt}/{BINARY}", "--resume", ctx.session, *_options(ctx))
    return Launch(argv=argv, env=environment(ctx), cwd=ctx.cwd)


def forked(ctx: LaunchContext, from_session: str) -> Launch:
    """A copy of ``from_session`` with the id ``ctx.session``; the prompt, if there is one, is said first.

    The copy's transcript holds the old messages under their own ids (tried with 2.1.197, 2.1.329).
    """
    words = first_words(ctx) if ctx.prompt.strip() else []
    fork = ("--resume", from_session, "--fork-session", "--session-id", ctx.session)
    argv = (f"{ctx.opt}/{BINARY}", *fork, *_options(ctx), *words)
    return Launch(argv=argv, env=environment(ctx), cwd=ctx.cwd)
