"""How boxes of ours fare beside plain bubblewrap and sandbox-runtime, with the same probes (``--battery``).

The npm package is fetched at one version into a folder of its own; the report says what can't be had here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import local_ways
import pytest
from compare_probes import PROBES

from battery_plugin import Count

PACKAGE = "@anthropic-ai/sandbox-runtime"
VERSION = "0.0.83"
USER = 54_377
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def runtime() -> tuple[str, str]:
    """The program of sandbox-runtime, or "" and why there is none."""
    missing = [tool for tool in ("node", "npm", "bwrap", "socat", "rg") if shutil.which(tool) is None]
    if missing:
        return "", f"{', '.join(missing)} not installed, which it needs"
    folder = Path(tempfile.gettempdir()) / f"thopter-battery-srt-{VERSION}-{os.getuid()}"
    program = folder / "node_modules" / PACKAGE / "dist/cli.js"
    if not program.exists():
        folder.mkdir(mode=0o755, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            return "", f"{folder.name} belongs to somebody else"
        flags = ["--no-audit", "--no-fund", "--ignore-scripts", "--cache", str(folder / "cache")]
        argv = ["npm", "install", *flags, "--prefix", str(folder), f"{PACKAGE}@{VERSION}"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode or not program.exists():
            return "", f"npm could not fetch it: {done.stderr.strip()[-200:]!r}"
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    return str(program), ""


def run(argv: list[str], program: str, env: dict[str, str]) -> dict[str, dict[str, list[int]]]:
    """Every probe in every kind, by one operator."""
    done = subprocess.run(
        [*argv, str(HERE / "compare_probes.py"), *([program] if program else [])], cwd="/",
        env=env | {"PYTHONPATH": f"{HERE}:{HERE.parent}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, timeout=380, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found: dict[str, dict[str, list[int]]] = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(PROBES)
    return found


@pytest.mark.battery("S2", "S3", "S4", "S5", "S6", "S7", "S8", "S12", "S13", "S16", "E3", "E4")
@pytest.mark.parametrize("operator", ["an ordinary user", "root"])
def test_the_same_probes_in_boxes_of_ours_and_of_others(
    request: pytest.FixtureRequest, battery: Count, runtime: tuple[str, str], operator: str
) -> None:
    if not request.config.getoption("battery"):
        pytest.skip("the comparison runs with --battery only: it fetches a package")
    if os.geteuid() != 0 and operator == "root":
        pytest.skip("needs root")
    program, why = runtime
    if not program:
        battery.could_not_compare("srt", why)
    if os.geteuid() == 0 and operator != "root":
        with local_ways.home_of(USER) as home:
            env = {
                "PATH": "/usr/bin:/bin",
                "HOME": str(home),
                "TMPDIR": str(home),
                "PYTHONDONTWRITEBYTECODE": "1",
            }
            user = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"]
            found = run([*user, local_ways._env(home)], program, env)
    else:
        found = run([sys.executable], program, dict(os.environ))
    for probe, kinds in found.items():
        for kind, (allowed, tried) in kinds.items():
            battery.compare(f"{probe} (operator: {operator})", kind, allowed, tried)
        allowed, tried = kinds["thopter"]
        assert kinds["nothing"][0] > 0 or operator != "root", f"{probe}: works nowhere, so it shows nothing"
        limits = "S12" in probe and operator != "root"  # without control groups memory and disk have none
        assert allowed <= (2 if limits else 0), f"{probe}: {allowed} of {tried} got through"
