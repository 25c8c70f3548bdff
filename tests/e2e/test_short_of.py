"""A machine that lacks something: one clear sentence with what to do, and nothing is made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_lab import Lab, lab

from thopter.testing.scripted_model import Scenario, Script, Turn

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(300)]

_PROGRAMS = ("git", "tmux", "sh", "bash", "env", "cp", "tar", "ssh", "unshare", "node")
SCENARIO = Scenario(
    script=(Script(name="slow", turns=(Turn(say="One word after another.", delay_ms=9000, chunk_ms=400),)),)
)


@pytest.fixture
def own() -> Iterator[Lab]:
    """A lab of the test's own."""
    with lab(SCENARIO) as made:
        yield made


@pytest.fixture
def small_disk(own: Lab, tmp_path: Path) -> Iterator[Path]:
    """A disk with 300 MiB, with the lab's state folder on it."""
    image, at = tmp_path / "image", tmp_path / "disk"
    with open(image, "wb") as f:
        f.truncate(300 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    at.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True)
    own.env["THOPTER_STATE_DIR"] = str(at / "state")
    try:
        yield at / "state"
    finally:
        own.run("hub", "stop", check=False)
        deadline = time.monotonic() + 60  # helpers of the hub go by themselves
        while subprocess.run(["umount", str(at)], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def _path_of(folder: Path, *names: str) -> str:
    folder.mkdir()
    for name in names:
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    return str(folder)


def _said(made: Lab, *argv: str, code: int = 1) -> str:
    done = made.run(*argv, check=False, timeout=200)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_a_run_on_a_disk_without_room_is_refused_and_nothing_is_made(own: Lab, small_disk: Path) -> None:
    said = _said(own, "run", "-d", "--name", "big", "go")
    assert "1 GiB is free" in said and "free some space" in said
    assert own.json("status") == []
    assert own.leaks() == []
    assert list((small_disk / "boxes").iterdir()) == []


@pytest.mark.parametrize("lacks", ["npm", "node"])
def test_without_npm_or_node_the_run_says_what_to_install_and_is_undone(
    own: Lab, tmp_path: Path, lacks: str
) -> None:
    shutil.rmtree(own.paths.state / "goldens", ignore_errors=True)
    names = [n for n in (*_PROGRAMS, "npm") if n != lacks]
    own.env["PATH"] = _path_of(tmp_path / "bin", *names)
    said = _said(own, "run", "--name", "bare", "go")
    assert f"no {lacks} on this machine" in said and "install nodejs and npm" in said, said
    assert own.leaks() == []
    assert [v for v in own.json("status") if v["state"] not in ("failed", "gone")] == []
    own.env["PATH"] = os.environ["PATH"]


def test_without_tmux_the_run_says_what_to_install_and_is_undone(own: Lab) -> None:
    shutil.rmtree(own.paths.state / "goldens", ignore_errors=True)
    hidden = 'mount --make-rprivate / && mount --bind /dev/null "$0" && exec "$@"'
    argv = ["unshare", "-m", "sh", "-c", hidden, shutil.which("tmux") or "", sys.executable]
    argv += ["-m", "thopter.cli.main", "run", "--name", "bare", "go"]
    done = subprocess.run(
        argv, cwd=own.folder, env=own.env, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, (done.returncode, done.stderr)
    assert "no tmux on this machine" in done.stderr and "apt install tmux" in done.stderr, done.stderr
    assert own.leaks() == []
    assert [v for v in own.json("status") if v["state"] not in ("failed", "gone")] == []


def test_a_slow_model_is_waited_for_and_the_run_is_never_called_anything_else(own: Lab) -> None:
    own.run("run", "-d", "--name", "slow", "script:slow", timeout=300)
    seen = set()
    deadline = time.monotonic() + 120
    while "waiting" not in seen:
        seen.add(own.view("slow").get("state"))
        assert time.monotonic() < deadline, seen
        time.sleep(0.5)
    assert seen <= {"starting", "working", "waiting"} and "working" in seen, seen
    own.until("it said it", lambda: "One word after another." in own.run("tail", "slow").stdout)
    own.run("destroy", "--yes", "slow")
