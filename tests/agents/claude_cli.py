"""The real Claude Code programs that the tests drive, installed once into a cache."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

# An older one that many still have, and the one that goes into golden boxes.
VERSIONS = tuple(os.environ.get("THOPTER_TEST_CLAUDE_VERSIONS", "2.1.197,2.1.329").split(","))
PINNED = VERSIONS[-1]
_CACHE = Path(os.environ.get("THOPTER_TEST_CACHE") or Path.home() / ".cache" / "thopter-test")


def claude_program(version: str) -> Path:
    """Return the program of that exact version; installs it with npm when it is not in the cache."""
    folder = _CACHE / f"claude-{version}"
    program = folder / "bin" / "claude"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / f"claude-{version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _install(version, folder)
    return program


def _install(version: str, folder: Path) -> None:
    if shutil.which("npm") is None:
        pytest.fail("npm is needed to install Claude Code for these tests (or deselect: -m 'not claude')")
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    done = subprocess.run(
        ["npm", "install", "--global", "--no-audit", "--no-fund", "--loglevel=error",
         f"--prefix={part}", f"@anthropic-ai/claude-code@{version}"],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.fail(f"npm could not install claude-code {version}: {done.stderr[-600:]}")
    shown = subprocess.run(
        [part / "bin" / "claude", "--version"], capture_output=True, text=True, timeout=120
    )
    if not shown.stdout.startswith(version):
        pytest.fail(f"the installed claude says {shown.stdout!r} {shown.stderr!r}, not {version}")
    part.rename(folder)
