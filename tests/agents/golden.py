"""Recorded samples and what the driver reads in them, kept beside them as JSON.

``python tests/agents/golden.py`` writes the expectations anew; look at the difference before you
commit it, it is the review.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thopter.agents.claude import ClaudeAgent
from thopter.model.sockets import Reading

SAMPLES = Path(__file__).parent / "samples"
AT, SEEN = 1_796_100_000_000, 1_796_100_000_500
CLAUDE = ClaudeAgent()


def shown(reading: Reading) -> dict[str, Any]:
    """A reading as JSON, without what is empty."""
    evidence = [
        {"fact": e.fact, "at": e.at_ms, "detail": e.detail, **({"data": e.data} if e.data else {})}
        for e in reading.evidence
    ]
    entries = [
        {
            k: v
            for k, v in (
                ("role", e.role), ("key", e.key), ("at", e.at_ms), ("summary", e.summary), ("tool", e.tool),
                ("is_error", e.is_error), ("sidechain", e.sidechain), ("characters", len(e.text)),
            )
            if v
        }
        for e in reading.entries
    ]  # fmt: skip
    rest = {k: getattr(reading, k) for k in ("session", "transcript", "receipt", "receipt_kind", "problem")}
    whole = {"evidence": evidence, "entries": entries, **rest}
    return {k: v for k, v in whole.items() if v}


def _hook(raw: str) -> Reading:
    data = json.loads(raw)
    return CLAUDE.read_hook(data["event"], json.dumps(data["body"]).encode(), AT, SEEN)


def readings(file: Path) -> list[dict[str, Any]]:
    """What the driver reads in one sample file."""
    text = file.read_text(encoding="utf-8")
    if file.parent.name == "claude-hooks":
        event = file.name.split(".")[0]
        return [shown(CLAUDE.read_hook(event, text.encode(), AT, SEEN))]
    if file.parent.name == "screens":
        return [shown(CLAUDE.read_screen(text, AT))]
    if file.parent.name == "status":
        return [shown(CLAUDE.read_status(file.name, text.encode(), SEEN))]
    if "hooks" in file.stem:
        return [shown(_hook(line)) for line in text.splitlines()]
    folder = "s/subagents/agent-a" if file.stem == "subagent" else "s"
    return [
        shown(CLAUDE.read_transcript(f"-work/{folder}.jsonl", line.encode(), SEEN))
        for line in text.splitlines()
    ]


def sample_files() -> Iterator[Path]:
    """Every sample (expectations are not)."""
    for file in sorted(SAMPLES.rglob("*")):
        if file.is_file() and not file.name.endswith(".expected.json"):
            yield file


def expectation(file: Path) -> Path:
    """Where the expectation of a folder's samples stands."""
    return file.parent / f"{file.parent.name}.expected.json"


def all_expectations() -> dict[Path, dict[str, list[dict[str, Any]]]]:
    """What the present code reads, by file of expectations."""
    found: dict[Path, dict[str, list[dict[str, Any]]]] = {}
    for file in sample_files():
        found.setdefault(expectation(file), {})[file.name] = readings(file)
    return found


if __name__ == "__main__":
    for path, content in all_expectations().items():
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
