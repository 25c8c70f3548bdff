"""Careful reading of hostile JSON: every function here is total, and what it returns is bounded."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

TEXT_MAX = 100_000  # characters of one entry's text
SUMMARY_MAX = 200
_WHOLE = 1 << 24  # more than any line that boxd hands over
_SPACE = re.compile(r"\s+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_PATHS = ("file_path", "notebook_path", "path")
_DIGEST_CHARS = 1000  # boxd may cut long texts of a hook; their beginnings stay the same
_DIGEST_ITEMS = 8


def load(raw: bytes) -> dict[str, Any] | str:
    """Return the JSON object in ``raw``, or a sentence on why there is none."""
    try:
        data = json.loads(raw.decode("utf-8", "replace"))
    except RecursionError:
        return "nested too deeply"
    except ValueError as e:
        return f"not JSON: {str(e)[:100]}"
    return data if isinstance(data, dict) else "not a JSON object"


def text(value: object, limit: int = TEXT_MAX) -> str:
    """Return ``value`` when it is a string, made encodable and cut with a note of what is missing."""
    if not isinstance(value, str):
        return ""
    left = len(value) - limit
    shown = value if left <= 0 else f"{value[:limit]}\n… ({left} more characters)"
    return shown.encode("utf-8", "replace").decode("utf-8")


def word(value: object, limit: int = 128) -> str:
    """Return a short identifier-like string (a name, an id), else an empty one."""
    return _CONTROL.sub("", text(value, limit)[:limit])


def one_line(value: str, limit: int = SUMMARY_MAX) -> str:
    """Put a text on one line of at most ``limit`` characters."""
    # Cut before the substitution: a line may hold megabytes.
    line = _CONTROL.sub(" ", _SPACE.sub(" ", value[: limit * 8])).strip()
    return line if len(line) <= limit and len(value) <= limit * 8 else line[: limit - 1] + "…"


def table(value: object) -> dict[str, Any]:
    """Return ``value`` when it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    """Return ``value`` when it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def moment(value: object) -> int | None:
    """Milliseconds of a time given as ISO 8601 text or as a number of milliseconds."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return int(value) if 1 <= value < 1e14 else None
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        at = datetime.fromisoformat(value)
        ms = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000
    except (ValueError, OverflowError):
        return None
    return round(ms) if ms >= 1 else None


def blocks(content: object) -> Iterator[tuple[int, dict[str, Any]]]:
    """The content blocks of a message with their numbers; a plain string is one text block."""
    if isinstance(content, str):
        yield 0, {"type": "text", "text": content}
    for number, block in enumerate(items(content)):
        if isinstance(block, dict):
            yield number, block


def flat(content: object) -> str:
    """The text of a tool's result: its text blocks one below the other, other kinds named."""
    parts: list[str] = []
    for _, block in blocks(content):
        kind = word(block.get("type"))
        if kind == "text":
            parts.append(text(block.get("text"), _WHOLE))
        elif kind == "tool_reference":
            parts.append(f"[tool {word(block.get('tool_name'))}]")
        else:
            parts.append(f"[{kind or 'unknown'}]")
    return text("\n".join(parts))


def call_id(tool: str, given: object, cwd: str) -> str:
    """A digest that is the same for a permission request and the later report of that tool call.

    Relative paths count as below ``cwd`` (Claude Code resolves them in some reports only), and
    answers that a question has got meanwhile do not count.
    """
    arguments = table(given)
    if tool == "AskUserQuestion":
        arguments = {"questions": arguments.get("questions")}
    for name in _PATHS:
        path = arguments.get(name)
        if isinstance(path, str) and path and not path.startswith("/") and cwd.startswith("/"):
            arguments = {**arguments, name: posixpath.normpath(posixpath.join(cwd, path))}
    try:
        plain = json.dumps([tool, _bounded(arguments, 0)], sort_keys=True)
    except (ValueError, RecursionError):
        return ""
    return hashlib.sha256(plain.encode("ascii")).hexdigest()[:16]


def _bounded(value: object, depth: int) -> object:
    if depth > 12:
        return "…"
    if isinstance(value, str):
        return value[:_DIGEST_CHARS]
    if isinstance(value, list):
        return [_bounded(v, depth + 1) for v in value[:_DIGEST_ITEMS]]
    if isinstance(value, dict):
        return {k[:256]: _bounded(v, depth + 1) for k, v in value.items()}
    return value


def tool_summary(tool: str, given: object) -> str:
    """One line on what a tool call does."""
    arguments = table(given)

    def arg(name: str) -> str:
        return text(arguments.get(name), 2000)

    if tool in ("Read", "Write", "Edit", "MultiEdit", "NotebookEdit"):
        said = arg("file_path") or arg("notebook_path")
    elif tool == "Bash":
        said = one_line(arg("command"), 120)
    elif tool == "Grep":
        said = arg("pattern") + (f" in {arg('path')}" if arg("path") else "")
    else:
        field = {"Glob": "pattern", "WebFetch": "url", "WebSearch": "query", "Task": "description",
                 "Agent": "description", "Skill": "skill", "ToolSearch": "query"}.get(tool)  # fmt: skip
        said = arg(field) if field else ""
    if not said:
        try:
            said = json.dumps(_bounded(arguments, 0), ensure_ascii=False)[:100]
        except (ValueError, RecursionError):
            said = "?"
    return one_line(f"{tool}: {text(said)}")


_PASTED = re.compile(r"\n*</?pasted_content id=\"?[0-9a-zA-Z]{1,16}\"?>\n?")


def unwrapped(said: str) -> str:
    """A person's words without the tags that newer versions put around what was pasted."""
    return _PASTED.sub("", said) if "<pasted_content id=" in said else said


def bare_receipt(said: object) -> str:
    """The words of a prompt as a receipt; a text that boxd has cut keeps its beginning."""
    return unwrapped(text(said, _WHOLE)).removesuffix("…[cut]")
