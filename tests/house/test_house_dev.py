"""``./dev`` on machines that lack things: a copy of it, with a PATH that holds only what is named."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from house_files import ROOT

TOOLS = ("bash", "env", "dirname", "mkdir", "tail", "sed", "rm", "mv", "python3", "cat", "id", "true")


class Machine:
    """A bare machine: a checkout in a path with spaces, and the few programs it has."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "a check out"
        self.bin = folder / "bin"
        self.calls = folder / "calls"
        self.checkout.mkdir(parents=True)
        self.bin.mkdir()
        shutil.copy2(ROOT / "dev", self.checkout / "dev")
        for name in ("pyproject.toml", "requirements.lock"):
            (self.checkout / name).write_text("nothing\n")
        for tool in TOOLS:
            found = shutil.which(tool, path="/usr/local/bin:/usr/bin:/bin")
            assert found is not None, tool
            (self.bin / tool).symlink_to(found)

    def program(self, name: str, script: str) -> None:
        """Give the machine a program; each call of it is noted."""
        path = self.bin / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >>"{self.calls}"\n{script}\n')
        path.chmod(0o755)

    def called(self) -> list[str]:
        """Return the noted calls."""
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def dev(self, *args: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run ``./dev`` from another folder, with no HOME."""
        return subprocess.run(
            [*prefix, "/bin/bash", str(self.checkout / "dev"), *args],
            cwd="/", env={"PATH": str(self.bin)}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip


@pytest.fixture
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="thopter-dev-") as folder:
        Path(folder).chmod(0o755)  # one test looks at it as somebody else
        yield Machine(Path(folder))


def test_without_a_verb_it_says_what_there_is(machine: Machine) -> None:
    bare, wrong, asked = machine.dev(), machine.dev("fly"), machine.dev("help")
    assert (bare.returncode, wrong.returncode, asked.returncode) == (2, 2, 0)
    assert "no verb 'fly'" in wrong.stderr
    for verb in ("setup", "demo", "test", "check", "bench", "docs", "lock", "thopter", "clean"):
        assert f"\n  {verb}" in asked.stdout
    assert asked.stdout in bare.stderr


def test_without_any_package_manager_it_names_what_is_missing(machine: Machine) -> None:
    done = machine.dev("setup")
    assert done.returncode == 1
    assert "no apt-get here" in done.stderr
    assert "tmux git" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_without_root_or_sudo_it_prints_the_exact_command_and_does_nothing(machine: Machine) -> None:
    machine.program("apt-get", "exit 0")
    machine.calls.touch(mode=0o666)
    somebody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    subprocess.run(["chown", "-R", "65534", str(machine.checkout)], check=True)
    done = machine.dev("setup", prefix=(shutil.which("setpriv") or "setpriv", *somebody[1:]))
    assert done.returncode == 1
    assert "apt-get update && apt-get install -y --no-install-recommends tmux git" in done.stderr
    assert machine.called() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="installing packages is for root")
def test_package_lists_are_fetched_only_when_they_are_what_is_wrong(machine: Machine) -> None:
    machine.program(
        "apt-get", f'[[ " $* " != *" install "* || -e "{machine.bin}/updated" ]] && >"{machine.bin}/updated"'
    )
    machine.dev("setup")
    verbs = [next(w for w in call.split() if w in ("install", "update")) for call in machine.called()]
    assert verbs[:3] == ["install", "update", "install"]
    machine.calls.unlink()
    machine.dev("setup")
    assert " update" not in machine.called()[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="installing packages is for root")
def test_a_failed_installation_shows_why_and_what_to_type(machine: Machine) -> None:
    machine.program("apt-get", "echo E: no space left; exit 100")
    done = machine.dev("setup")
    assert done.returncode == 1
    assert "E: no space left" in done.stderr
    assert "apt-get install -y --no-install-recommends" in done.stderr


def test_only_what_is_missing_is_asked_for(machine: Machine) -> None:
    for name in (
        "tmux",
        "git",
        "node",
        "npm",
        "ssh",
        "mkfs.btrfs",
        "dropbear",
        "sftp-server",
        "rsync",
        "curl",
    ):
        machine.program(name, "exit 0")
    done = machine.dev("setup")
    assert "missing: bubblewrap." in done.stderr


def test_a_python_that_is_too_old_is_named(machine: Machine) -> None:
    for name in (
        "tmux",
        "git",
        "node",
        "npm",
        "ssh",
        "mkfs.btrfs",
        "bwrap",
        "dropbear",
        "sftp-server",
        "rsync",
        "curl",
    ):
        machine.program(name, "exit 0")
    (machine.bin / "python3").unlink()
    machine.program("python3", '[[ $1 == --version ]] && echo "Python 3.9.2"; exit 0')
    done = machine.dev("setup")
    assert done.returncode == 1
    assert "needs Python 3.11 or newer and found Python 3.9.2" in done.stderr
    assert not (machine.checkout / ".dev/stamp").exists()


def test_this_checkout_is_ready_and_says_nothing_about_it() -> None:
    if not (ROOT / ".dev/stamp").exists():
        pytest.skip("not set up by ./dev: the environment was made by hand")
    env = {k: v for k, v in os.environ.items() if k != "HOME"}
    done = subprocess.run(
        [str(ROOT / "dev"), "setup"], cwd="/", env=env, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
