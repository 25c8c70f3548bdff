"""Pushes end to end: what a box may not push, what goes on upstream, and that nothing is lost or doubled."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_lab import SECRET, Lab, lab

REF = "refs/heads/thopter/bee"
POLICY = """
[policies.open]
extends = "default"
[policies.open.git]
push = "upstream"
[repos]
"{source}" = "open"
"""


class Hive:
    """A lab with thopter ``bee`` on a bare repository that counts how often its branch moved."""

    def __init__(self, made: Lab) -> None:
        self.lab = made
        work = made.repo("seed")
        self.bare = made.folder / "proj.git"
        made.git(work, "clone", "-q", "--bare", str(work), str(self.bare))
        self.updates = made.folder / "updates"
        hook = self.bare / "hooks/post-receive"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ncat >> {self.updates}\n")
        hook.chmod(0o755)
        self.policy = made.folder / "config/policy.toml"
        self.policy.parent.mkdir(exist_ok=True)
        self.policy.write_text(POLICY.format(source=self.bare))
        made.run("create", "bee", "--repo", str(self.bare))

    def box(self, script: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``script`` in the clone; stderr comes along in stdout."""
        return self.lab.run("exec", "-n", "bee", "--", "bash", "-lc", f"exec 2>&1; {script}", check=check)

    def commit_and_push(self, name: str, check: bool = True) -> str:
        """What git said in the box."""
        script = f"echo {name} > {name}.txt; git add -A; git commit -qm {name}; git push"
        return self.box(script, check).stdout

    def head(self) -> str:
        return self.box("git rev-parse HEAD").stdout.strip()

    def at(self) -> str:
        """Where the branch is upstream, "" for nowhere."""
        done = subprocess.run(
            ["git", "rev-parse", "-q", "--verify", REF],
            cwd=self.bare, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout.strip()

    def moves(self) -> list[str]:
        """The commits that the branch was moved to upstream, in order."""
        lines = self.updates.read_text().splitlines() if self.updates.exists() else []
        return [line.split()[1] for line in lines if line.endswith(REF)]

    def stands(self) -> dict[str, object]:
        """How the branch stands, as the hub has it."""
        return dict(self.lab.json("push", "bee", "--show")[0])


@pytest.fixture(scope="module")
def hive() -> Iterator[Hive]:
    with lab("demo") as made:
        yield Hive(made)


def test_a_push_of_the_box_is_upstream_before_git_in_the_box_ends(hive: Hive) -> None:
    said = hive.commit_and_push("one")
    assert f"remote: thopter: upstream has it: thopter/bee at {hive.head()[:12]}" in said
    assert hive.at() == hive.head() and hive.moves() == [hive.head()]
    assert f"thopter/bee is there, at {hive.head()[:12]}" in hive.lab.run("status", "bee").stdout


def test_a_refused_push_is_told_in_the_box_and_outside(hive: Hive) -> None:
    before = hive.at()
    hive.box("git checkout -q -b side")
    said = hive.box("mkdir -p .github/workflows; touch .github/workflows/x.yml; git add -A;"
                    "git commit -qm ci; git push origin HEAD:thopter/bee", check=False).stdout  # fmt: skip
    assert "remote: thopter: refused: .github/workflows/x.yml is protected" in said
    assert "remote: thopter: take that change out" in said

    def shown() -> bool:
        return "protected_path" in hive.lab.run("egress", "bee").stdout

    hive.lab.until("the refusal is shown", shown)
    assert "git.refused protected_path" in hive.lab.run("status", "bee").stdout
    pulled = hive.lab.run("pull", "bee", "--repo", str(hive.lab.folder / "seed"), check=False)
    assert pulled.returncode == 5 and "x.yml is protected" in pulled.stderr
    hive.box("git checkout -q thopter/bee; git branch -qD side")
    assert hive.at() == before


@pytest.mark.battery("G12")
def test_while_upstream_is_away_pushes_wait_and_are_made_once_it_is_back(hive: Hive) -> None:
    count, away = len(hive.moves()), Path(f"{hive.bare}.away")
    hive.bare.rename(away)
    try:
        said = hive.commit_and_push("two")
        assert "remote: thopter: taken; upstream can't have it yet" in said
        assert hive.stands()["state"] == "queued"
        assert "waits" in hive.lab.run("status", "bee").stdout
    finally:
        away.rename(hive.bare)
    hive.lab.until("it is upstream", lambda: hive.at() == hive.head())
    hive.lab.until("it is recorded", lambda: hive.stands()["state"] == "sent")
    assert hive.moves()[count:] == [hive.head()]


@pytest.mark.battery("G16")
def test_work_of_others_on_the_branch_is_left_alone_until_a_person_says_so(hive: Hive) -> None:
    seed = hive.lab.folder / "seed"
    hive.lab.git(seed, "commit", "-q", "--allow-empty", "-m", "by somebody else")
    hive.lab.git(seed, "push", "-q", "--force", str(hive.bare), f"HEAD:{REF}")
    theirs = hive.at()
    said = hive.commit_and_push("three")
    assert "remote: thopter: taken, but not brought upstream: its branch upstream is at" in said
    assert hive.at() == theirs and hive.stands()["state"] == "blocked"
    again = hive.lab.run("push", "bee", check=False)
    assert again.returncode == 5 and "--force" in again.stderr and hive.at() == theirs
    hive.lab.run("push", "bee", "--force")
    assert hive.at() == hive.head()


@pytest.mark.battery("G13")
@pytest.mark.parametrize("point", ["push.queued", "push.tried", "push.sent", "push.recorded"])
def test_a_hub_killed_anywhere_in_a_push_brings_it_upstream_exactly_once(hive: Hive, point: str) -> None:
    count, made = len(hive.moves()), hive.lab
    made.run("hub", "stop")
    made.run("hub", "start", env={"THOPTER_FAILPOINT": point})
    made.until("bee is served again", lambda: made.view("bee").get("alive"))
    pid = made.hub_pid()
    # The push goes on without the hub: the gateways outlive it.
    name = point.partition(".")[2]
    script = f"echo {name} > {name}.txt; git add -A; git commit -qm {name}; setsid git push >/tmp/said 2>&1 &"
    hive.box(script)
    made.until("the hub has died", lambda: not Path(f"/proc/{pid}").exists())
    made.run("hub", "start")
    made.until("it is recorded", lambda: hive.stands()["state"] == "sent")
    assert hive.moves()[count:] == [hive.head()]
    assert hive.at() == hive.head()


def test_the_box_fetches_what_is_new_upstream_when_a_person_asks_and_upstreams_absence_changes_nothing(
    hive: Hive,
) -> None:
    seed, away = hive.lab.folder / "seed", Path(f"{hive.bare}.away")
    hive.lab.git(seed, "commit", "-q", "--allow-empty", "-m", "news")
    hive.lab.git(seed, "push", "-q", "--force", str(hive.bare), "HEAD:refs/heads/main")
    news = hive.lab.git(seed, "rev-parse", "HEAD")
    look = "git fetch -q; git rev-parse origin/main"
    old = hive.box(look).stdout.strip()
    hive.bare.rename(away)
    try:
        failed = hive.lab.run("refresh", "bee", check=False)
        assert failed.returncode == 3 and str(hive.bare) in failed.stderr
        assert hive.box(look).stdout.strip() == old != news
    finally:
        away.rename(hive.bare)
    hive.lab.run("refresh", "bee")
    assert hive.box(look).stdout.strip() == news


def test_without_the_right_nothing_goes_by_itself_and_a_person_can(hive: Hive) -> None:
    hive.policy.write_text(hive.policy.read_text().replace('"upstream"', '"mirror"'))
    hive.lab.until("the policy is in force", lambda: hive.stands()["allowed"] is False)
    before = hive.at()
    assert "upstream" not in hive.commit_and_push("four")
    assert hive.at() == before
    hive.lab.run("push", "bee")
    assert hive.at() == hive.head()
    hive.policy.write_text(hive.policy.read_text().replace('"mirror"', '"none"'))

    def closed() -> bool:
        return "push nothing" in hive.box("git push", check=False).stdout

    hive.lab.until("the policy is in force", closed)
    for words in (["push", "bee"], ["push", "bee", "--force"], ["pull", "bee"]):
        refused = hive.lab.run(*words, check=False, cwd=hive.lab.folder / "seed")
        assert refused.returncode == 6 and "push nothing" in refused.stderr, refused


@pytest.mark.battery("G10")
def test_no_secret_of_the_hub_is_pushed(hive: Hive) -> None:
    hive.policy.write_text(POLICY.format(source=hive.bare))
    hive.lab.until("the policy is in force", lambda: hive.stands()["allowed"] is True)
    hive.box(f"echo 'token: {SECRET}' > conf; git add -A; git commit -qm conf")
    said = hive.box("git push", check=False).stdout
    assert "remote: thopter: refused: conf holds what looks like a secret" in said and SECRET not in said
    hive.box("git reset -q --hard HEAD^")
