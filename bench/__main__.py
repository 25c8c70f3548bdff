"""``./dev bench [CASE…] [--json FILE] [--write]``: measure and print the table.

Each case runs in a process of its own with a time limit: what it measured before it failed is kept, why
it failed stands in the table, and the others run all the same.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from bench import cases
from bench.rows import SECONDS, Row, table

_TABLE = Path(__file__).parent / "TABLE.md"
_WHOLE_S = 1140.0  # the whole of it, when nothing is named
_CASE_S = 240.0  # one of many
_NAMED_S = 3600.0  # one that somebody asked for
_GRACE_S = 90.0  # to clean up after it was told to end


def main() -> int:
    """Run the chosen cases (all by default); a case that fails says why and is counted."""
    names = [m.name for m in pkgutil.iter_modules(cases.__path__)]
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("case", nargs="*", help="one of: " + ", ".join(names))
    parser.add_argument("--json", metavar="FILE", help="write the rows there too")
    parser.add_argument("--write", action="store_true", help="write bench/TABLE.md")
    parser.add_argument("--rows", metavar="FILE", help=argparse.SUPPRESS)  # this is the process of one case
    options = parser.parse_args()
    unknown = set(options.case) - set(names)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))} (there are: {', '.join(names)})")
    if options.rows:
        return _one(options.case[0], Path(options.rows))
    rows, failed = _all(options.case or names, named=bool(options.case))
    head = (
        f"Measured {time.strftime('%Y-%m-%d')} on {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} at the end."
    )
    text = f"{head}\n\n{table(rows)}\n"
    print(text)
    if options.json:
        Path(options.json).write_bytes(msgspec.json.format(msgspec.json.encode(rows)))
    if options.write:
        _TABLE.write_text("# The table\n\nHow to read it: README.md beside this file.\n\n" + text)
    return 1 if failed else 0


def _all(names: list[str], *, named: bool) -> tuple[list[Row], int]:
    began = time.monotonic()
    rows: list[Row] = []
    failed = 0
    for number, name in enumerate(names, 1):
        left = _NAMED_S if named else _WHOLE_S - (time.monotonic() - began)
        last = number == len(names)
        limit = left if named or last else min(_CASE_S, left)
        print(f"[{number}/{len(names)}] {name} …", file=sys.stderr, flush=True)
        start = time.monotonic()
        found, problem = _in_process(name, limit) if limit > 1 else ([], "no time was left for it")
        rows += found
        if problem:
            failed += 1
            rows.append(Row(name=f"case `{name}`", value=0, unit="", n=0, failed=problem))
        took = time.monotonic() - start
        print(f"    {len(found)} rows in {took:.0f} s{f'; {problem}' if problem else ''}", file=sys.stderr)
    return rows, failed


def _in_process(name: str, limit: float) -> tuple[list[Row], str]:
    """The rows of a case, and why there are not more of them."""
    with tempfile.TemporaryDirectory(prefix="thopter-bench-") as folder:
        file = Path(folder) / "rows"
        file.touch()
        argv = [sys.executable, "-m", "bench", name, "--rows", str(file)]
        child = subprocess.Popen(argv, env=os.environ | {SECONDS: str(limit)}, stderr=subprocess.PIPE)
        problem = ""
        try:
            _, said = child.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            problem = f"not done within {limit:.0f} s"
            said = _end(child)
        except KeyboardInterrupt:
            _end(child)
            raise
        words = said.decode(errors="replace").strip()
        if child.returncode and not problem:
            problem = words.splitlines()[-1] if words else f"it ended with {child.returncode}"
        if words:
            print("\n".join("    " + line for line in words.splitlines()[-30:]), file=sys.stderr)
        lines = file.read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Row) for line in lines], problem[:300]


def _end(child: subprocess.Popen[bytes]) -> bytes:
    """End a case so that it can clean up; by force when it does not."""
    child.send_signal(signal.SIGINT)
    try:
        return child.communicate(timeout=_GRACE_S)[1]
    except subprocess.TimeoutExpired:
        child.kill()
        return child.communicate()[1]


def _one(name: str, file: Path) -> int:
    """The process of one case: each row is written as soon as it is there."""
    try:
        for row in importlib.import_module(f"bench.cases.{name}").measure():
            with file.open("ab") as out:
                out.write(msgspec.json.encode(row) + b"\n")
    except Exception as e:  # noqa: BLE001 - whatever it is, it becomes a line of the table
        print(f"{type(e).__name__}: {' '.join(str(e).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
