"""What ``docs/security-report.md`` says: the battery line by line, its guards, the comparison."""

from __future__ import annotations

import ast
import platform
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

HERE = Path(__file__).parent
LINES = HERE / "battery_lines.toml"
GUARDS = HERE / "battery_guards.toml"
KEPT = HERE.parent / ".dev/battery.json"
REPORT = HERE.parent / "docs/security-report.md"
GROUPS = {
    "S": "escape from a box, and its resources", "E": "egress", "G": "git", "H": "the hub's doors",
    "P": "files and snapshots", "X": "terminal, HTML, logs",
}  # fmt: skip
KINDS = ("nothing", "thopter", "bwrap", "srt")


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line: what is attacked; ``missing``: what of it no test shows; ``why``: it is not built."""

    what: str
    missing: str = ""
    why: str = ""


class Guard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A place in the code that holds a line, ``file:function``; the test that is red without it."""

    line: str
    guard: str
    test: str
    without: str


class Outcome(msgspec.Struct, frozen=True):
    """What came of one test (of one case, where it has several)."""

    lines: list[str]
    outcome: str
    reason: str = ""
    when: str = ""
    counted: bool = False
    attempts: int = 0
    refused: int = 0
    controls: int = 0
    canary: int = 0
    compared: dict[str, dict[str, Any]] = {}


class Sum(msgspec.Struct):
    """What several tests tried together."""

    attempts: int = 0
    refused: int = 0
    controls: int = 0
    canary: int = 0
    uncounted: int = 0

    def add(self, one: Outcome) -> None:
        """Add a test that ran; one that does not count is one attempt, refused if it passed."""
        if one.outcome == "skipped":
            return
        if one.counted:
            self.attempts += one.attempts
            self.refused += one.refused
            self.controls += one.controls
            self.canary += one.canary
        else:
            self.attempts += 1
            self.refused += one.outcome == "passed"
            self.uncounted += 1


def load_lines() -> dict[str, Line]:
    """Every line of the groups, in order."""
    return msgspec.convert(tomllib.loads(LINES.read_text("utf-8")), dict[str, Line])


def load_guards() -> list[Guard]:
    """Every guard that was taken out by hand, with the test that went red."""
    return msgspec.convert(tomllib.loads(GUARDS.read_text("utf-8"))["guards"], list[Guard])


def kept() -> dict[str, Outcome]:
    """What earlier runs found, by test; nothing where there was none."""
    return msgspec.json.decode(KEPT.read_bytes(), type=dict[str, Outcome]) if KEPT.exists() else {}


def keep(results: dict[str, Outcome]) -> None:
    """Write what was found; tests that are no longer there are forgotten."""
    there = {test: one for test, one in results.items() if _exists(test)}
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_bytes(msgspec.json.format(msgspec.json.encode(dict(sorted(there.items())))))


def _exists(test: str) -> bool:
    file, _, function = test.partition("::")
    path = HERE / file
    return path.exists() and f"def {function.partition('[')[0]}(" in path.read_text("utf-8")


