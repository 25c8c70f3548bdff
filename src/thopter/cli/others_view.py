"""How further agents in a thopter's box are drawn; pure, and safe for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from thopter.cli.text import ago, fit, long_span, span
from thopter.kit.sanitize import one_line

if TYPE_CHECKING:
    from thopter.model.api import ThopterView
    from thopter.model.api.others import AgentView

_ASKS = ("permission", "question")
_WORDS = {"permission": "asks for permission", "question": "has a question"}
_EVIDENCE = 2  # of each agent, unless all is wanted


def state_words(agent: AgentView) -> str:
    """``waiting:permission``."""
    state = one_line(agent.state, 20) or "-"
    return f"{state}:{one_line(agent.reason, 20)}" if agent.reason else state


def there(view: ThopterView) -> list[AgentView]:
    """Those that have not ended."""
    return [a for a in view.agents if a.state != "ended"]


def mark(view: ThopterView) -> str:
    """``+2``: how many further agents are in its box; nothing where there is none."""
    count = len(there(view))
    return f"+{count}" if count else ""


def asking(view: ThopterView) -> list[AgentView]:
    """Those that wait for a person."""
    return [a for a in there(view) if a.state == "waiting" and a.reason in _ASKS]


def needs(view: ThopterView, now_ms: int) -> list[str]:
    """A line for each that needs a person, and one for what the others do."""
    lines = []
    for agent in asking(view):
        what = f"{one_line(agent.name, 70)} {_WORDS[agent.reason]} ({_since(agent, now_ms)})"
        lines.append(f"{what}: {where(agent, view)}")
    return lines


def where(agent: AgentView, view: ThopterView) -> str:
    """Where a person finds its terminal."""
    if agent.pane:
        return (
            f"thopter attach {one_line(view.name, 61)}, window {one_line(agent.pane, 40).rpartition(':')[2]}"
        )
    return f"in {one_line(agent.tty, 40)} of its box" if agent.tty else "it has no terminal"


def _since(agent: AgentView, now_ms: int) -> str:
    return span((now_ms - agent.since_ms) / 1000) if agent.since_ms else "since when is not known"


def section(agents: Sequence[AgentView], now_ms: int, columns: int, full: bool) -> list[str]:
    """Lines on each, under a heading; nothing when there are none."""
    if not agents:
        return []
    lines = ["", "Also in this box:"]
    for agent in agents:
        since = f" for {long_span((now_ms - agent.since_ms) / 1000)}" if agent.since_ms else ""
        facts = ", ".join(part for part in _facts(agent) if part)
        lines.append(fit(f"  {one_line(agent.name, 70)}  {state_words(agent)}{since}", columns))
        lines.append(fit(f"      {facts}", columns))
        for text in (agent.problem, agent.contradiction):
            if text:
                lines.append(fit(f"      ! {one_line(text, 400)}", columns))
        if agent.last_message:
            said = f"last words {ago(agent.last_message_ms, now_ms)}: {one_line(agent.last_message, 400)}"
            lines.append(fit(f"      {said}", columns))
        for e in agent.because[: None if full else _EVIDENCE]:
            text = f"{e.source}  {e.fact}  {ago(e.at_ms, now_ms)}  {one_line(e.detail, 200)}"
            lines.append(fit(f"      because {one_line(text, 300)}", columns))
    return lines


def _facts(agent: AgentView) -> list[str]:
    who = {"agent": "started by the agent", "person": "started by a person"}.get(agent.by, "")
    place = f"{one_line(agent.tty, 40)}" + (f" (tmux {one_line(agent.pane, 60)})" if agent.pane else "")
    return [
        (one_line(agent.kind, 20) or "agent") + (" without a screen" if agent.headless else ""),
        who,
        f"pid {agent.pid}" if agent.pid else "",
        place,
        f"session {one_line(agent.session, 60)[:8]}" if agent.session else "",
        f"in {one_line(agent.cwd, 200)}" if agent.cwd else "",
    ]
