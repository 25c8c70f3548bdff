"""The security report can't lie: every line is in it, every test and every guard that it names is there."""

from __future__ import annotations

import re

from house_files import ROOT, functions

from battery_report import GROUPS, REPORT, load_guards, load_lines, marked, render

_COUNTS = {"S": 25, "E": 20, "G": 18, "H": 20, "P": 6, "X": 8}
_TEST = re.compile(r"`([a-z0-9_]+/test_[a-z0-9_]+\.py::test_[A-Za-z0-9_]+)`")


def test_the_battery_has_every_line_of_its_groups() -> None:
    wanted = [f"{group}{n}" for group, most in _COUNTS.items() for n in range(1, most + 1)]
    assert list(load_lines()) == wanted
    assert set(GROUPS) == set(_COUNTS)


def test_a_line_without_a_test_says_why_and_a_line_that_is_not_built_has_none() -> None:
    shown = {line for lines in marked().values() for line in lines}
    for name, line in load_lines().items():
        assert name in shown or line.why or line.missing, f"{name}: no test, and no reason"
        assert not (name in shown and line.why), (
            f"{name} has tests: say what is missing, not why there is none"
        )


def test_tests_name_lines_that_there_are() -> None:
    assert {line for lines in marked().values() for line in lines} <= set(load_lines())
    assert len(marked()) > 100


def test_the_report_names_every_line_and_only_tests_that_exist() -> None:
    text = REPORT.read_text("utf-8")
    assert re.findall(r"^\| ([SEGHPX]\d+) \|.*\|.*\|.*\|.*\|.*\|.*\|", text, re.M)[
        : len(load_lines())
    ] == list(load_lines())
    known = {
        f"{path.parent.name}/{path.name}::{name}"
        for path in (ROOT / "tests").glob("*/test_*.py")
        for name, _lines in functions(path)
    }
    assert set(_TEST.findall(text)) - known == set()
    assert "**FAILED**" not in text


def test_every_guard_is_a_function_that_exists_and_its_test_too() -> None:
    assert load_guards()
    for guard in load_guards():
        file, _, function = guard.guard.partition(":")
        assert (ROOT / file).is_file(), guard.guard
        text = (ROOT / file).read_text("utf-8")
        names = {name for name, _lines in functions(ROOT / file)}
        assert function in names or re.search(rf"^{re.escape(function)}\b.* = ", text, re.M), guard.guard
        path, _, test = guard.test.partition("::")
        assert test in {name for name, _lines in functions(ROOT / "tests" / path)}, guard.test
        assert guard.line in marked()[guard.test], f"{guard.test} does not carry {guard.line}"


def test_what_was_not_run_is_told_so() -> None:
    text = render(load_lines(), [], {})
    assert text.count("not shown: its tests were not run") > 60
    assert "| shown |\n" not in text