@cache
def marked() -> dict[str, list[str]]:
    """Every test that carries lines of the battery, ``file::test``, and which."""
    found: dict[str, list[str]] = {}
    for path in sorted(HERE.glob("*/test_*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.battery":
                        lines = [ast.literal_eval(word) for word in mark.args]
                        found.setdefault(f"{path.relative_to(HERE)}::{node.name}", []).extend(lines)
    return found


def tests_of(name: str) -> list[str]:
    """The tests of a line."""
    return [test for test, lines in marked().items() if name in lines]


def verdict(name: str, line: Line, shown: dict[str, Outcome]) -> str:
    """The verdict on a line, worst first; ``shown``: what its tests came to."""
    idle = set(tests_of(name)) - {test.partition("[")[0] for test in shown}
    ran = [one for one in shown.values() if one.outcome != "skipped"]
    if failed := sorted(test for test, one in shown.items() if one.outcome == "failed"):
        return f"**FAILED**: {', '.join(failed)}"
    if not shown and idle:
        return "not shown: its tests were not run"
    if not shown:
        return f"not built: {line.why}" if line.why else f"not shown: {line.missing or 'no test ran'}"
    if not ran:
        return f"skipped here: {'; '.join(sorted({one.reason for one in shown.values()}))}"
    skipped = sorted({one.reason for one in shown.values() if one.outcome == "skipped"})
    less = [line.missing] * bool(line.missing) + [f"skipped here: {reason}" for reason in skipped]
    less += [f"not run: {test.partition('::')[2]}" for test in sorted(idle)]
    return f"partly; missing: {'; '.join(less)}" if less else "shown"


def render(lines: dict[str, Line], guards: list[Guard], results: dict[str, Outcome]) -> str:
    """The whole page."""
    parts = [_head(lines, results)]
    for group, title in GROUPS.items():
        parts.append(f"## {group}: {title}\n")
        parts.append(
            "| line | what is attacked | tests | attempts | refused | controls | canary hits | verdict |"
        )
        parts.append("|---|---|---|---|---|---|---|---|")
        for name, line in lines.items():
            if name[0] == group:
                parts.append(_row(name, line, {t: o for t, o in results.items() if name in o.lines}))
        parts.append("")
    return "\n".join([*parts, *_comparison(results), *_guards(guards)])


def _row(name: str, line: Line, shown: dict[str, Outcome]) -> str:
    total = Sum()
    for one in shown.values():
        total.add(one)
    tests = "<br>".join(f"`{test}`" for test in tests_of(name)) or "–"
    controls = str(total.controls) + ("+" if total.uncounted else "")
    numbers = [str(total.attempts), str(total.refused), controls, str(total.canary)] if shown else ["–"] * 4
    return f"| {name} | {line.what} | {tests} | {' | '.join(numbers)} | {verdict(name, line, shown)} |"


def _head(lines: dict[str, Line], results: dict[str, Outcome]) -> str:
    days = sorted({one.when for one in results.values()}) or ["never"]
    between = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    rows = []
    for group, title in GROUPS.items():
        total, words = Sum(), []
        for one in results.values():  # a test that shows several lines counts once
            if any(line[0] == group for line in one.lines):
                total.add(one)
        for name, line in lines.items():
            if name[0] == group:
                words.append(verdict(name, line, {t: o for t, o in results.items() if name in o.lines}))
        shown, partly = words.count("shown"), sum(w.startswith("partly") for w in words)
        failed = sum(w.startswith("**FAILED") for w in words)
        cells = [len(words), shown, partly, failed, len(words) - shown - partly - failed]
        cells += [total.attempts, total.refused, total.controls, total.canary]
        rows.append(f"| {group} ({title}) | {' | '.join(map(str, cells))} |")
    return _HEAD.format(
        when=between, tests=len(results), rows="\n".join(rows), kernel=platform.release(),
        skipped=sum(one.outcome == "skipped" for one in results.values()),
        counting=sum(one.counted for one in results.values()),
    )  # fmt: skip


def _comparison(results: dict[str, Outcome]) -> list[str]:
    cells: dict[str, dict[str, Any]] = {}
    for one in results.values():
        for probe, kinds in one.compared.items():
            cells.setdefault(probe, {}).update(kinds)
    reasons = cells.pop("", {})
    out = [_COMPARED]
    if not cells:
        return [*out, "Not run here.\n"]
    out += ["| probe | " + " | ".join(KINDS) + " |", "|---|---|---|---|---|"]
    for probe, kinds in cells.items():
        out.append(f"| {probe} | " + " | ".join(_cell(kinds.get(k)) for k in KINDS) + " |")
    whole = [sum(kinds.get(kind, [1])[0] == 0 for kinds in cells.values()) for kind in KINDS]
    out += [f"| **probes refused whole, of {len(cells)}** | " + " | ".join(map(str, whole)) + " |", ""]
    return [*out, *(f"No column for {kind}: {reason}.\n" for kind, reason in reasons.items()), _COUNTED]


def _cell(told: list[int] | None) -> str:
    return (
        "–" if told is None else f"{'**' if told[0] else ''}{told[0]}{'**' if told[0] else ''} of {told[1]}"
    )


def _guards(guards: list[Guard]) -> list[str]:
    rows = [f"| {g.line} | `{g.guard}` | {g.without} | `{g.test}` |" for g in guards]
    return [_GUARDED.format(count=len(guards)), *rows, ""]


_COLUMNS = """\
| line | what is attacked | tests | attempts | refused | controls | canary hits | verdict |
|---|---|---|---|---|---|---|---|"""
_HEAD = """# Security report

Written by `./dev test --battery` from the tests that carry a line of the battery; do not edit it. The lines
are those of the security reference, section 5; groups M (mesh), Z (fuzzing) and F (faults) are not in it.
Results of {when}, Linux {kernel}: {tests} tests and cases, {skipped} of them skipped (a skipped test shows
nothing, and is not counted below).

- **attempts**, **refused**: what was tried, and how often it was stopped. {counting} tests and cases count;
  every other one stands for one attempt however much it tries, so the numbers are rather too low.
- **controls**: what had to work for a refusal to mean anything, and did; `+`: and more of them in tests that
  do not count.
- **canary hits**: how often something was seen that must not be.
- **verdict**: *shown*; *partly*, with what no test shows; *not built* or *not shown*, with the reason.

| group | lines | shown | partly | failed | not shown or built | attempts | refused | controls | canary hits |
|---|---|---|---|---|---|---|---|---|---|
{rows}
"""
_COMPARED = """## Beside bubblewrap and sandbox-runtime

The same probes, one after another on the same machine: in a box of ours; in `bwrap --unshare-all` with the
machine's root bound read-only and a folder to work in, as many use it; and in npm's
`@anthropic-ai/sandbox-runtime` with an empty list of domains and writing allowed in that folder only. Each
cell: how many ways were let through, of how many tried; 0 is good. The other two do not claim to refuse all
of this: the table says what they *leave open as they come*, not that a promise was broken.
"""
_COUNTED = """Of files of the kernel each kind sees its own number. Limits are those that a box was
asked to have: 200 processes, 200 MiB, 32 MiB; the others have none to ask for. As an ordinary user without
control groups of its own a box has the first of the three only, as `thopter doctor` says too. In
sandbox-runtime and bubblewrap the machine's files can be read: that is how they are meant to be used.
"""
_GUARDED = """## Every guard has a test that is red without it

Each of these {count} guards was taken out by hand, the test run and seen to fail, and the guard put back.
House tests check that the guard and the test are still there.

| line | guard | what was done to it | the test that failed |
|---|---|---|---|"""
