"""Counts what the battery tried: a pytest plugin, loaded by ``tests/conftest.py``.

A test that shows a line of the battery is marked ``@pytest.mark.battery("S7")``. It may ask for the fixture
``battery`` and count; a test that does not stands for one attempt, refused if it passes. ``--battery``
runs the marked tests and nothing else, and writes what came of it to ``.dev/battery.json`` and from that
``docs/security-report.md``. What earlier runs found in other tests is kept, so a part may be run again.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from battery_report import KEPT, REPORT, Outcome, keep, kept, load_guards, load_lines, render


class Count:
    """What one test tried. Counting asserts nothing: that is the test's own affair."""

    def __init__(self) -> None:
        self.seen = {"attempts": 0, "refused": 0, "controls": 0, "canary": 0}
        self.compared: dict[str, dict[str, list[int] | str]] = {}

    def tried(self, attempts: int, refused: int, *, controls: int = 0, canary: int = 0) -> None:
        """Add attempts, how many of them were refused, controls that worked, hits of a canary."""
        for name, more in zip(self.seen, (attempts, refused, controls, canary), strict=True):
            self.seen[name] += more

    def compare(self, probe: str, kind: str, allowed: int, attempted: int) -> None:
        """Note for the comparison: ``kind`` of sandbox let through so many of ``attempted`` ways."""
        self.compared.setdefault(probe, {})[kind] = [allowed, attempted]

    def could_not_compare(self, kind: str, reason: str) -> None:
        """Note why a kind of sandbox has no column."""
        self.compared.setdefault("", {})[kind] = reason


@pytest.fixture
def battery(request: pytest.FixtureRequest) -> Count:
    """The counter of this test."""
    count = Count()
    request.node.user_properties.append(("battery count", count.seen))
    request.node.user_properties.append(("battery compared", count.compared))
    return count


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--battery``."""
    parser.addoption(
        "--battery", action="store_true", help="only the battery; writes docs/security-report.md"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Tell the marker; keep results where they are collected (not in workers of xdist)."""
    config.addinivalue_line("markers", "battery(*lines): shows these lines of the security battery")
    if config.getoption("battery") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Results(), "battery results")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check the lines that are named, hand them to the reports; leave out what is not asked for."""
    known, chosen = set(load_lines()), []
    for item in items:
        lines = [line for mark in item.iter_markers("battery") for line in mark.args]
        if lines:
            if unknown := set(lines) - known:
                raise pytest.UsageError(
                    f"{item.nodeid}: the battery has no line {', '.join(sorted(unknown))}"
                )
            item.user_properties.append(("battery lines", lines))
            chosen.append(item)
    if config.getoption("battery"):
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


class Results:
    """Collects what came of each test, and writes it at the end."""

    def __init__(self) -> None:
        self.found: dict[str, Outcome] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a test's last word: its call, or why it had none."""
        told: dict[str, Any] = dict(report.user_properties)
        if "battery lines" not in told or report.outcome == "rerun":  # it is run again
            return
        if report.when != "call" and report.outcome == "passed":
            return
        count = told.get("battery count") or {}
        reason = ""
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        numbers = count | {"counted": any(count.values()), "compared": told.get("battery compared") or {}}
        self.found[report.nodeid.removeprefix("tests/")] = Outcome(
            told["battery lines"], report.outcome, reason, time.strftime("%Y-%m-%d"), **numbers
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """Write both files."""
        yield
        if session.config.getoption("collectonly") or not self.found:
            return
        results = kept() | self.found
        keep(results)
        REPORT.write_text(render(load_lines(), load_guards(), kept()), "utf-8")


def pytest_report_header(config: pytest.Config) -> str:
    """Say where the report will be."""
    if not config.getoption("battery"):
        return ""
    root = Path(config.rootpath)
    return f"battery: writes {REPORT.relative_to(root)} and {KEPT.relative_to(root)}"


__all__ = ["Count", "battery"]
