"""What a line of Claude Code's transcript says: entries for people, evidence for truth, receipts.

One line holds one message or one content block; kinds that only serve the program are passed over.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from typing import Any

from msgspec import Struct

from thopter.agents.claude.parse import (
    bare_receipt,
    blocks,
    call_id,
    flat,
    load,
    moment,
    one_line,
    table,
    text,
    tool_summary,
    unwrapped,
    word,
)
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.nouns import Entry, Role
from thopter.model.sockets import Reading

_INTERRUPTED = "[Request interrupted by user"
# What the program itself writes in the user's place.
_MACHINE = (
    "<task-notification>", "<system-reminder>", "<command-name>", "<command-message>", "<command-args>",
    "<local-command-", "<bash-input>", "<bash-stdout>", "<bash-stderr>", "<user-memory-input>",
    "Caveat: The messages below",
)  # fmt: skip
_TOOL_CALLS = ("tool_use", "server_tool_use", "mcp_tool_use")
_TOLD_SYSTEM = (
    "compact_boundary",
    "informational",
    "local_command",
    "api_error",
    "away_summary",
    "model_fallback",
)


class _Line(Struct, frozen=True):
    """A parsed line with what its entries and evidence have in common."""

    data: dict[str, Any]
    session: str
    key: str
    at_ms: int
    seen_ms: int
    side: bool

    def entry(self, number: int, role: Role, said: str, summary: str = "", **more: Any) -> Entry:
        return Entry(
            session=self.session, key=f"{self.key}:{number}", at_ms=self.at_ms, role=role,
            summary=one_line(summary or said), text=said, sidechain=self.side, **more,
        )  # fmt: skip

    def fact(self, fact: Fact, detail: str, **data: Any) -> Evidence:
        return Evidence(
            source=Source.TRANSCRIPT, fact=fact, at_ms=self.at_ms, seen_ms=self.seen_ms,
            detail=one_line(detail), data=data | ({"side": True} if self.side else {}),
        )  # fmt: skip


def read(path: str, raw: bytes, seen_ms: int) -> Reading:
    """Understand one complete line; never raises. ``path`` is relative to the projects folder."""
    data = load(raw)
    if isinstance(data, str):
        return Reading(problem=f"transcript line: {data}")
    reader = {
        "user": _user, "assistant": _assistant, "system": _system, "attachment": _attachment,
    }.get(word(data.get("type")))  # fmt: skip
    session = word(data.get("sessionId")) or _session_of(path)
    if data.get("type") == "queue-operation":
        return _queue(data, session)
    if reader is None:
        return Reading(session=session)
    at_ms = moment(data.get("timestamp"))
    if at_ms is None:
        return Reading(session=session, problem="transcript line: it has no time")
    key = word(data.get("uuid")) or hashlib.sha256(raw).hexdigest()[:32]
    side = data.get("isSidechain") is True or "/subagents/" in path
    return reader(_Line(data, session, key, min(at_ms, seen_ms), seen_ms, side))


def _session_of(path: str) -> str:
    """The session a file belongs to, by its name: ``<cwd>/<session>.jsonl`` or below ``<session>/``."""
    parts = path.split("/")
    name = parts[parts.index("subagents") - 1] if "subagents" in parts[1:] else posixpath.basename(path)
    return word(name.removesuffix(".jsonl"))


def _queue(data: dict[str, Any], session: str) -> Reading:
    said = data.get("content")
    if data.get("operation") != "enqueue" or not isinstance(said, str) or _is_machine(said):
        return Reading(session=session)
    return Reading(session=session, receipt=bare_receipt(said), receipt_kind="queued")


def _is_machine(said: str) -> bool:
    return said.lstrip().startswith(_MACHINE)


_TAGGED = re.compile(
    r"<(summary|command-name|local-command-stdout|local-command-stderr|bash-input)>([^<]{0,400})"
)


def _machine_summary(said: str) -> str:
    """What matters in a text that the program wrote for the model, as far as one can tell."""
    return " ".join(hit[2].strip() for hit in _TAGGED.finditer(said[:4000])) or said


def _user(line: _Line) -> Reading:
    entries: list[Entry] = []
    evidence: list[Evidence] = []
    receipt = ""
    hidden = line.data.get("isMeta") is True or line.data.get("isCompactSummary") is True
    for number, block in blocks(table(line.data.get("message")).get("content")):
        kind = word(block.get("type"))
        if kind == "tool_result":
            said = flat(block.get("content"))
            failed = block.get("is_error") is True
            entries.append(line.entry(number, Role.TOOL_RESULT, said, said or "(no output)", is_error=failed))
            evidence.append(line.fact(Fact.ACTIVITY, "tool result"))
        elif kind == "text":
            said = text(block.get("text"))
            if said.lstrip().startswith(_INTERRUPTED):
                entries.append(line.entry(number, Role.SYSTEM, said.strip()))
                evidence.append(line.fact(Fact.INTERRUPTED, "interrupted"))
            elif hidden or _is_machine(said):
                if not said.lstrip().startswith("<local-command-caveat>"):
                    entries.append(line.entry(number, Role.SYSTEM, said, _machine_summary(said)))
                if said.lstrip().startswith("<task-notification>"):
                    evidence.append(line.fact(Fact.TURN_STARTED, "task notification", turn=_turn(line)))
            elif said.strip():
                entries.append(line.entry(number, Role.USER, unwrapped(said)))
                receipt = receipt or bare_receipt(block.get("text"))
        elif kind:
            entries.append(line.entry(number, Role.USER, f"[{kind}]"))
    if line.side:
        # A subagent's prompt and interruption are its own affair.
        evidence = [e for e in evidence if e.fact is Fact.ACTIVITY]
        receipt = ""
    elif receipt:
        evidence.insert(0, line.fact(Fact.TURN_STARTED, "prompt", turn=_turn(line)))
    return Reading(
        entries=tuple(entries), evidence=tuple(evidence), session=line.session,
        receipt=receipt, receipt_kind="taken" if receipt else "",
    )  # fmt: skip


def _turn(line: _Line) -> str:
    return word(line.data.get("promptId"))


def _assistant(line: _Line) -> Reading:
    message = table(line.data.get("message"))
    if line.data.get("isApiErrorMessage") is True:
        return _api_error(line, flat(message.get("content")))
    if message.get("model") == "<synthetic>":
        return Reading(session=line.session)  # a stand-in that keeps roles alternating
    entries: list[Entry] = []
    evidence: list[Evidence] = []
    for number, block in blocks(message.get("content")):
        kind = word(block.get("type"))
        if kind == "text":
            said = text(block.get("text"))
            if said.strip():
                entries.append(line.entry(number, Role.ASSISTANT, said))
                evidence.append(line.fact(Fact.ACTIVITY, "assistant text"))
        elif kind in _TOOL_CALLS:
            tool, given = word(block.get("name")), block.get("input")
            call = call_id(tool, given, text(line.data.get("cwd"), 4096))
            entries.append(
                line.entry(number, Role.TOOL_USE, _arguments(given), tool_summary(tool, given), tool=tool)
            )
            evidence.append(line.fact(Fact.ACTIVITY, tool, tool=tool, call=call))
        elif kind in ("thinking", "redacted_thinking"):
            evidence.append(line.fact(Fact.ACTIVITY, "thinking"))
    return Reading(entries=tuple(entries), evidence=tuple(evidence), session=line.session)


def _arguments(given: object) -> str:
    try:
        return text(json.dumps(given, ensure_ascii=False, indent=1))
    except (ValueError, RecursionError):
        return ""


def _api_error(line: _Line, said: str) -> Reading:
    error = word(line.data.get("error")) or "unknown"
    entry = line.entry(0, Role.SYSTEM, said, said or f"API error: {error}", is_error=True)
    facts = () if line.side else (line.fact(Fact.TURN_FAILED, said or error, error=error),)
    return Reading(entries=(entry,), evidence=facts, session=line.session)


def _system(line: _Line) -> Reading:
    said, kind = text(line.data.get("content")), word(line.data.get("subtype"))
    if kind not in _TOLD_SYSTEM:
        return Reading(session=line.session)
    failed = line.data.get("level") == "error" or kind == "api_error"
    shown = said or kind.replace("_", " ")
    return Reading(entries=(line.entry(0, Role.SYSTEM, shown, is_error=failed),), session=line.session)


def _attachment(line: _Line) -> Reading:
    """A message that was queued and then put into the running turn; other attachments are context."""
    attached = table(line.data.get("attachment"))
    if attached.get("type") != "queued_command":
        return Reading(session=line.session)
    said = unwrapped(flat(attached.get("prompt")))
    if not said.strip():
        return Reading(session=line.session)
    if line.side or attached.get("commandMode") != "prompt" or _is_machine(said):
        entry = line.entry(0, Role.SYSTEM, said, _machine_summary(said))
        return Reading(entries=(entry,), session=line.session)
    entry = line.entry(0, Role.USER, said)
    return Reading(entries=(entry,), session=line.session, receipt=bare_receipt(said), receipt_kind="taken")
