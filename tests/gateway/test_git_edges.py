"""Ways around the rules of a push that were once open: by links, padding, another box's rights, and size."""

from __future__ import annotations

import asyncio
import json
import os

import pytest
from gateway_support import Home, agit, ask, commit, git, in_loop, request
from git_rig import git_rig
from test_git_policy import OWN, TOKEN, push, write

from thopter.gateway.git import outbox, shapes


@in_loop
async def test_no_link_leads_out_by_way_of_another_link(place: Home) -> None:
    async with git_rig(place) as r:
        work = await r.clone(place.root / "work")
        (work / "a/b/c").mkdir(parents=True)
        os.symlink("../../..", work / "a/b/c/d")
        os.symlink("a/b/c/d/../../.ssh", work / "x")
        assert not os.path.realpath(work / "x").startswith(str(work)), "it would lead out"
        said = await push(work, ok=False)
        assert OWN not in r.refs() and "leads out of the repository" in said, said
        (work / "x").unlink()
        os.symlink("../../b/file", work / "a/b/c/../c/inside")
        await agit("commit", "-qa", "--amend", "-m", "inside only", cwd=work)
        await push(work)
        assert OWN in r.refs(), "a link that stays inside is taken"


@in_loop
async def test_a_padded_secret_is_known_wherever_it_stands(place: Home) -> None:
    secret = "dGhpcyBpcyBhIHNlY3JldCBrZXkgMzIgYnl0ZXMhISE="
    for text in (secret, f"KEY={secret}", f'key: "{secret}"', f"--key={secret},", f"https://x:{secret}/"):
        assert shapes.known(text.encode(), shapes.marks(secret)), text
    assert not shapes.known(b"KEY=dGhpcyBpcyBub3QgaXQgYXQgYWxsISEh", shapes.marks(secret))
    async with git_rig(place) as r:
        await r.attach("flag", known=shapes.marks(secret))
        work = await r.clone(place.root / "work")
        write(work, ".env", f"KEY={secret}\n")
        said = await push(work, ok=False)
        assert OWN not in r.refs() and "secret" in said, said


@in_loop
async def test_what_another_boxs_rights_allowed_stays_new_when_it_comes_back_from_upstream(
    place: Home,
) -> None:
    async with git_rig(place) as r:
        await r.attach("other", rights={"secrets": "allow"})
        theirs = await r.clone(place.root / "theirs", "other")
        write(theirs, "keys.txt", TOKEN)
        commit(theirs, "with a right that flag lacks")
        await agit("push", "-q", "origin", "HEAD:thopter/other", cwd=theirs)
        await agit("push", "-q", str(r.source), "HEAD:refs/heads/thopter/other", cwd=theirs)
        await r.mirrors.prepare(str(r.source))
        work = await r.clone(place.root / "work")
        await agit("fetch", "-q", str(theirs), "HEAD", cwd=work)
        await agit("reset", "-q", "--hard", "FETCH_HEAD", cwd=work)
        await agit("push", "origin", "HEAD:thopter/flag", cwd=work, ok=False)
        assert OWN not in r.refs()


@in_loop
async def test_a_tree_that_names_more_paths_than_any_memory_holds_is_refused(place: Home) -> None:
    async with git_rig(place) as r:
        work = await r.clone(place.root / "work")
        below = git("hash-object", "-w", "--stdin", cwd=work, input=b"x").strip()
        kind, mode = "blob", "100644"
        for _ in range(8):
            lines = "".join(f"{mode} {kind} {below}\t{n}\n" for n in range(10))
            below = git("mktree", cwd=work, input=lines.encode()).strip()
            kind, mode = "tree", "040000"
        top = git("mktree", cwd=work, input=f"040000 tree {below}\tbomb\n".encode()).strip()
        tip = git("commit-tree", top, "-p", "HEAD", "-m", "a hundred million paths", cwd=work).strip()
        said = await agit("push", "origin", f"{tip}:refs/heads/thopter/flag", cwd=work, ok=False)
        assert OWN not in r.refs() and "can't be judged" in said, said


@in_loop
async def test_pushes_at_once_leave_a_note_though_only_one_is_taken(place: Home) -> None:
    async with git_rig(place) as r:
        await r.attach("flag", rights={"push": "upstream"})
        works = []
        for number in range(4):
            work = await r.clone(place.root / f"work{number}")
            write(work, f"f{number}")
            commit(work, f"c{number}")
            works.append(work)
        pushing = (agit("push", "origin", "HEAD:thopter/flag", cwd=w, ok=None) for w in works)
        await asyncio.gather(*pushing)
        folder = place.state / "gateway/git-outbox" / r.slug
        note = json.loads((folder / "flag").read_text())
        assert OWN in r.refs() and note["ref"] == OWN, "whichever was taken, the hub looks at the branch"
        outbox.done(folder.parent, r.slug, "flag", "0" * 40)
        assert (folder / "flag").exists(), "only the note that was read is taken away"
        outbox.done(folder.parent, r.slug, "flag", note["new"])
        assert not (folder / "flag").exists()


@pytest.mark.battery("G9")
@in_loop
async def test_contents_of_lfs_are_refused_in_words_that_git_lfs_shows(place: Home) -> None:
    async with git_rig(place) as r:
        accept = "accept: application/vnd.git-lfs+json"
        for path in ("objects/batch", "locks/verify"):
            target = f"/r/{r.slug}.git/info/lfs/{path}"
            reply = await ask(r.ports["flag"], request("POST", target, b"{}", (accept,)))
            assert reply.status == 501 and reply.headers["content-type"] == "application/vnd.git-lfs+json"
            assert "contents of git LFS don't travel through this hub" in reply.json()["message"]
            assert "git lfs untrack" in reply.json()["message"]
