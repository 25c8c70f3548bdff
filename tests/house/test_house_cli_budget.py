"""The command line starts quickly: what it may not load, and what it costs (a report, no test)."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys

import pytest
from house_files import ROOT, name, source, tree

BUDGET_MS = 60
HEAVY = {
    "asyncio", "cryptography", "dbos", "email", "h11", "http.client", "httptools", "httpx2", "keyring",
    "multiprocessing", "platformdirs", "pydantic", "pysqlite3", "rich", "sqlalchemy", "sqlite3", "ssl",
    "starlette", "textual", "tomlkit", "uvicorn", "uvloop", "websockets", "xml", "zoneinfo",
    "thopter.agents", "thopter.fleet", "thopter.flow", "thopter.gateway", "thopter.hub",
    "thopter.providers", "thopter.store", "thopter.testing",
}  # fmt: skip


def loaded(code: str) -> set[str]:
    """Return every module that running ``code`` in a fresh Python loads."""
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize("what", ["thopter.cli.main", "thopter.cli.status", "thopter.mesh.client"])
def test_starting_the_command_line_loads_nothing_heavy(what: str) -> None:
    modules = loaded(f"import {what}")
    assert what in modules
    assert sorted(modules & HEAVY) == []


def test_the_command_line_and_its_client_never_use_asyncio() -> None:
    files = [*source("cli"), *source("mesh")]
    using = [
        name(p)
        for p in files
        for node in ast.walk(tree(p))
        if (isinstance(node, ast.Import) and any(a.name.split(".")[0] == "asyncio" for a in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "asyncio")
    ]
    assert files
    assert using == []


def test_what_importing_the_command_line_costs(record_property: pytest.RecordProperty) -> None:
    """Never fails for time: a slow machine is no defect. It fails when the figure can't be had."""
    report = "import time; a = time.process_time(); import thopter.cli.main; print(time.process_time() - a)"
    costs = []
    for _ in range(5):
        run = subprocess.run([sys.executable, "-I", "-c", report], capture_output=True, text=True, check=True)
        costs.append(float(run.stdout) * 1000)
    median = statistics.median(costs)
    record_property("import_ms", median)
    verdict = "within" if median <= BUDGET_MS else "OVER"
    print(f"importing thopter.cli.main: {median:.0f} ms of processor, {verdict} the budget of {BUDGET_MS} ms")
    assert median > 0


def test_the_budget_here_is_the_one_that_is_promised() -> None:
    text = (ROOT / "AGENTS.md").read_text("utf-8")
    assert re.search(rf"≤ {BUDGET_MS} ms", text)
