"""Bringing the clone of a warm box to the wanted commit, by real git: exactly that, or not at all."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from thopter.fleet.take import REFRESH, WHY

BRANCH = "thopter/amber-heron"


def git(folder: Path, *argv: str) -> str:
    """Run git there."""
    who = ["-c", "user.name=Tess", "-c", "user.email=tess@example.invalid"]
    env = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    done = subprocess.run(
        ["git", *who, *argv], cwd=folder, capture_output=True, text=True, check=True, env=env
    )
    return done.stdout.strip()


class Place:
    """A repository, and the clone of a warm box of it."""

    def __init__(self, folder: Path) -> None:
        self.source, self.clone = folder / "source", folder / "clone it's"
        self.source.mkdir()
        git(self.source, "init", "-q", "-b", "main")
        self.commit("README.md", "one")
        git(folder, "clone", "-q", "--no-checkout", str(self.source), str(self.clone))
        git(self.clone, "checkout", "-q", "-B", BRANCH, self.head())

    def commit(self, file: str, text: str) -> str:
        (self.source / file).parent.mkdir(parents=True, exist_ok=True)
        (self.source / file).write_text(text)
        git(self.source, "add", "-A")
        git(self.source, "commit", "-q", "-m", f"{file}: {text}")
        return self.head()

    def head(self) -> str:
        return git(self.source, "rev-parse", "HEAD")

    def refresh(self, base: str, used: str = "") -> int:
        script = REFRESH.format(dir=shlex.quote(str(self.clone)))
        env = {"PATH": os.environ["PATH"], "HOME": str(self.clone)}
        argv = ["/bin/sh", "-c", script, "sh", base, BRANCH, used]
        return subprocess.run(argv, env=env, capture_output=True, check=False).returncode

    def state(self) -> tuple[str, str, str]:
        """HEAD, its branch, what is not committed."""
        return (
            git(self.clone, "rev-parse", "HEAD"),
            git(self.clone, "symbolic-ref", "--short", "HEAD"),
            git(self.clone, "status", "--porcelain"),
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_it_comes_to_the_wanted_commit_in_the_same_folder(place: Place) -> None:
    inode = place.clone.stat().st_ino
    base = place.commit("src/new.py", "two")
    assert place.refresh(base) == 0
    assert place.state() == (base, BRANCH, "")
    assert (place.clone / "src/new.py").read_text() == "two" and place.clone.stat().st_ino == inode


def test_the_commit_it_has_already_costs_nothing_and_needs_no_source(place: Place) -> None:
    base = place.head()
    place.source.rename(place.source.with_name("away"))
    assert place.refresh(base) == 0
    assert place.state() == (base, BRANCH, "")


def test_a_commit_of_another_line_of_history_is_reached_too(place: Place) -> None:
    place.commit("a.txt", "two")
    git(place.source, "checkout", "-q", "--orphan", "other")
    base = place.commit("b.txt", "three")
    assert place.refresh(base) == 0
    assert place.state()[:2] == (base, BRANCH)


@pytest.mark.parametrize("file", ["CLAUDE.md", "AGENTS.md", ".claude/settings.json", ".mcp.json"])
def test_changed_instructions_that_the_agent_has_read_already_are_not_gone_past(
    place: Place, file: str
) -> None:
    before = place.state()
    assert WHY[place.refresh(place.commit(file, "{}"))].startswith("the repository's instructions")
    assert place.state() == before


def test_a_clone_that_was_touched_is_not_used(place: Place) -> None:
    base = place.commit("a.txt", "two")
    (place.clone / "left.txt").write_text("?")
    assert "not as it was made" in WHY[place.refresh(base)]
    (place.clone / "left.txt").unlink()
    git(place.clone, "checkout", "-q", "-b", "elsewhere")
    assert "not on its branch" in WHY[place.refresh(base)]


def test_what_a_first_command_left_in_the_clone_stays(place: Place) -> None:
    base = place.commit("a.txt", "two")
    (place.clone / "built.txt").write_text("by the command")
    assert place.refresh(base, "used") == 0
    assert place.state() == (base, BRANCH, "?? built.txt")


def test_a_commit_that_does_not_come_is_an_error(place: Place) -> None:
    assert place.refresh("0" * 40) not in (0, *WHY)
