"""Two hundred random kills with the real agent: what was lost, doubled, leaked, and how long recovery took.

``THOPTER_SURVIVE_TRIALS`` changes the number, ``THOPTER_SURVIVE_SEED`` the choices. There are fewer when
there is not the time for them: the table says how many.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.rows import Row, p50, p99, seconds_left
from thopter.testing.scripted_model import running
from thopter.testing.small_disk import small_disk
from thopter.testing.survive import SCENARIO, Report, Survival, repository

_NAMES = ("ada", "ben", "cy", "dee")


def measure() -> list[Row]:
    """All rows of this case."""
    trials = int(os.environ.get("THOPTER_SURVIVE_TRIALS", "200"))
    seed = int(os.environ.get("THOPTER_SURVIVE_SEED", "1"))
    with _house() as env:
        repo = repository(Path(env["HOME"]) / "notes", env)
        for name in _NAMES:
            _cli(env, "run", "-d", "--repo", str(repo), "--name", name, "Wait for my notes.")
        survival = Survival(env, _NAMES, seed)
        end = time.monotonic() + seconds_left(3600) * 0.75 - 60  # a round is long, and so is the end
        while survival.report.trials < trials and (time.monotonic() < end or not survival.report.trials):
            survival.round()
            print(f"  {survival.report.trials} of {trials}", file=sys.stderr)
        return _rows(survival.report)


def _rows(report: Report) -> list[Row]:
    for kind in ("lost", "unclear", "cut", "doubled", "vanished", "leaked"):
        for line in getattr(report, kind):
            print(f"  {kind}: {line}", file=sys.stderr)
    counts = [
        Row(name=f"random kills: {what}", value=len(found), unit="", n=report.trials, budget="0",
            note=f"{report.acknowledged} acknowledged" if found is report.lost else "")
        for what, found in (
            ("acknowledged messages lost", report.lost), ("effects doubled", report.doubled),
            ("commits gone", report.vanished), ("things leaked", report.leaked),
        )
    ]  # fmt: skip
    counts += [
        Row(name=f"random kills: {what}", value=len(found), unit="", n=report.trials)
        for what, found in (("messages told as unclear", report.unclear), ("turns cut short", report.cut))
    ]
    print(f"  receipts {report.receipts}, processes killed {report.kills}", file=sys.stderr)
    recovery = [
        Row(name=f"back at the prompt after kill -9: {victim}", value=p50(ms) / 1000, p99=p99(ms) / 1000,
            unit="s", n=len(ms), note="four brought back at once, agent's own start included")
        for victim, ms in sorted(report.recovery_ms.items())
    ]  # fmt: skip
    every = [ms / 1000 for each in report.recovery_ms.values() for ms in each]
    p95 = sorted(every)[int(len(every) * 0.95)] if every else 0.0
    return [
        *counts,
        Row(name="back at the prompt, all kills (p95 instead of p99)", value=p50(every), p99=p95, unit="s",
            n=len(every)),
        *recovery,
    ]  # fmt: skip


@contextlib.contextmanager
def _house() -> Iterator[dict[str, str]]:
    with (
        tempfile.TemporaryDirectory(prefix="thopter-survive-", ignore_cleanup_errors=True) as folder,
        small_disk(Path(folder) / "state", 6144),
        running(SCENARIO) as model,
    ):
        (Path(folder) / "home").mkdir()
        env = {k: v for k, v in os.environ.items() if not k.startswith(("THOPTER_", "ANTHROPIC_"))} | {
            "HOME": folder + "/home",
            "THOPTER_STATE_DIR": folder + "/state",
            "THOPTER_CONFIG_DIR": folder + "/config",
            "THOPTER_AGENTS_CLAUDE_BASE_URL": model.url,
            "NO_COLOR": "1",
        }
        try:
            yield env
        finally:
            _cli(env, "destroy", "--yes", *_NAMES, check=False)
            _cli(env, "hub", "stop", check=False)
            code = (
                "import asyncio\nfrom thopter.kit.paths import find_paths\n"
                "from thopter.providers.local.provider import LocalProvider\n"
                "asyncio.run(LocalProvider(find_paths()).dismantle())\n"
            )
            subprocess.run([sys.executable, "-c", code], env=env, check=False, timeout=120)


def _cli(env: dict[str, str], *argv: str, check: bool = True) -> None:
    subprocess.run(
        [sys.executable, "-m", "thopter.cli.main", *argv],
        env=env, check=check, timeout=600, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
