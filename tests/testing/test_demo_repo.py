"""The demo repository, and the three jobs on it by the real Claude Code and the scripted model."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from claude_cli import PINNED
from claude_lab import Lab, live

from thopter.model.errors import Conflict
from thopter.testing.demo_repo import PROMPTS, create_demo_repo
from thopter.testing.scripted_model import load_scenario
from thopter.testing.scripted_model.choose import choose


def git(path: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(path), "-c", "user.name=T", "-c", "user.email=t@example.org", *words],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def run_tests(path: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "unittest", "discover", "-s", "tests"],
        cwd=path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def report(path: Path, *argv: str) -> str:
    done = subprocess.run(
        [sys.executable, "report.py", "data/hours.csv", *argv],
        cwd=path, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout


def test_it_is_the_same_repository_every_time_whatever_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = create_demo_repo(tmp_path / "a")
    config = tmp_path / "config"
    config.write_text("[user]\n\tname = Other\n[commit]\n\tgpgSign = true\n[core]\n\tautocrlf = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert create_demo_repo(tmp_path / "b") == first
    monkeypatch.undo()
    assert git(tmp_path / "a", "status", "--porcelain") == ""
    assert git(tmp_path / "a", "log", "--format=%an %ad %s", "--date=short").splitlines()[-1] == (
        "Demo 2026-01-05 Add report: totals of a time sheet"
    )


def test_the_tests_pass_and_the_issue_is_real(tmp_path: Path) -> None:
    create_demo_repo(tmp_path / "report")
    assert run_tests(tmp_path / "report")[0] == 0
    shown = (tmp_path / "report" / "README.md").read_text()
    assert report(tmp_path / "report") in shown
    assert len(report(tmp_path / "report", "--top", "3").splitlines()) == 2
    assert report(tmp_path / "report", "--top", "3") in (tmp_path / "report" / "ISSUE.md").read_text()


def test_a_place_that_is_taken_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(Conflict):
        create_demo_repo(tmp_path)
    with pytest.raises(Conflict):
        create_demo_repo(tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"


def test_as_a_program_it_prints_its_head(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "thopter.testing.demo_repo"]
    done = subprocess.run(
        [*argv, str(tmp_path / "r")], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == git(tmp_path / "r", "rev-parse", "HEAD")
    again = subprocess.run(
        [*argv, str(tmp_path / "r")], capture_output=True, text=True, timeout=60, check=False
    )
    assert again.returncode == 5
    assert "there already" in again.stderr
    assert subprocess.run(argv, capture_output=True, timeout=60, check=False).returncode == 2


def test_the_scenario_knows_every_prompt() -> None:
    demo = load_scenario("demo")
    talks = [{"messages": [{"role": "user", "content": p}], "tools": [{}]} for p in PROMPTS]
    assert [choose(demo, talk).script for talk in talks] == ["fix", "flag", "docs"]


@pytest.mark.claude
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_three_jobs_end_in_real_commits_that_go_together(tmp_path: Path) -> None:
    base = tmp_path / "base"
    head = create_demo_repo(base)

    @live
    async def job(number: int, after: tuple[str, ...]) -> None:
        async with Lab(PINNED, load_scenario("demo"), prompt=PROMPTS[number]) as lab:
            shutil.rmtree(lab.cwd)
            git(base, "clone", "--quiet", str(base), str(lab.cwd))
            lab.start()
            await lab.rest(1)
            for turn, text in enumerate(after, 2):
                await lab.say(text)
                await lab.rest(turn)
            assert lab.git("status", "--porcelain") == ""
            failed = [h.body["tool_input"]["description"] for h in lab.events("PostToolUseFailure")]
            assert failed == (["See the new test fail"] if number == 0 else [])
            git(base, "fetch", "--quiet", str(lab.cwd), f"HEAD:refs/heads/job-{number}")

    job(0, ())
    job(1, ("also update the README", "stop, do the washing-up first"))
    job(2, ())
    for number in range(3):
        assert int(git(base, "rev-list", "--count", f"{head}..job-{number}")) == (3 if number == 1 else 1)
        git(base, "merge", "--quiet", "--no-edit", f"job-{number}")
    code, said = run_tests(base)
    assert code == 0, said
    assert "Ran 11 tests" in said
    assert len(report(base, "--top", "3").splitlines()) == 3
    example = '[{"project": "website", "hours": 12.5}, {"project": "library", "hours": 10.5}]'
    assert report(base, "--json", "--top", "2").strip() == example
    assert example in (base / "README.md").read_text()
    assert report(base) in (base / "docs" / "usage.md").read_text()
    assert "the washing-up" in (base / "NOTES.md").read_text()
