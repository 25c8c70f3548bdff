"""The driver of Claude Code: one object, no state, every method a pure function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from thopter.agents.claude import approve, hooks, keys, launch, prepare, screen, status, transcript
from thopter.model.asks import AskReply
from thopter.model.sockets import FileSpec, GoldenPart, Keys, Launch, LaunchContext, Reading

DEFAULT_VERSION = "2.1.329"


class ClaudeAgent:
    """See :class:`thopter.model.sockets.Agent`. Tried with 2.1.197 and 2.1.329."""

    name: ClassVar[str] = "claude"

    def golden_part(self, settings: Mapping[str, Any]) -> GoldenPart:
        """The npm package at the pinned version (``agents.claude.version``)."""
        version = str(settings.get("version") or DEFAULT_VERSION)
        return GoldenPart(
            name="claude", npm="@anthropic-ai/claude-code", version=version, check=("bin/claude", "--version")
        )

    def prepare(self, ctx: LaunchContext) -> tuple[FileSpec, ...]:
        """State, settings, hooks and the hook script."""
        return prepare.files(ctx)

    def launch(self, ctx: LaunchContext) -> Launch:
        """A fresh session; without a prompt it comes up and waits. BadInput for a bad permission mode."""
        return launch.fresh(ctx)

    def resume(self, ctx: LaunchContext) -> Launch:
        """The session as it was, waiting at its prompt."""
        return launch.again(ctx)

    def fork(self, ctx: LaunchContext, from_session: str) -> Launch:
        """A copy of ``from_session`` under the id ``ctx.session``."""
        return launch.forked(ctx, from_session)

    def say(self, text: str) -> tuple[Keys, ...]:
        """See :func:`thopter.agents.claude.keys.say`."""
        return keys.say(text)

    def interrupt(self) -> tuple[Keys, ...]:
        """See :func:`thopter.agents.claude.keys.interrupt`."""
        return keys.interrupt()

    def transcript_root(self, ctx: LaunchContext) -> tuple[str, str]:
        """``<cwd>/<session>.jsonl``, and subagents' below ``<cwd>/<session>/subagents/``."""
        return f"{ctx.home}/.claude/projects", "**/*.jsonl"

    def status_root(self, ctx: LaunchContext) -> tuple[str, str]:
        """One file a process; it stays behind when the process is killed."""
        return f"{ctx.home}/.claude/sessions", "*.json"

    def read_hook(self, event: str, body: bytes, at_ms: int, seen_ms: int) -> Reading:
        """See :func:`thopter.agents.claude.hooks.read`."""
        return hooks.read(event, body, at_ms, seen_ms)

    def answer_hook(self, body: bytes, answer: AskReply) -> bytes:
        """See :func:`thopter.agents.claude.approve.reply`."""
        return approve.reply(body, answer)

    def read_transcript(self, path: str, line: bytes, seen_ms: int) -> Reading:
        """See :func:`thopter.agents.claude.transcript.read`."""
        return transcript.read(path, line, seen_ms)

    def read_status(self, path: str, content: bytes, seen_ms: int) -> Reading:
        """See :func:`thopter.agents.claude.status.read`."""
        return status.read(path, content, seen_ms)

    def read_screen(self, screen_text: str, at_ms: int) -> Reading:
        """See :func:`thopter.agents.claude.screen.read`."""
        return screen.read(screen_text, at_ms)
