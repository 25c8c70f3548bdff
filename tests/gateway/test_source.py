"""What may be named as a repository, and what its mirror is then called."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from gateway_support import commit, git, in_loop, make_repo
from hypothesis import given
from hypothesis import strategies as st

from thopter.gateway.source import SLUG, Source, check_branch, find_source, slug_for
from thopter.gateway.usergit import user_git
from thopter.model.errors import BadInput, NotFound, Refused


async def find(text: str, scratch: Path, env: dict[str, str] | None = None) -> Source:
    async with user_git(env or {}, scratch) as user:
        return await find_source(text, user)


REMOTES = {
    "https://github.com/owner/My.Repo.git": ("https", "my.repo"),
    "https://git.example.com:8443/a/b/": ("https", "b"),
    "ssh://git@host.example:2222/~/x.git": ("ssh", "x"),
    "git@github.com:owner/repo.git": ("ssh", "repo"),
    "host:path/to/repo": ("ssh", "repo"),
    "http://127.0.0.1:3000/x": ("http", "x"),
    "https://user@host/x": ("https", "x"),
}


@pytest.mark.parametrize("text", REMOTES)
@in_loop
async def test_addresses_of_repositories_are_taken_as_written(text: str, tmp_path: Path) -> None:
    found = await find(text, tmp_path)
    protocol, name = REMOTES[text]
    assert (found.source, found.protocol) == (text, protocol)
    assert SLUG.fullmatch(found.slug) and found.slug.rpartition("-")[0] == name


@in_loop
async def test_the_same_repository_written_otherwise_has_the_same_mirror(tmp_path: Path) -> None:
    same = ["https://h.test/o/r", "https://h.test/o/r.git", "https://h.test/o/r/", "https://h.test/o/r.git/"]
    assert len({(await find(text, tmp_path)).slug for text in same}) == 1
    assert (await find("https://h.test/p/r", tmp_path)).slug != (await find(same[0], tmp_path)).slug


REFUSED = [
    "", "relative/path", "./x", "~/x", "-x", "--upload-pack=touch x", "ext::sh -c touch% x", "fd::3", "git://h/x",
    "http://example.com/x", "ftp://h/x", "https://", "https://h", "https://h/", "https://u:secret@h/x",
    "https://h/x?y", "https://h/x#y", "ssh://-oProxyCommand=x/y", "-oProxyCommand=x:y", "ssh://h:99999/x",
    "https://-h/x", "ssh://-u@h/x", "a b:c", "host:-x", "host:", "https://h/a\nb", "x\0y",
    "h" * 5000, "transport::https://h/x", "git@host:/",
]  # fmt: skip


@pytest.mark.battery("G11", "H14")
@pytest.mark.parametrize("text", REFUSED)
@in_loop
async def test_what_is_no_address_or_would_start_a_program_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        await find(text, tmp_path)
    assert "secret" not in str(caught.value)


@given(st.text(max_size=80))
def test_every_name_makes_a_slug_that_is_a_safe_file_name(name: str) -> None:
    slug = slug_for(name, name)
    assert SLUG.fullmatch(slug) and ".." not in slug and len(slug) < 80


@pytest.mark.parametrize(
    "branch",
    [
        "-x",
        "a..b",
        "a b",
        "a~1",
        "a^",
        "a:b",
        "x.lock",
        "a//b",
        "/a",
        "a/",
        ".a",
        "a/.b",
        "a@{1}",
        "a\\b",
        "*",
    ],
)
def test_what_can_not_be_a_branch_is_refused(branch: str) -> None:
    with pytest.raises(BadInput):
        check_branch(branch)


def test_ordinary_branches_are_taken() -> None:
    for branch in ("main", "feature/x-1", "thopter/flag", "v1.2", "ünïcode", "a@b", "release/2026.11"):
        assert check_branch(branch) == branch


@in_loop
async def test_a_folder_inside_a_repository_means_the_repository(tmp_path: Path) -> None:
    repo = tmp_path / 'My Repo\'s "x"'
    await asyncio.to_thread(make_repo, repo, {"src/a/b.txt": "x"})
    top, inner = await find(str(repo), tmp_path), await find(f"file://{repo}/src/a", tmp_path)
    assert top == inner
    assert (top.source, top.work_tree, top.shallow) == (str(repo), repo, False)
    assert top.slug.startswith("my-repo-s-x-")


@in_loop
async def test_bare_repositories_and_work_trees_are_found_and_share_a_mirror(tmp_path: Path) -> None:
    repo = tmp_path / "r"
    await asyncio.to_thread(make_repo, repo)
    git("clone", "-q", "--bare", str(repo), str(tmp_path / "bare.git"))
    git("worktree", "add", "-q", str(tmp_path / "tree"), "-b", "other", cwd=repo)
    bare, tree = (
        await find(str(tmp_path / "bare.git"), tmp_path),
        await find(str(tmp_path / "tree"), tmp_path),
    )
    assert bare.work_tree is None and bare.slug.startswith("bare-")
    assert tree.work_tree == tmp_path / "tree" and tree.slug == (await find(str(repo), tmp_path)).slug
    assert tree.source == str(tmp_path / "tree")


@in_loop
async def test_a_path_without_a_repository_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dir").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / ".git").write_text("gitdir: /nowhere")
    for name in ("missing", "file", "dir", "broken"):
        with pytest.raises(NotFound):
            await find(str(tmp_path / name), tmp_path)


@in_loop
async def test_a_partial_clone_is_refused_with_what_to_do(tmp_path: Path) -> None:
    repo, part = tmp_path / "r", tmp_path / "part"
    await asyncio.to_thread(make_repo, repo)
    git("config", "uploadpack.allowFilter", "true", cwd=repo)
    git("clone", "-q", "--no-checkout", "--filter=blob:none", f"file://{repo}", str(part))
    with pytest.raises(Refused, match="partial clone") as caught:
        await find(str(part), tmp_path)
    assert "git fetch --refetch" in caught.value.hint


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
@in_loop
async def test_somebody_elses_repository_is_refused_unless_the_user_told_git_to_trust_it(
    tmp_path: Path,
) -> None:
    repo = tmp_path / "r"
    await asyncio.to_thread(make_repo, repo)
    for path in [repo, *repo.rglob("*")]:
        os.chown(path, 65534, 65534, follow_symlinks=False)
    with pytest.raises(Refused, match="belongs to another user") as caught:
        await find(str(repo), tmp_path)
    assert f"safe.directory {repo}" in caught.value.hint
    for number, trusted in enumerate((str(repo), "*", f"{tmp_path}/*")):
        home = tmp_path / f"home{number}"
        home.mkdir()
        (home / ".gitconfig").write_text(f"[safe]\n\tdirectory = {trusted}\n")
        assert (await find(str(repo), tmp_path, {"HOME": str(home)})).source == str(repo)


SETTINGS = r"""
[credential "https://h.test"]
	helper = "!f() {{ echo \"a b\"; }}; f"
