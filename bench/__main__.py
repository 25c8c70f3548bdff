"""``./dev bench [CASE…] [--json FILE] [--write]``: measure and print the table."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import platform
import sys
import time
from pathlib import Path

import msgspec

from bench import cases
from bench.rows import Row, table

_TABLE = Path(__file__).parent / "TABLE.md"


def main() -> int:
    """Run the chosen cases (all by default); a case that can't run here says why and is counted."""
    names = [m.name for m in pkgutil.iter_modules(cases.__path__)]
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("case", nargs="*", help="one of: " + ", ".join(names))
    parser.add_argument("--json", metavar="FILE", help="write the rows there too")
    parser.add_argument("--write", action="store_true", help="write bench/TABLE.md")
    options = parser.parse_args()
    unknown = set(options.case) - set(names)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))} (there are: {', '.join(names)})")
    rows: list[Row] = []
    skipped: list[str] = []
    for name in options.case or names:
        print(f"… {name}", file=sys.stderr)
        try:
            rows += importlib.import_module(f"bench.cases.{name}").measure()
        except Exception as e:  # noqa: BLE001 - one case must not take the others with it; it is shown
            skipped.append(f"{name}: {type(e).__name__}: {e}")
    head = (
        f"Measured {time.strftime('%Y-%m-%d')} on {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} at the end."
    )
    text = f"{head}\n\n{table(rows)}\n" + "".join(f"\nnot measured: {s}\n" for s in skipped)
    print(text)
    if options.json:
        Path(options.json).write_bytes(msgspec.json.format(msgspec.json.encode(rows)))
    if options.write:
        _TABLE.write_text("# The table\n\nHow to read it: README.md beside this file.\n\n" + text)
    return 1 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
