"""Repositories as people name them, and work brought into a clone by real git."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from cli_support import Cli

from thopter.cli import repo, work
from thopter.model.api import PullInfo
from thopter.model.errors import BadInput, Conflict, NotFound, Refused, ThopterError

ENV = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "T",
    "GIT_AUTHOR_EMAIL": "t@example.invalid",
    "GIT_COMMITTER_NAME": "T",
    "GIT_COMMITTER_EMAIL": "t@example.invalid",
}


def git(where: Path, *args: str, input: bytes | None = None) -> str:
    done = subprocess.run(["git", "-C", str(where), *args], env=ENV, capture_output=True, input=input)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def commit(where: Path, name: str, text: str = "x\n") -> str:
    (where / name).write_text(text)
    git(where, "add", "-A")
    git(where, "commit", "-q", "-m", f"add {name}")
    return git(where, "rev-parse", "HEAD")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    path = tmp_path / "my clone"
    path.mkdir()
    git(path, "init", "-q", "-b", "main")
    commit(path, "README")
    return path


@pytest.fixture
def agent(tmp_path: Path, clone: Path) -> Path:
    """Where the work happened: a copy with two more commits on thopter/flag."""
    path = tmp_path / "box"
    git(tmp_path, "clone", "-q", str(clone), str(path))
    git(path, "checkout", "-q", "-b", "thopter/flag")
    commit(path, "a")
    commit(path, "b")
    return path


def bring(
    tmp_path: Path,
    clone: Path,
    agent: Path,
    target: str = "thopter/flag",
    *,
    force: bool = False,
    name: str = "thopter/flag",
    head: str = "",
) -> PullInfo:
    """The hub's part done by git itself (a bundle), then ours as ``thopter pull`` does it."""
    base = git(clone, "rev-parse", "main")
    info = PullInfo(branch=name, head=head or git(agent, "rev-parse", name), base=base, commits=2, dirty=0)
    folder = tmp_path / f"t{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    git(agent, "bundle", "create", "-q", str(folder / "work.bundle"), f"{base}..{name}", name)
    quarantine = work._quarantine(folder, folder / "work.bundle", clone, info)
    work._fetch(clone, quarantine, info, target, force)
    return info


def nothing(text: str) -> None:
    raise AssertionError(f"nothing was to be said: {text}")


def test_a_folder_becomes_the_top_of_its_repository(clone: Path):
    (clone / "deep" / "er").mkdir(parents=True)
    for given in (str(clone), str(clone / "deep/er")):
        assert repo.resolve(given, nothing) == str(clone)


def test_a_bare_repository_is_one_too(tmp_path: Path, clone: Path):
    git(tmp_path, "clone", "-q", "--bare", str(clone), str(tmp_path / "bare.git"))
    assert repo.resolve(str(tmp_path / "bare.git"), nothing) == str(tmp_path / "bare.git")


def test_uncommitted_changes_are_mentioned_with_their_number(clone: Path):
    said: list[str] = []
    (clone / "README").write_text("changed")
    (clone / "new").write_text("new")
    assert repo.resolve(str(clone), said.append) == str(clone)
    assert len(said) == 1 and "2 uncommitted changes" in said[0]


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("owner/repo", "https://github.com/owner/repo.git"),
        ("owner/repo.git", "https://github.com/owner/repo.git"),
        ("https://example.org/x.git", "https://example.org/x.git"),
        ("ssh://git@example.org/x", "ssh://git@example.org/x"),
        ("git@example.org:x/y.git", "git@example.org:x/y.git"),
    ],
)
def test_short_names_and_addresses(given: str, url: str):
    assert repo.resolve(given, nothing) == url


@pytest.mark.parametrize(
    "given",
    [
        "ext::sh -c evil",
        "file:///etc",
        "http://x/y",
        "-o",
        "--upload-pack=x",
        "a/b/c",
        "word",
        "../x/y/z",
        "own..er/re",
        "a\0b",
        "git://x/y",
    ],
)
def test_what_is_no_repository_is_refused(given: str):
    with pytest.raises((BadInput, NotFound)):
        repo.resolve(given, nothing)


def test_a_folder_that_is_missing_or_no_repository(tmp_path: Path):
    with pytest.raises(NotFound, match="no repository at"):
        repo.resolve(str(tmp_path / "missing"), nothing)
    with pytest.raises(BadInput, match="no git repository"):
        repo.resolve(str(tmp_path), nothing)


