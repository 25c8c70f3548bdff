"""The agent ``claude``: Claude Code, driven by its hooks, transcript, status file and terminal."""

from thopter.agents.claude.agent import ClaudeAgent

__all__ = ["ClaudeAgent"]
