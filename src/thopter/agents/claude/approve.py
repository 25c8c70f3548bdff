"""Permissions and questions of Claude Code: what is asked, and the answer to the hook that is held open."""

from __future__ import annotations

import json
from typing import Any

from thopter.agents.claude.parse import items, load, one_line, table, text, tool_summary, word
from thopter.model.asks import Ask, AskReply, Question
from thopter.model.errors import BadInput

QUESTION_TOOL = "AskUserQuestion"
_MOST = 20


def read_ask(body: dict[str, Any]) -> Ask:
    """What a PermissionRequest asks. ``for_run``: what the agent itself offers not to ask again for."""
    tool = word(body.get("tool_name"))
    given = table(body.get("tool_input"))
    questions = _questions(given) if tool == QUESTION_TOOL else ()
    return Ask(
        kind="question" if tool == QUESTION_TOOL else "permission",
        tool=tool,
        input=given,
        summary=one_line(" / ".join(q.text for q in questions)) if questions else tool_summary(tool, given),
        for_run="" if questions else one_line(", ".join(_offer(s) for s in _suggestions(body)), 400),
        questions=questions,
    )


def reply(body: bytes, answer: AskReply) -> bytes:
    """The body that answers the held hook. BadInput for an answer that does not fit what is asked."""
    asked = load(body)
    if isinstance(asked, str):
        raise BadInput(f"what the agent asked can't be read: {asked}")
    decision: dict[str, Any]
    ask = read_ask(asked)
    if not answer.allow:
        decision = {"behavior": "deny", "message": answer.message or "The user said no."}
    elif ask.kind == "question":
        decision = {"behavior": "allow", "updatedInput": _answered(ask, answer)}
    else:
        decision = {"behavior": "allow"}
        if answer.for_run:
            rules = [{**s, "destination": "session"} for s in _suggestions(asked)]
            if not rules:
                raise BadInput(
                    "the agent offers no rule that would allow this for the rest of its run",
                    hint="approve it once, without --for-run",
                )
            decision["updatedPermissions"] = rules
    told = {"hookSpecificOutput": {"hookEventName": "PermissionRequest", "decision": decision}}
    return json.dumps(told).encode()


def _questions(given: dict[str, Any]) -> tuple[Question, ...]:
    found = []
    for q in map(table, items(given.get("questions"))[:_MOST]):
        options = tuple(text(table(o).get("label"), 400) for o in items(q.get("options"))[:_MOST])
        said = text(q.get("question"), 2000)
        found.append(Question(text=said, options=options, several=q.get("multiSelect") is True))
    return tuple(found)


def _answered(ask: Ask, answer: AskReply) -> dict[str, Any]:
    if len(answer.answers) != len(ask.questions) or not all(a.strip() for a in answer.answers):
        count = len(ask.questions)
        raise BadInput(
            f"this is {'a question' if count == 1 else f'{count} questions'}: it wants an answer to each",
            hint="'thopter approve NAME --answer TEXT', once for each question, in their order",
        )
    # Claude Code keeps answers under the whole text of each question.
    names = [table(q).get("question") for q in items(ask.input.get("questions"))]
    given = {str(n): a for n, a in zip(names, answer.answers, strict=False)}
    return {**ask.input, "answers": given}


def _suggestions(body: dict[str, Any]) -> list[dict[str, Any]]:
    offered = [table(s) for s in items(body.get("permission_suggestions"))[:_MOST]]
    return [s for s in offered if s.get("behavior", "allow") == "allow" and s.get("type")]


def _offer(suggestion: dict[str, Any]) -> str:
    kind = word(suggestion.get("type"))
    if kind == "addRules":
        rules = [table(r) for r in items(suggestion.get("rules"))]
        return ", ".join(
            f"{word(r.get('toolName'))}({text(r.get('ruleContent'), 200)})"
            if r.get("ruleContent")
            else f"every {word(r.get('toolName'))}"
            for r in rules
        )
    if kind == "setMode":
        return f"permission mode {word(suggestion.get('mode'))}"
    if kind == "addDirectories":
        return "work in " + ", ".join(text(d, 200) for d in items(suggestion.get("directories")))
    return kind
