"""What a captured pane of Claude Code shows: the weakest evidence, used when all else is silent."""

from __future__ import annotations

import re

from thopter.agents.claude.parse import one_line
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.sockets import Reading

_BOTTOM = 40  # lines that count, from the last one that is not empty
# A question that comes before there is a prompt; the agent cannot start until it is answered.
_SETUP = re.compile(
    r"Do you trust the files|Is this a project you created|Detected a custom API key|Paste code here"
    r"|Bypass Permissions mode|Choose the text style|Select login method|New MCP server found",
    re.I,
)
_PERMISSION = re.compile(r"^ *(?:Do you want to .*|Would you like to proceed\?)", re.M)
_FOOTER = re.compile(r"\besc to cancel\b|\benter to (?:select|confirm|continue)\b", re.I)
_BUSY = re.compile(r"\besc to interrupt\b|^[·✢✳✶✻✽✺*] \S+…", re.I | re.M)
# The input line stands below a rule; a dialog, whose cursor looks the same, takes its place.
_PROMPT = re.compile(r"^─{8,}.*\n[│ ]*❯(?!\s\d+\. )", re.M)


def read(screen: str, at_ms: int) -> Reading:
    """Understand the pane's text; never raises. What shows no known sign gives no evidence."""
    lines = screen[-40_000:].rstrip().splitlines()[-_BOTTOM:]
    bottom = "\n".join(lines)
    found = _sign(bottom)
    if found is None:
        return Reading()
    fact, said = found
    return Reading(
        evidence=(
            Evidence(source=Source.SCREEN, fact=fact, at_ms=at_ms, seen_ms=at_ms, detail=one_line(said)),
        )
    )


def _sign(bottom: str) -> tuple[Fact, str] | None:
    if _PROMPT.search(bottom):
        if _BUSY.search(bottom):
            return Fact.BUSY, "screen: at work"
        return Fact.IDLE, "screen: at its prompt"
    setup = _SETUP.search(bottom)
    if setup:
        return Fact.QUESTION_ASKED, f"screen: {setup[0]}"
    if not _FOOTER.search(bottom):
        return None
    asked = _PERMISSION.search(bottom)
    if asked:
        return Fact.PERMISSION_ASKED, f"screen: {asked[0].strip()}"
    return Fact.QUESTION_ASKED, "screen: a choice"
