"""The demo repository: a small real command line tool with tests, a bug, and an issue about it.

Commits are deterministic (same names, dates and contents give the same hashes), and nothing of the
machine's own git configuration has a say in them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from thopter.model.errors import Conflict, NotFound, ThopterError

# What the three thopters of the demo are asked; the scenario ``demo`` knows the answers.
PROMPTS = (
    "Fix the issue described in ISSUE.md, and add a test that fails without the fix.",
    "add a --json flag to the report command and test it",
    "Write a CHANGES.md from the git history and a docs/usage.md with examples that work.",
)

REPORT = '''#!/usr/bin/env python3
"""report: totals of a time sheet, project by project.

A time sheet is a CSV file with the columns date, project and hours.
"""

import argparse
import csv
import sys
from collections import defaultdict


def read_sheet(path):
    """Return the rows of a time sheet as (date, project, hours)."""
    with open(path, newline="", encoding="utf-8") as sheet:
        return [(row["date"], row["project"], float(row["hours"])) for row in csv.DictReader(sheet)]


def totals(rows):
    """Return (project, hours) pairs: most hours first, then by name."""
    hours = defaultdict(float)
    for _date, project, spent in rows:
        hours[project] += spent
    return sorted(hours.items(), key=lambda pair: (-pair[1], pair[0]))


def top(pairs, count):
    """Return the first ``count`` pairs."""
    return pairs[: count - 1]


def render(pairs):
    """Return the report as text, one project a line."""
    width = max((len(project) for project, _hours in pairs), default=0)
    return "\\n".join(f"{project:<{width}}  {hours:6.1f} h" for project, hours in pairs)


def main(argv=None):
    """Print the report; return the exit code."""
    parser = argparse.ArgumentParser(prog="report", description="Totals of a time sheet.")
    parser.add_argument("sheet", help="CSV file with the columns date, project and hours")
    parser.add_argument("--top", type=int, metavar="N", help="only the N projects with the most hours")
    args = parser.parse_args(argv)

    pairs = totals(read_sheet(args.sheet))
    if args.top is not None:
        pairs = top(pairs, args.top)

    print(render(pairs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
'''

TESTS = '''"""Tests of report; run with: python3 -m unittest discover -s tests"""

import os
import unittest

import report

SHEET = os.path.join(os.path.dirname(__file__), "..", "data", "hours.csv")


class TotalsTest(unittest.TestCase):
    def test_hours_of_a_project_are_added_up(self):
        rows = [("2026-01-05", "garden", 1.5), ("2026-01-06", "garden", 2.0)]
        self.assertEqual(report.totals(rows), [("garden", 3.5)])

    def test_most_hours_come_first_then_names(self):
        rows = [("2026-01-05", "b", 1.0), ("2026-01-05", "a", 1.0), ("2026-01-05", "c", 2.0)]
        self.assertEqual([project for project, _ in report.totals(rows)], ["c", "a", "b"])

    def test_the_sheet_of_the_example_is_read(self):
        self.assertEqual(len(report.read_sheet(SHEET)), 9)


class RenderTest(unittest.TestCase):
    def test_columns_are_aligned(self):
        text = report.render([("garden", 3.5), ("sea", 12.0)])
        self.assertEqual(text, "garden     3.5 h\\nsea       12.0 h")

    def test_no_projects_give_an_empty_report(self):
        self.assertEqual(report.render([]), "")


if __name__ == "__main__":
    unittest.main()
'''

SHEET = """date,project,hours
2026-01-05,website,6.5
2026-01-05,garden,1.0
2026-01-06,website,4.0
2026-01-06,invoices,2.5
2026-01-07,library,7.0
2026-01-08,invoices,3.0
2026-01-08,website,2.0
2026-01-09,garden,1.5
2026-01-09,library,3.5
"""

README = """# report

Totals of a time sheet, project by project.

```
$ python3 report.py data/hours.csv
website     12.5 h
library     10.5 h
invoices     5.5 h
garden       2.5 h
```

`--top N` shows only the N projects with the most hours.
"""

ISSUE = """# --top N leaves a project out

`--top 3` should list the three projects with the most hours. It lists two:

```
$ python3 report.py data/hours.csv --top 3
website    12.5 h
library    10.5 h
```

I expected `invoices` as well. `--top 1` prints nothing at all.
"""

# One commit each: message, then the files it adds.
HISTORY: tuple[tuple[str, dict[str, str]], ...] = (
    (
        "Add report: totals of a time sheet",
        {"report.py": REPORT, "data/hours.csv": SHEET, ".gitignore": "__pycache__/\n"},
    ),
    ("Test totals and layout", {"tests/test_report.py": TESTS}),
    ("Describe how to use it", {"README.md": README}),
    ("Note what is wrong with --top", {"ISSUE.md": ISSUE}),
)
_FIRST = 1_767_600_000  # 2026-01-05 08:00 UTC; each commit is a day later


def create_demo_repo(path: Path) -> str:
    """Make the repository at ``path`` (which must not exist, or be empty); returns its HEAD.

    Conflict when something is there already; NotFound without git. After a failure ``path`` may be
    left half made.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise Conflict(f"{path} is there already", hint="name a path that does not exist")
    path.mkdir(parents=True, exist_ok=True)
    _git(path, "init", "--quiet", "--template=", "--initial-branch=main")
    for day, (message, files) in enumerate(HISTORY):
        for name, text in files.items():
            file = path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            file.chmod(0o755 if text.startswith("#!") else 0o644)
        _git(path, "add", "--all")
        _git(path, "commit", "--quiet", "--message", message, at=_FIRST + day * 86_400)
    return _git(path, "rev-parse", "HEAD")


def _git(path: Path, *words: str, at: int = _FIRST) -> str:
    when = f"{at} +0000"
    env = {
        "PATH": os.environ.get("PATH", os.defpath), "HOME": os.devnull, "LC_ALL": "C",
        "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_AUTHOR_NAME": "Demo", "GIT_AUTHOR_EMAIL": "demo@example.org", "GIT_AUTHOR_DATE": when,
        "GIT_COMMITTER_NAME": "Demo", "GIT_COMMITTER_EMAIL": "demo@example.org", "GIT_COMMITTER_DATE": when,
    }  # fmt: skip
    try:
        done = subprocess.run(
            ["git", "-C", str(path), "-c", "core.hooksPath=/dev/null", "-c", "commit.gpgSign=false",
             "-c", "core.fileMode=true", *words],
            env=env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise NotFound("git is not installed", hint="install it, e.g. apt-get install git") from None
    if done.returncode:
        raise ThopterError(f"git {words[0]} failed in {path}: {done.stderr.strip()[:300]}")
    return done.stdout.strip()


def main(argv: list[str] | None = None) -> int:
    """``python -m thopter.testing.demo_repo PATH``: make it and print its HEAD."""
    words = sys.argv[1:] if argv is None else argv
    if len(words) != 1:
        print("usage: python -m thopter.testing.demo_repo PATH", file=sys.stderr)
        return 2
    try:
        print(create_demo_repo(Path(words[0])))
    except ThopterError as e:
        print(f"error: {e.message}" + (f"\n  hint: {e.hint}" if e.hint else ""), file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
