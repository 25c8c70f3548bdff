"""What a hook call of Claude Code says (payloads recorded from real runs: tests/agents/samples)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from thopter.agents.claude.approve import read_ask
from thopter.agents.claude.parse import (
    bare_receipt,
    call_id,
    items,
    load,
    one_line,
    table,
    text,
    tool_summary,
    word,
)
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.sockets import Reading

# Hooks that say nothing about turns; everything else that is not below is reported as unknown.
_NEUTRAL = frozenset(
    {
        "Setup", "PreCompact", "PostCompact", "TaskCreated", "TaskCompleted", "CwdChanged", "DirectoryAdded",
        "ConfigChange", "FileChanged", "InstructionsLoaded", "MessageDisplay", "PostToolBatch",
        "UserPromptExpansion", "TeammateIdle", "WorktreeCreate", "WorktreeRemove", "PreModelSwitch",
        "PostModelSwitch",
    }
)  # fmt: skip
_SAID = 400  # characters of what a turn ended with, to know its entry in the transcript
_STAYS = ("clear", "resume")  # SessionEnd reasons after which the program goes on


class _Call(Struct, frozen=True):
    """One hook call: its parsed body and the times to put on evidence."""

    event: str
    body: dict[str, Any]
    at_ms: int
    seen_ms: int

    def fact(self, fact: Fact, said: str = "", **data: Any) -> tuple[Evidence, ...]:
        return (
            Evidence(
                source=Source.HOOK, fact=fact, at_ms=self.at_ms, seen_ms=self.seen_ms,
                detail=one_line(f"{self.event} {said}".strip()), data=data,
            ),
        )  # fmt: skip

    def get(self, name: str) -> str:
        return word(self.body.get(name))

    def tool(self) -> dict[str, Any]:
        """What identifies a tool call in evidence."""
        name = self.get("tool_name")
        given = self.body.get("tool_input")
        data: dict[str, Any] = {"tool": name, "call": call_id(name, given, text(self.body.get("cwd"), 4096))}
        return data | self.side()

    def side(self) -> dict[str, Any]:
        return {"side": True} if self.get("agent_id") else {}


def read(event: str, body: bytes, at_ms: int, seen_ms: int) -> Reading:
    """Understand one hook call; never raises."""
    data = load(body)
    if isinstance(data, str):
        return Reading(problem=f"hook {one_line(event, 40)}: {data}")
    call = _Call(word(event, 60), data, at_ms, seen_ms)
    found = _READERS.get(call.event)
    evidence = found(call) if found else ()
    problem = "" if found or call.event in _NEUTRAL else f"hook {call.event or '?'} is not known"
    receipt = ""
    if call.event == "UserPromptSubmit" and not _automatic(data.get("prompt")):
        receipt = bare_receipt(data.get("prompt"))
    return Reading(
        evidence=evidence,
        session=call.get("session_id"),
        transcript=text(data.get("transcript_path"), 4096),
        receipt=receipt,
        problem=problem,
        takes_over=call.event == "SessionStart" and call.get("source") == "clear",
        leaves=call.event == "SessionEnd" and call.get("reason") in _STAYS,
        ask=read_ask(data) if call.event == "PermissionRequest" else None,
    )


def _automatic(prompt: object) -> bool:
    """A prompt that the program gave itself when a background task ended."""
    return isinstance(prompt, str) and prompt.lstrip().startswith("<task-notification>")


def _session_start(call: _Call) -> tuple[Evidence, ...]:
    source = call.get("source")
    return () if source == "compact" else call.fact(Fact.SESSION_STARTED, source)


def _session_end(call: _Call) -> tuple[Evidence, ...]:
    reason = call.get("reason")
    return () if reason in _STAYS else call.fact(Fact.SESSION_ENDED, reason, reason=reason)


def _prompt(call: _Call) -> tuple[Evidence, ...]:
    # 2.1.329 fires this when a message is queued, with the prompt_id of the running turn; 2.1.197
    # fires it when the message is taken up.
    said = "task notification" if _automatic(call.body.get("prompt")) else ""
    return call.fact(Fact.TURN_STARTED, said, turn=call.get("prompt_id"))


def _tool(call: _Call) -> tuple[Evidence, ...]:
    return call.fact(Fact.ACTIVITY, call.get("tool_name"), **call.tool())


def _permission(call: _Call) -> tuple[Evidence, ...]:
    tool = call.get("tool_name")
    if tool == "AskUserQuestion":
        asked = (
            [
                text(table(q).get("question"), 400)
                for q in items(call.body.get("tool_input", {}).get("questions"))
            ]
            if isinstance(call.body.get("tool_input"), dict)
            else []
        )
        return call.fact(Fact.QUESTION_ASKED, " / ".join(asked), **call.tool())
    return call.fact(Fact.PERMISSION_ASKED, tool_summary(tool, call.body.get("tool_input")), **call.tool())


def _denied(call: _Call) -> tuple[Evidence, ...]:
    return call.fact(Fact.ANSWERED, call.get("tool_name"), **call.tool())


def _notification(call: _Call) -> tuple[Evidence, ...]:
    # Dialogs have told of themselves at once, by PermissionRequest and Elicitation; this repeats it later.
    return call.fact(Fact.IDLE, "idle_prompt") if call.get("notification_type") == "idle_prompt" else ()


def _elicitation(call: _Call) -> tuple[Evidence, ...]:
    said = text(call.body.get("message"), 400)
    return call.fact(
        Fact.QUESTION_ASKED, f"{call.get('mcp_server_name')}: {said}", tool=call.get("mcp_server_name")
    )


def _elicited(call: _Call) -> tuple[Evidence, ...]:
    return call.fact(Fact.ANSWERED, call.get("action"))


def _stop(call: _Call) -> tuple[Evidence, ...]:
    if call.get("agent_id"):
        return call.fact(Fact.ACTIVITY, side=True)
    going = sum(
        table(t).get("status") in ("running", "pending") for t in items(call.body.get("background_tasks"))
    )
    data: dict[str, Any] = {"background": going} if going else {}
    if isinstance(call.body.get("last_assistant_message"), str):
        data["last"] = text(call.body["last_assistant_message"], _SAID)
    return call.fact(Fact.TURN_ENDED, f"({going} in the background)" if going else "", **data)


def _stop_failure(call: _Call) -> tuple[Evidence, ...]:
    if call.get("agent_id"):
        return call.fact(Fact.ACTIVITY, side=True)
    error = call.get("error") or "unknown"
    said = one_line(text(call.body.get("last_assistant_message"), 2000))
    return (
        Evidence(
            source=Source.HOOK, fact=Fact.TURN_FAILED, at_ms=call.at_ms, seen_ms=call.seen_ms,
            detail=said or f"StopFailure {error}", data={"error": error},
        ),
    )  # fmt: skip


def _subagent(call: _Call) -> tuple[Evidence, ...]:
    return call.fact(Fact.ACTIVITY, call.get("agent_type"), side=True)


_READERS: dict[str, Callable[[_Call], tuple[Evidence, ...]]] = {
    "SessionStart": _session_start,
    "SessionEnd": _session_end,
    "UserPromptSubmit": _prompt,
    "PreToolUse": _tool,
    "PostToolUse": _tool,
    "PostToolUseFailure": _tool,
    "PermissionRequest": _permission,
    "PermissionDenied": _denied,
    "Notification": _notification,
    "Elicitation": _elicitation,
    "ElicitationResult": _elicited,
    "Stop": _stop,
    "StopFailure": _stop_failure,
    "SubagentStart": _subagent,
    "SubagentStop": _subagent,
}
