"""Mirrors: alone, true to their source, and never in the way of a box's branch."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from gateway_support import agit, alive, commit, eventually, git, in_loop, make_repo

from thopter.gateway.gitrun import Git, GitFailed
from thopter.gateway.mirror import Mirrors
from thopter.model.errors import BadInput, BadName, Conflict, NotFound, Refused, TimedOut


def refs(mirror: Path) -> dict[str, str]:
    listed = git("for-each-ref", "--format=%(refname) %(objectname)", cwd=mirror)
    return dict(line.split(" ") for line in listed.splitlines())  # type: ignore[misc]


def mirrors(tmp_path: Path, **env: str) -> Mirrors:
    return Mirrors(tmp_path / "mirrors", env)


@in_loop
async def test_a_mirror_has_the_branches_and_tags_and_stands_alone(tmp_path: Path) -> None:
    repo, m = tmp_path / "repo", mirrors(tmp_path)
    first = make_repo(repo)
    git("tag", "v1", cwd=repo)
    git("branch", "dev/x", cwd=repo)
    ref, dirty = await m.prepare(str(repo))
    assert (ref.source, ref.branch, ref.base, dirty) == (str(repo), "main", first, 0)
    assert refs(m.path(ref.slug)) == {
        "refs/heads/main": first, "refs/heads/dev/x": first, "refs/tags/v1": first,
        "refs/upstream/heads/main": first, "refs/upstream/heads/dev/x": first,
    }  # fmt: skip
    assert not (m.path(ref.slug) / "objects/info/alternates").exists()
    shutil.rmtree(repo)
    git("fsck", "--full", "--strict", cwd=m.path(ref.slug))
    git("clone", "-q", str(m.path(ref.slug)), str(tmp_path / "again"))
    assert (tmp_path / "again" / "a.txt").read_text() == "one\n"


@in_loop
async def test_the_repository_may_be_on_another_filesystem_and_is_never_written(tmp_path: Path) -> None:
    if os.stat("/dev/shm").st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no filesystem of its own here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        repo, m = Path(elsewhere) / 'a "work":b', mirrors(tmp_path)
        first = make_repo(repo)
        before = {p: p.lstat().st_mtime_ns for p in (repo / ".git").rglob("*")}
        ref, _ = await m.prepare(str(repo))
        assert {p: p.lstat().st_mtime_ns for p in (repo / ".git").rglob("*")} == before
        assert refs(m.path(ref.slug))["refs/heads/main"] == first
    git("fsck", "--full", "--strict", cwd=m.path(ref.slug))


@in_loop
async def test_a_refresh_follows_the_source_also_through_rewrites_and_renames(tmp_path: Path) -> None:
    repo, m = tmp_path / "repo", mirrors(tmp_path)
    make_repo(repo)
    git("branch", "a", cwd=repo)
    git("branch", "gone", cwd=repo)
    ref, _ = await m.prepare(str(repo))
    git("branch", "-m", "a", "a/b", cwd=repo)
    git("branch", "-D", "-q", "gone", cwd=repo)
    git("commit", "-q", "--amend", "--allow-empty", "-m", "rewritten", cwd=repo)
    git("tag", "-f", "v1", cwd=repo)
    head = git("rev-parse", "HEAD", cwd=repo).strip()
    again, _ = await m.prepare(str(repo))
    found = refs(m.path(ref.slug))
    assert again.base == head and found["refs/heads/main"] == head and found["refs/tags/v1"] == head
    assert {r for r in found if r.startswith("refs/heads/")} == {"refs/heads/main", "refs/heads/a/b"}


@in_loop
async def test_a_refresh_never_touches_what_boxes_pushed(tmp_path: Path) -> None:
    repo, m = tmp_path / "repo", mirrors(tmp_path)
    first = make_repo(repo)
    ref, _ = await m.prepare(str(repo))
    path = m.path(ref.slug)
    work = tmp_path / "work"
    git("clone", "-q", str(path), str(work))
    pushed = commit(work, "by the box")
    git("fetch", "-q", str(work), f"{pushed}:refs/heads/thopter/flag", cwd=path)
    # The user pulled an older state of it, deleted another, and has a branch that would be in the way.
    git("branch", "thopter/flag", cwd=repo)
    git("branch", "thopter/other", cwd=repo)
    await m.prepare(str(repo))
    assert await m.branch_head(ref.slug, "flag") == pushed
    assert await m.branch_head(ref.slug, "other") is None
    git("branch", "-D", "-q", "thopter/flag", "thopter/other", cwd=repo)
    git("branch", "thopter", cwd=repo)
    await m.prepare(str(repo))
    found = refs(path)
    assert found["refs/heads/thopter/flag"] == pushed and found["refs/upstream/heads/thopter"] == first


@in_loop
async def test_uncommitted_files_are_counted_and_not_in_the_mirror(tmp_path: Path) -> None:
    repo, m = tmp_path / "repo", mirrors(tmp_path)
    make_repo(repo, {"a.txt": "one\n", ".gitignore": "ignored\n"})
    (repo / "a.txt").write_text("changed\n")
    (repo / "new.txt").write_text("x")
    (repo / "ignored").write_text("x")
    ref, dirty = await m.prepare(str(repo))
    assert dirty == 2
    assert git("show", f"{ref.base}:a.txt", cwd=m.path(ref.slug)) == "one\n"


@in_loop
async def test_stashes_and_amended_commits_never_get_into_a_mirror(tmp_path: Path) -> None:
    repo, m = tmp_path / "repo", mirrors(tmp_path)
    make_repo(repo)
    secret = commit(repo, "oops", key="sk-secret")
    git("reset", "-q", "--hard", "HEAD~1", cwd=repo)
    (repo / "a.txt").write_text("stashed secret")
    git("stash", "-q", cwd=repo)
    stash = git("rev-parse", "refs/stash", cwd=repo).strip()
    ref, _ = await m.prepare(str(repo))
    await m.prepare(str(repo))
    for commit_id in (secret, stash):
        git("cat-file", "-e", commit_id, cwd=repo)  # the control
        git("cat-file", "-e", commit_id, cwd=m.path(ref.slug), ok=False)


@in_loop
async def test_an_empty_repository_is_refused_with_what_to_do_and_leaves_nothing(tmp_path: Path) -> None:
    repo, m = tmp_path / "repo", mirrors(tmp_path)
    git("init", "-q", "-b", "main", str(repo))
    with pytest.raises(Refused, match="no commit yet") as caught:
        await m.prepare(str(repo))
    assert "git commit --allow-empty" in caught.value.hint
    assert [p.name for p in m.folder.iterdir() if not p.name.endswith(".lock")] == []


@in_loop
async def test_a_branch_that_is_not_there_is_an_error_that_lists_some_that_are(tmp_path: Path) -> None:
    repo, m = tmp_path / "repo", mirrors(tmp_path)
    make_repo(repo)
    git("branch", "dev", cwd=repo)
    for _ in range(2):  # the first time, and with a mirror
        with pytest.raises(NotFound, match="has no branch 'nope'") as caught:
            await m.prepare(str(repo), "nope")
        assert "main" in caught.value.hint and "dev" in caught.value.hint
        await m.prepare(str(repo), "dev")
    with pytest.raises(BadInput):
        await m.prepare(str(repo), "--upload-pack=x")


@in_loop
async def test_head_may_be_detached_or_on_a_branch_of_boxes_and_a_clone_still_gets_there(
    tmp_path: Path,
) -> None:
    repo, m = tmp_path / "repo", mirrors(tmp_path)
    make_repo(repo)
    git("checkout", "-q", "--detach", cwd=repo)
    loose = commit(repo, "on no branch")
    for number in range(2):
        ref, _ = await m.prepare(str(repo))
        assert (ref.branch, ref.base) == ("HEAD", loose)
        git("clone", "-q", "--no-checkout", str(m.path(ref.slug)), str(tmp_path / f"clone{number}"))
        git("checkout", "-q", "-B", "thopter/x", loose, cwd=tmp_path / f"clone{number}")
    git("checkout", "-q", "-b", "thopter/old", cwd=repo)
    pulled = commit(repo, "pulled work")
    for branch in ("", "thopter/old"):
        ref, _ = await m.prepare(str(repo), branch)
        assert (ref.branch, ref.base) == ("thopter/old", pulled)
    git("clone", "-q", "--no-checkout", str(m.path(ref.slug)), str(tmp_path / "clone"))
    git("checkout", "-q", "-B", "thopter/x", pulled, cwd=tmp_path / "clone")


@in_loop
async def test_an_unborn_head_beside_real_branches_names_them(tmp_path: Path) -> None:
    repo, m = tmp_path / "repo", mirrors(tmp_path)
    make_repo(repo, branch="real")
    git("symbolic-ref", "HEAD", "refs/heads/unborn", cwd=repo)
    with pytest.raises(NotFound, match="unborn") as caught:
        await m.prepare(str(repo))
    assert "real" in caught.value.hint
    assert (await m.prepare(str(repo), "real"))[0].branch == "real"


@in_loop
async def test_a_shallow_source_makes_a_mirror_that_can_be_cloned_and_refreshed(tmp_path: Path) -> None:
    full, repo, m = tmp_path / "full", tmp_path / "repo", mirrors(tmp_path)
    make_repo(full)
    for number in range(3):
        commit(full, f"c{number}")
    git("clone", "-q", "--depth=1", f"file://{full}", str(repo))
    ref, dirty = await m.prepare(str(repo))
    assert dirty == 0 and git("rev-list", "--count", ref.base, cwd=m.path(ref.slug)).strip() == "1"
    new = commit(repo, "more")
    ref, _ = await m.prepare(str(repo))
    assert ref.base == new
    git("clone", "-q", f"file://{m.path(ref.slug)}", str(tmp_path / "clone"))


@in_loop
async def test_a_sha256_repository_has_a_sha256_mirror(tmp_path: Path) -> None:
    repo, m = tmp_path / "repo", mirrors(tmp_path)
    git("init", "-q", "-b", "main", "--object-format=sha256", str(repo))
    head = commit(repo, "x", f="x")
    ref, _ = await m.prepare(str(repo))
    assert ref.base == head and len(head) == 64
    commit(repo, "y", f="y")
    await m.prepare(str(repo))
    await m.start_branch(ref.slug, "flag", head)


HOSTILE = """
[core]
	fsmonitor = "touch {marker} #"
	hooksPath = {hooks}
	sshCommand = touch {marker}
	pager = touch {marker}
	askPass = {hooks}/post-checkout
	gitProxy = touch {marker}