def test_an_existing_folder_wins_over_a_short_name(tmp_path: Path, clone: Path, monkeypatch):
    clone.rename(tmp_path / "repo")
    (tmp_path / "owner").mkdir()
    (tmp_path / "repo").rename(tmp_path / "owner" / "repo")
    monkeypatch.chdir(tmp_path)
    assert repo.resolve("owner/repo", nothing) == str(tmp_path / "owner" / "repo")


def test_git_variables_of_the_caller_point_nowhere_else(clone: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    assert repo.resolve(str(clone), nothing) == str(clone)


def test_work_arrives_as_a_branch_and_nothing_else_changes(tmp_path: Path, clone: Path, agent: Path):
    (clone / "README").write_text("being edited")
    before = (
        git(clone, "rev-parse", "HEAD"),
        git(clone, "status", "--porcelain"),
        git(clone, "stash", "list"),
    )
    info = bring(tmp_path, clone, agent)
    assert git(clone, "rev-parse", "thopter/flag") == info.head
    assert (
        git(clone, "rev-parse", "HEAD"),
        git(clone, "status", "--porcelain"),
        git(clone, "stash", "list"),
    ) == before
    assert git(clone, "rev-list", "--count", "main..thopter/flag") == "2"
    assert git(clone, "for-each-ref", "--format=%(refname)") == "refs/heads/main\nrefs/heads/thopter/flag"
    assert not (clone / ".git/FETCH_HEAD").exists() and not (clone / "a").exists()
    git(clone, "fsck", "--strict")


def test_it_arrives_again_with_what_was_added(tmp_path: Path, clone: Path, agent: Path):
    bring(tmp_path, clone, agent)
    commit(agent, "c")
    info = bring(tmp_path, clone, agent)
    assert git(clone, "rev-parse", "thopter/flag") == info.head
    bring(tmp_path, clone, agent)  # nothing new: no error


def test_another_branch_name_and_a_worktree_of_the_clone(tmp_path: Path, clone: Path, agent: Path):
    git(clone, "worktree", "add", "-q", str(tmp_path / "tree"), "-b", "side")
    info = bring(tmp_path, tmp_path / "tree", agent, "mine")
    assert git(clone, "rev-parse", "mine") == info.head


def test_a_branch_that_has_diverged_is_refused_unless_forced(tmp_path: Path, clone: Path, agent: Path):
    bring(tmp_path, clone, agent)
    git(clone, "checkout", "-q", "thopter/flag")
    mine = commit(clone, "mine")
    git(clone, "checkout", "-q", "main")
    commit(agent, "theirs")
    with pytest.raises(Conflict, match="has commits that the work does not have") as caught:
        bring(tmp_path, clone, agent)
    assert caught.value.exit_code == 5 and git(clone, "rev-parse", "thopter/flag") == mine
    info = bring(tmp_path, clone, agent, force=True)
    assert git(clone, "rev-parse", "thopter/flag") == info.head
    git(clone, "cat-file", "-e", mine)


def test_a_checked_out_branch_is_known_in_every_worktree(tmp_path: Path, clone: Path, agent: Path):
    bring(tmp_path, clone, agent)
    assert work._checked_out(clone) == {"refs/heads/main"}
    git(clone, "worktree", "add", "-q", str(tmp_path / "tree"), "thopter/flag")
    assert work._checked_out(clone) == {"refs/heads/main", "refs/heads/thopter/flag"}


def test_a_clone_without_the_base_is_told_so(tmp_path: Path, clone: Path, agent: Path):
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q", "-b", "main")
    commit(other, "else", "unrelated\n")
    base = git(clone, "rev-parse", "main")
    info = PullInfo(
        branch="thopter/flag", head=git(agent, "rev-parse", "HEAD"), base=base, commits=2, dirty=0
    )
    bundle = tmp_path / "w.bundle"
    git(agent, "bundle", "create", "-q", str(bundle), f"{base}..thopter/flag", "thopter/flag")
    with pytest.raises(Refused, match="does not have the commit"):
        work._quarantine(tmp_path, bundle, other, info)


def test_a_head_other_than_announced_is_refused(tmp_path: Path, clone: Path, agent: Path):
    with pytest.raises(Conflict, match="changed while"):
        bring(tmp_path, clone, agent, head="1" * 40)


@pytest.mark.battery("S9", "G8")
@pytest.mark.parametrize("entry", [".git", "..", ".GIT", "git~1", ".git\u200c"])
def test_a_tree_that_would_write_into_dot_git_never_enters_the_clone(
    tmp_path: Path, clone: Path, agent: Path, entry: str
):
    blob = git(agent, "hash-object", "-w", "--stdin", input=b"[core]\nfsmonitor = evil\n")
    raw = b"100644 " + entry.encode() + b"\0" + bytes.fromhex(blob)
    tree = git(agent, "hash-object", "-w", "-t", "tree", "--literally", "--stdin", input=raw)
    evil = git(agent, "commit-tree", tree, "-p", "HEAD", "-m", "evil")
    git(agent, "update-ref", "refs/heads/thopter/flag", evil)
    with pytest.raises(ThopterError):
        bring(tmp_path, clone, agent)
    assert (
        subprocess.run(["git", "-C", str(clone), "cat-file", "-e", evil], capture_output=True).returncode != 0
    )
    assert git(clone, "for-each-ref", "--format=%(refname)") == "refs/heads/main"


@pytest.mark.battery("S9", "G8")
def test_a_submodule_address_that_runs_a_command_never_enters_the_clone(
    tmp_path: Path, clone: Path, agent: Path
):
    (agent / ".gitmodules").write_text('[submodule "x"]\n\tpath = x\n\turl = -u./evil\n')
    git(agent, "add", "-A")
    git(agent, "commit", "-q", "-m", "evil")
    with pytest.raises(ThopterError):
        bring(tmp_path, clone, agent)
    assert git(clone, "for-each-ref", "--format=%(refname)") == "refs/heads/main"


@pytest.mark.parametrize(
    "junk",
    [b"", b"# v2 git bundle\n", b"\0" * 5000, b"# v2 git bundle\n" + b"1" * 40 + b" refs/heads/x\n\nPACK"],
)
def test_a_bundle_that_is_none_is_refused(tmp_path: Path, clone: Path, junk: bytes):
    (tmp_path / "junk.bundle").write_bytes(junk)
    info = PullInfo(branch="thopter/flag", head="1" * 40, base="2" * 40, commits=1, dirty=0)
    with pytest.raises(ThopterError):
        work._quarantine(tmp_path, tmp_path / "junk.bundle", clone, info)


def test_pull_outside_a_clone_is_refused_before_the_hub_is_asked(cli: Cli):
    done = cli.run("pull", "flag")
    assert done.code == 2 and "no git repository" in done.err and "--repo" in done.err
    done = cli.run("pull", "flag", "--repo", "/nonexistent")
    assert done.code == 2


def test_run_outside_a_repository_says_nothing_and_inside_it_gives_a_hint(cli: Cli, clone: Path):
    assert "--repo ." not in cli.run("run", "x").err
    assert "--repo ." in cli.run("run", "x", cwd=clone).err


@pytest.mark.parametrize(
    ("args", "input", "word"),
    [
        (("run",), None, "prompt is empty"),
        (("run", "  "), None, "prompt is empty"),
        (("run", "-"), b"", "prompt is empty"),
        (("run", "-"), b"a\0b", "NUL"),
        (("run", "-"), b"\xff\xfe", "UTF-8"),
        (("run", "-"), b"x" * ((1 << 20) + 1), "1 MiB"),
        (("run", "x", "--prompt-file", "f"), None, "either"),
        (("run", "--prompt-file", "/nonexistent"), None, "can't be read"),
        (("run", "--prompt-file", "/"), None, "can't be read"),
        (("run", "x", "--name", "a/b"), None, "not a usable name"),
        (("run", "x", "--name", "n" * 300), None, "not a usable name"),
        (("create", "a b"), None, "not a usable name"),
        (("create", "--attach", "--json"), None, "terminal"),
        (("run", "x", "--repo", "ext::sh"), None, "repo"),
        (("tell", "flag"), None, "text is empty"),
        (("tell", "flag", "-"), b" \n", "text is empty"),
        (("attach", "flag"), None, "needs a terminal"),
        (("exec", "flag", "--env", "1x=y", "--", "ls"), None, "K=V"),
        (("exec", "flag", "--env", "x", "--", "ls"), None, "K=V"),
        (("wait", "flag", "--for", "happiness"), None, "happiness"),
        (("wait", "flag", "--for", ","), None, "can't wait"),
    ],
)
def test_what_can_not_be_meant_is_exit_2_before_the_hub_is_asked(cli: Cli, args, input, word):
    done = cli.run(*args, input=input)
    assert done.code == 2 and word in done.err and "Traceback" not in done.err, done
