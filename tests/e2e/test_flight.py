"""The main job: three real agents at once on a real repository, from run to destroy."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from e2e_lab import SECRET, Lab

from thopter.testing.demo_repo import PROMPTS, create_demo_repo

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

NAMES = ("fix", "flag", "docs")


@pytest.fixture(scope="module")
def repo(flight: Lab) -> Path:
    path = flight.folder / "report"
    create_demo_repo(path)
    return path


@pytest.fixture(scope="module")
def flown(flight: Lab, repo: Path) -> Lab:
    """Three thopters that have done their jobs and wait."""
    for name, prompt in zip(NAMES, PROMPTS, strict=True):
        said = flight.run("run", "--repo", ".", "--name", name, prompt, cwd=repo, timeout=300)
        assert f"Thopter '{name}' running" in said.stdout
    flight.rest(*NAMES)
    return flight


def test_three_thopters_do_three_jobs_at_once(flown: Lab, repo: Path) -> None:
    base = flown.git(repo, "rev-parse", "HEAD")
    for name in NAMES:
        view = flown.view(name)
        assert (view["state"], view["reason"]) == ("waiting", "turn_end"), view
        assert view["isolation"] == "namespaces-idmapped" or view["isolation"] == "namespaces-user"
        diff = flown.json("diff", name)
        assert diff["commits"] >= 1, f"{name} committed nothing"
        assert diff["diff"].startswith("diff --git")
    assert flown.git(repo, "rev-parse", "HEAD") == base  # the user's clone was not touched
    assert not flown.git(repo, "status", "--porcelain")


def test_the_evidence_behind_a_state_is_shown(flown: Lab) -> None:
    detail = flown.json("status", "flag")
    assert detail["view"]["state"] == "waiting"
    assert any(e["source"] == "hook" and e["fact"] == "turn_ended" for e in detail["because"])
    text = flown.run("status", "flag").stdout
    assert "waiting" in text and "hook" in text


def test_tail_shows_the_conversation_with_tool_results_at_their_own_times(flown: Lab) -> None:
    lines = flown.run("tail", "flag", "-n", "100").stdout
    for role in ("user", "assistant", "tool_use", "tool_result"):
        assert role in lines
    assert "json" in lines


def test_a_told_message_comes_with_a_receipt_and_is_worked_on(flown: Lab) -> None:
    before = flown.json("diff", "flag")["commits"]
    said = flown.run("tell", "--no-tail", "flag", "also update the README")
    assert "taken" in said.stdout + said.stderr
    flown.until("a commit for the README", lambda: flown.json("diff", "flag")["commits"] > before)
    flown.rest("flag")
    assert "README" in flown.json("diff", "flag")["diff"]


def test_exec_gives_argv_exactly_and_the_exit_code(flown: Lab) -> None:
    script = "import sys; print(sys.argv[1:]); sys.stderr.write('err'); sys.exit(7)"
    done = flown.run(
        "exec", "flag", "--", "python3", "-c", script, "tests/test a.py", '"q"', "*", "", check=False
    )
    assert done.returncode == 7
    assert done.stdout.strip() == repr(["tests/test a.py", '"q"', "*", ""])
    assert done.stderr.endswith("err")
    assert flown.run("exec", "flag", "--", "cat", stdin="through").stdout == "through"


def test_the_work_is_pulled_as_a_branch_with_real_commits(flown: Lab, repo: Path) -> None:
    base = flown.git(repo, "rev-parse", "main")
    for name in NAMES:
        flown.run("pull", name, cwd=repo)
        commits = flown.git(repo, "rev-list", f"{base}..thopter/{name}").splitlines()
        assert len(commits) == flown.json("diff", name)["commits"] >= 1
        assert flown.git(repo, "merge-base", base, f"thopter/{name}") == base
    assert flown.git(repo, "rev-parse", "--abbrev-ref", "HEAD") == "main"
    worktree = repo.parent / "look"
    flown.git(repo, "worktree", "add", "-q", str(worktree), "thopter/flag")
    done = subprocess.run(
        ["python3", "-m", "unittest", "-q"], cwd=worktree, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_credential_reaches_the_model_and_nothing_in_the_box(flown: Lab) -> None:
    sent = {x.headers.get("authorization") for x in flown.model.exchanges if "messages" in x.seen.path}
    assert sent == {f"Bearer {SECRET}"}  # positive control: the gateway does add it
    look = (
        'grep -rlsF --exclude-dir=proc --exclude-dir=sys -- "$1$2" / ; '
        "cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n' "
        # This very search is among what it looks at: neither of its words is the whole secret.
        '| awk -v a="$1" -v b="$2" \'index($0, a b) { print } END { print (NR > 99) }\''
    )
    half = len(SECRET) // 2
    found = flown.run("exec", "flag", "--", "sh", "-c", look, "sh", SECRET[:half], SECRET[half:])
    assert found.stdout == "1\n", found
    for path in flown.paths.state.rglob("*"):
        if (
            path.is_file()
            and path.suffix in (".log", ".db", ".db-wal", ".json")
            and "secrets" not in path.name
        ):
            assert SECRET.encode() not in path.read_bytes(), path


def test_destroy_leaves_nothing(flown: Lab) -> None:
    flown.run("destroy", "--yes", *NAMES)
    assert flown.json("status") == []
    assert flown.leaks() == []
    missing = flown.run("status", "flag", check=False)
    assert missing.returncode == 3 and "flag" in missing.stderr