[credential]
	helper = store
[http "https://h.test"]
	sslCAInfo = /ca.pem
[url "https://x.test/"]
	insteadOf = "x:"
[core]
	hooksPath = /evil
	fsmonitor = /evil
	pager = evil
	sshCommand = myssh -v
[alias]
	fetch = !evil
[filter "x"]
	clean = evil
[uploadpack]
	packObjectsHook = evil
[include]
	path = {home}/more
"""


@in_loop
async def test_only_logins_and_ways_of_a_users_settings_reach_git(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(SETTINGS.format(home=home))
    (home / "more").write_text("[http]\n\tproxy = http://p.test:1\n[gpg]\n\tprogram = evil\n")
    env = {"HOME": str(home), "SSH_AUTH_SOCK": "/agent"}
    async with user_git(env | {"ANTHROPIC_API_KEY": "sk", "LD_PRELOAD": "evil"}, tmp_path) as user:
        passed = await user.for_remote("ssh")
        done = await user.git(None, passed).run("config", "--global", "--list", "-z")
        seen = dict(item.partition("\n")[::2] for item in done.text.split("\0") if item)
    for key in ("credential.helper", "credential.https://h.test.helper", "core.sshcommand", "http.proxy"):
        assert key in seen
    assert (
        seen["http.https://h.test.sslcainfo"] == "/ca.pem" and seen["url.https://x.test/.insteadof"] == "x:"
    )
    assert {key.partition(".")[0] for key in seen} <= {"credential", "http", "url", "core"}
    assert '!f() { echo "a b"; }; f' in done.text and "evil" not in done.text
    assert passed == env | {"GIT_ALLOW_PROTOCOL": "ssh", "GIT_SSH_COMMAND": "myssh -v"}
    assert not list(tmp_path.glob(".git-*")), "the private copy stayed behind"


def test_a_commit_made_by_the_helpers_is_real(tmp_path: Path) -> None:
    first = make_repo(tmp_path / "r")
    assert commit(tmp_path / "r", "second", b="x") != first