[diff]
	external = touch {marker}
[filter "x"]
	clean = touch {marker}
	smudge = touch {marker}
	process = touch {marker}
	required = true
[uploadpack]
	packObjectsHook = touch {marker} #
[alias]
	status = !touch {marker}
[gpg]
	program = touch {marker}
[status]
	submoduleSummary = true
[include]
	path = {hooks}/more
"""


@pytest.mark.battery("S9", "G11")
@in_loop
async def test_nothing_that_a_repositorys_own_configuration_names_is_started(tmp_path: Path) -> None:
    repo, m, marker = tmp_path / "repo", mirrors(tmp_path), tmp_path / "marker"
    make_repo(repo, {"a.txt": "one\n", ".gitattributes": "* filter=x diff=x\n"})
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in (
        "post-checkout",
        "pre-receive",
        "reference-transaction",
        "post-index-change",
        "fsmonitor-watchman",
    ):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {marker}\n")
        (hooks / name).chmod(0o755)
    (hooks / "more").write_text(f"[core]\n\teditor = touch {marker}\n")
    with (repo / ".git" / "config").open("a") as config:
        config.write(HOSTILE.format(marker=marker, hooks=hooks))
    git("status", cwd=repo, ok=None)
    assert marker.exists(), "the control: plain git starts it"
    marker.unlink()
    (repo / "a.txt").write_text("two\n")
    ref, dirty = await m.prepare(str(repo))
    (repo / "a.txt").write_text("three\n")
    _, dirty_again = await m.prepare(str(repo))
    assert not marker.exists() and dirty == dirty_again == 1 and ref.branch == "main"


@in_loop
async def test_many_at_once_make_one_mirror(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    head = make_repo(repo)
    several = [mirrors(tmp_path) for _ in range(3)]
    found = await asyncio.gather(*(m.prepare(str(repo)) for m in several for _ in range(4)))
    assert {ref.base for ref, _ in found} == {head} and len({ref.slug for ref, _ in found}) == 1
    left = sorted(p.name for p in several[0].folder.iterdir())
    assert left == [f".{found[0][0].slug}.lock", f"{found[0][0].slug}.git"]


@in_loop
async def test_a_killed_hub_leaves_a_scratch_folder_that_the_next_one_replaces(tmp_path: Path) -> None:
    repo, m = tmp_path / "repo", mirrors(tmp_path)
    head = make_repo(repo)
    ref, _ = await m.prepare(str(repo))
    path = m.path(ref.slug)
    path.rename(m.folder / f".new-{ref.slug}")  # as if killed just before the rename
    (m.folder / f".new-{ref.slug}" / "HEAD").unlink()
    assert (await m.prepare(str(repo)))[0].base == head
    assert path.is_dir() and not (m.folder / f".new-{ref.slug}").exists()


@in_loop
async def test_a_mirror_with_an_old_configuration_gets_todays_rules(tmp_path: Path) -> None:
    repo, m = tmp_path / "repo", mirrors(tmp_path)
    make_repo(repo)
    ref, _ = await m.prepare(str(repo))
    git("config", "http.receivepack", "true", cwd=m.path(ref.slug))
    git("config", "receive.denyDeletes", "false", cwd=m.path(ref.slug))
    await m.prepare(str(repo))
    assert git("config", "http.receivepack", cwd=m.path(ref.slug)).strip() == "false"
    assert git("config", "receive.denyDeletes", cwd=m.path(ref.slug)).strip() == "true"


@in_loop
async def test_a_boxs_branch_is_started_counted_bundled_and_dropped_without_losing_it(tmp_path: Path) -> None:
    repo, m = tmp_path / "repo", mirrors(tmp_path)
    base = make_repo(repo)
    ref, _ = await m.prepare(str(repo))
    slug, path = ref.slug, m.path(ref.slug)
    assert await m.branch_head(slug, "flag") is None and await m.drop_branch(slug, "flag") is None
    with pytest.raises(NotFound):
        await _bundle(m, slug, base)
    await m.start_branch(slug, "flag", base)
    await m.start_branch(slug, "flag", base)
    with pytest.raises(Refused, match="no commit beyond"):
        await _bundle(m, slug, base)
    head = git("commit-tree", "-p", base, "-m", "work", f"{base}^{{tree}}", cwd=path).strip()
    git("update-ref", "refs/heads/thopter/flag", head, cwd=path)
    assert await m.count_commits(slug, base, "flag") == 1
    with pytest.raises(Conflict):
        await m.start_branch(slug, "flag", base)
    (tmp_path / "work.bundle").write_bytes(await _bundle(m, slug, base))
    git(
        "fetch",
        "-q",
        str(tmp_path / "work.bundle"),
        "refs/heads/thopter/flag:refs/heads/thopter/flag",
        cwd=repo,
    )
    assert git("rev-parse", "thopter/flag", cwd=repo).strip() == head
    assert await m.drop_branch(slug, "flag") == head
    assert await m.branch_head(slug, "flag") is None
    assert refs(path)[f"refs/dropped/flag/{head}"] == head
    with pytest.raises(BadName):
        await m.branch_head(slug, "../main")
    with pytest.raises(BadInput):
        await m.branch_head("../../etc-0123456789", "flag")
    with pytest.raises(NotFound):
        await m.branch_head("nothing-0123456789", "flag")


async def _bundle(m: Mirrors, slug: str, base: str) -> bytes:
    return b"".join([part async for part in m.bundle(slug, base, "flag")])


@in_loop
async def test_an_abandoned_bundle_leaves_no_git_behind(tmp_path: Path) -> None:
    repo, m = tmp_path / "repo", mirrors(tmp_path)
    base = make_repo(repo)
    (repo / "big").write_bytes(os.urandom(8 << 20))
    ref, _ = await m.prepare(str(repo))
    commit(repo, "big one")
    git("fetch", "-q", str(repo), "main:refs/heads/thopter/flag", cwd=m.path(ref.slug))
    async with contextlib.aclosing(m.bundle(ref.slug, base, "flag")) as parts:
        async for _part in parts:
            break
    left = subprocess.run(["pgrep", "-f", str(m.path(ref.slug))], capture_output=True, text=True, check=False)
    assert left.stdout == ""


@in_loop
async def test_a_git_that_takes_too_long_is_ended_with_all_it_started(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    make_repo(repo)
    pid_file = tmp_path / "pid"
    slow = Git(repo, config=[("alias.slow", f"!sh -c 'echo $$ > {pid_file}; sleep 600 & sleep 600'")])
    with pytest.raises(TimedOut, match="git slow took longer"):
        await slow.run("slow", seconds=2.0)
    group = int(pid_file.read_text())
    await eventually(lambda: not alive(group))


@in_loop
async def test_a_failing_git_is_quoted_in_one_safe_line(tmp_path: Path) -> None:
    with pytest.raises(GitFailed) as caught:
        await Git(tmp_path).run("rev-parse", "--verify", "evil\x1b[31m\nfatal: forged")
    assert "\x1b" not in caught.value.message and "\n" not in caught.value.message
    assert sys.version_info >= (3, 11) and await agit("--version")
