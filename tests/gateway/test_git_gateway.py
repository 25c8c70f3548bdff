"""The git gateway as real git meets it: clone as you like, push your own branch and nothing else."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from gateway_support import Home, agit, commit, in_loop
from git_rig import git_rig, leftovers

from thopter.model.errors import BadInput, BadName, NotFound


@pytest.mark.battery("G17")
@pytest.mark.parametrize("version", ["0", "1", "2"])
@in_loop
async def test_every_protocol_version_clones_fetches_and_pushes(place: Home, version: str) -> None:
    async with git_rig(place) as r:
        pick = ("-c", f"protocol.version={version}")
        work = await r.clone(place.root / "work", "flag", *pick)
        assert (work / "a.txt").read_text() == "one\n"
        assert (await agit("tag", cwd=work)).split() == ["v1"]
        head = commit(work, "work", b="two")
        await agit(*pick, "push", "-q", "origin", "HEAD:thopter/flag", cwd=work)
        assert r.refs()["refs/heads/thopter/flag"] == head
        newer = commit(r.source, "upstream moved")
        await r.mirrors.prepare(str(r.source))
        await agit(*pick, "fetch", "-q", "origin", cwd=work)
        assert (await agit("rev-parse", "origin/main", cwd=work)).strip() == newer
        assert r.refs()["refs/heads/thopter/flag"] == head
        assert leftovers(r.mirror) == []


@pytest.mark.battery("G17")
@in_loop
async def test_shallow_partial_and_single_branch_clones_work_and_can_push(place: Home) -> None:
    async with git_rig(place) as r:
        for number in range(4):
            commit(r.source, f"c{number}", **{f"f{number}": "x" * 1000})
        ref, _ = await r.mirrors.prepare(str(r.source))
        for name, options in (
            ("s", ["--depth=1"]),
            ("p", ["--filter=blob:none"]),
            ("b", ["--single-branch"]),
        ):
            work = place.root / name
            await agit("clone", "-q", *options, r.url(), str(work))
            await agit("checkout", "-q", "-B", "thopter/flag", ref.base, cwd=work)
            head = commit(work, f"from {name}", g=name)
            await agit("push", "-q", "--force", "origin", "HEAD:refs/heads/thopter/flag", cwd=work)
            assert r.refs()["refs/heads/thopter/flag"] == head
        assert (await agit("rev-list", "--count", "HEAD", cwd=place.root / "s")).strip() == "2"


@in_loop
async def test_a_box_sees_the_sources_branches_and_its_own_and_no_other_boxs(place: Home) -> None:
    async with git_rig(place) as r:
        for box in ("flag", "other"):
            work = await r.clone(place.root / box, box)
            commit(work, f"by {box}", c=box)
            await agit("push", "-q", "origin", f"HEAD:thopter/{box}", cwd=work)
        await r.mirrors.drop_branch(r.slug, "nothing")
        for version in ("0", "2"):
            seen = await agit("-c", f"protocol.version={version}", "ls-remote", r.url("flag"))
            names = {line.split("\t")[1] for line in seen.splitlines()}
            assert names == {"HEAD", "refs/heads/main", "refs/heads/thopter/flag", "refs/tags/v1"}


@in_loop
async def test_a_box_may_rewrite_its_own_branch_unless_it_was_told_not_to(place: Home) -> None:
    async with git_rig(place) as r:
        work = await r.clone(place.root / "work")
        commit(work, "first try", b="x")
        await agit("push", "-q", "origin", "HEAD:thopter/flag", cwd=work)
        await agit("commit", "-q", "--amend", "-m", "second try", cwd=work)
        said = await agit("push", "origin", "HEAD:thopter/flag", cwd=work, ok=False)
        assert "non-fast-forward" in said
        await agit("push", "-q", "--force-with-lease", "origin", "HEAD:thopter/flag", cwd=work)
        await r.attach("flag", force=False)
        await agit("commit", "-q", "--amend", "-m", "third try", cwd=work)
        before = r.refs()
        said = await agit("push", "--force", "origin", "HEAD:thopter/flag", cwd=work, ok=False)
        assert "may not rewrite its branch" in said and r.refs() == before
        await agit("reset", "-q", "--hard", before["refs/heads/thopter/flag"], cwd=work)
        commit(work, "on top", d="x")
        await agit("push", "-q", "origin", "HEAD:thopter/flag", cwd=work)


PUSHES = {
    "main": ["HEAD:main"],
    "another box's branch": ["HEAD:refs/heads/thopter/other"],
    "a new branch": ["HEAD:refs/heads/feature"],
    "a branch below its own": ["HEAD:refs/heads/thopter/flag/sub"],
    "a branch above its own": ["HEAD:refs/heads/thopter"],
    "a longer name": ["HEAD:refs/heads/thopter/flag2"],
    "other case": ["HEAD:refs/heads/thopter/FLAG"],
    "a tag": ["v9"],
    "all tags": ["--tags"],
    "a tag with its branch": ["--follow-tags", "HEAD:thopter/flag", "refs/tags/v9"],
    "notes": ["HEAD:refs/notes/commits"],
    "a replacement": ["HEAD:refs/replace/0000000000000000000000000000000000000001"],
    "a pull request": ["HEAD:refs/pull/1/head"],
    "upstream's own": ["HEAD:refs/upstream/heads/main"],
    "what was dropped": ["HEAD:refs/dropped/flag/x"],
    "HEAD": ["HEAD:HEAD"],
    "deleting its own": [":refs/heads/thopter/flag"],
    "deleting main": [":refs/heads/main"],
    "two refs": ["HEAD:refs/heads/thopter/flag", "HEAD:refs/heads/main"],
    "two refs at once or none": ["--atomic", "HEAD:refs/heads/thopter/flag", "HEAD:refs/heads/main"],
    "everything": ["--mirror"],
    "a tree": ["HEAD^{tree}:refs/heads/thopter/flag"],
    "a blob": ["HEAD:a.txt:refs/heads/thopter/flag"],
    "a path trick": ["HEAD:refs/heads/thopter/../main"],
    "a shell in the name": ["HEAD:refs/heads/thopter/$(touch${IFS}x)"],
}


@pytest.mark.battery("G1")
@pytest.mark.parametrize("name", PUSHES)
@in_loop
async def test_a_push_of_anything_but_its_own_branch_moves_nothing(place: Home, name: str) -> None:
    async with git_rig(place) as r:
        work = await r.clone(place.root / "work")
        commit(work, "work", b="x")
        await agit("push", "-q", "origin", "HEAD:refs/heads/thopter/flag", cwd=work)  # the control
        other = await r.clone(place.root / "other", "other")
        commit(other, "others", b="y")
        await agit("push", "-q", "origin", "HEAD:refs/heads/thopter/other", cwd=other)
        commit(work, "more", c="x")
        await agit("tag", "v9", cwd=work)
        before = r.refs()
        said = await agit("push", "--force", "origin", *PUSHES[name], cwd=work, ok=False)
        assert r.refs() == before
        assert "Username" not in said and "Authentication" not in said
        if name in ("main", "another box's branch", "a new branch", "a tag", "two refs", "deleting its own"):
            assert "git push origin HEAD:refs/heads/thopter/flag" in said
        assert leftovers(r.mirror) == []


@pytest.mark.battery("G7")
@in_loop
async def test_history_that_does_not_start_where_the_box_started_is_refused(place: Home) -> None:
    async with git_rig(place) as r:
        work = await r.clone(place.root / "work")
        await agit("checkout", "-q", "--orphan", "unrelated", cwd=work)
        commit(work, "from nowhere", z="x")
        said = await agit("push", "origin", "HEAD:refs/heads/thopter/flag", cwd=work, ok=False)
        assert f"don't descend from {r.base[:12]}" in said and "refs/heads/thopter/flag" not in r.refs()
        await agit("replace", "--graft", "HEAD", r.base, cwd=work)  # a graft is only in the box's eyes
        await agit("push", "origin", "HEAD:refs/heads/thopter/flag", cwd=work, ok=False)
        assert "refs/heads/thopter/flag" not in r.refs()


@pytest.mark.battery("G7", "G8")
@in_loop
async def test_hostile_objects_are_refused_by_gits_own_checks(place: Home) -> None:
    async with git_rig(place) as r:
        work = await r.clone(place.root / "work")
        blob = (await agit("hash-object", "-w", "a.txt", cwd=work)).strip()
        evil = '[submodule "x"]\n\tpath = x\n\turl = -u./payload\n'
        modules = (await agit("hash-object", "-w", "--stdin", cwd=work, input=evil.encode())).strip()
        for name, object_id in (
            (".GIT/hooks", ""),
            (".git\u200c", blob),
            ("git~1", blob),
            (".gitmodules", modules),
        ):
            if not object_id:
                continue
            tree = (
                await agit("mktree", cwd=work, input=f"100644 blob {object_id}\t{name}\n".encode())
            ).strip()
            made = (await agit("commit-tree", "-p", r.base, "-m", "x", tree, cwd=work)).strip()
            said = await agit("push", "origin", f"{made}:refs/heads/thopter/flag", cwd=work, ok=False)
            assert "fsck" in said or "unpacker error" in said, name
            assert "refs/heads/thopter/flag" not in r.refs()
        assert leftovers(r.mirror) == []


@in_loop
async def test_big_pushes_and_long_negotiations_use_chunks_and_gzip_and_arrive(place: Home) -> None:
    async with git_rig(place) as r:
        work = await r.clone(place.root / "work")
        (work / "big.bin").write_bytes(os.urandom(6 << 20))
        head = commit(work, "big")
        await agit("push", "-q", "origin", "HEAD:thopter/flag", cwd=work, env={"GIT_TRACE_CURL": "0"})
        assert r.refs()["refs/heads/thopter/flag"] == head
        # Branches that the mirror has never heard of: many "have" lines in the negotiation.
        await agit("fast-import", "--quiet", cwd=work, input=b"".join(_loose(n) for n in range(400)))
        commit(r.source, "news", n="n")
        await r.mirrors.prepare(str(r.source))
        trace = {"GIT_TRACE_CURL": str(place.root / "trace"), "GIT_TRACE_CURL_NO_DATA": "1"}
        await agit("-c", "protocol.version=0", "fetch", "-q", "origin", cwd=work, env=trace)
        assert "Content-Encoding: gzip" in (place.root / "trace").read_text()


def _loose(number: int) -> bytes:
    who = b"t <t@t> %d +0000" % (2_000_000_000 + number)
    return b"commit refs/heads/loose%d\ncommitter %b\ndata 1\nx\n" % (number, who)


@pytest.mark.battery("G14")
@in_loop
async def test_twenty_boxes_push_to_one_repository_at_once(place: Home) -> None:
    async with git_rig(place) as r:
        heads: dict[str, str] = {}

        async def one(number: int) -> None:
            box = f"n{number}"
            await r.attach(box)
            work = await r.clone(place.root / box, box)
            heads[box] = await asyncio.to_thread(commit, work, box, **{"f": box})
            await agit("push", "-q", "origin", f"HEAD:thopter/{box}", cwd=work)

        await asyncio.gather(*(one(n) for n in range(20)))
        found = r.refs()
        assert {box: found[f"refs/heads/thopter/{box}"] for box in heads} == heads and len(heads) == 20


@in_loop
async def test_a_fresh_branch_started_by_the_hub_is_what_the_box_checks_out(place: Home) -> None:
    async with git_rig(place) as r:
        await r.mirrors.start_branch(r.slug, "flag", r.base)
        await agit("clone", "-q", "-b", "thopter/flag", r.url(), str(place.root / "w"))
        head = commit(place.root / "w", "x", x="x")
        await agit("push", "-q", cwd=place.root / "w")
        assert await r.mirrors.branch_head(r.slug, "flag") == head
        await r.mirrors.drop_branch(r.slug, "flag")
        assert f"refs/dropped/flag/{head}" in r.refs()


BAD = {
    "a branch of others": ({"branch": "main"}, BadInput),
    "a strange name": ({"branch": "thopter/../x"}, BadName),
    "no name": ({"branch": "thopter/"}, BadName),
    "a path": ({"repo": "../../etc-0123456789"}, BadInput),
    "no mirror": ({"repo": "none-0123456789"}, NotFound),
    "a short commit": ({"base": "abc"}, BadInput),
}


@in_loop
async def test_an_attachment_that_makes_no_sense_is_refused(place: Home) -> None:
    async with git_rig(place) as r:
        for fields, error in BAD.values():
            with pytest.raises(error):
                await r.attach("flag", **fields)
        await agit("ls-remote", r.url())
        listed = await r.client.list()
        assert listed["flag"]["branch"] == "thopter/flag" and listed["flag"]["repo"] == r.slug


@in_loop
async def test_where_the_system_allows_it_the_gateway_has_no_network_and_no_power(place: Home) -> None:
    async with git_rig(place) as r:
        pong = await r.client.ping()
        assert {"no-core", "no-new-privs", "not-dumpable", "no-capabilities"} <= set(pong.confined)
        status = Path(f"/proc/{r.pid}/status").read_text()
        for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"):
            assert line in status or os.geteuid() != 0
        if "no-network" in pong.confined:
            interfaces = Path(f"/proc/{r.pid}/net/dev").read_text().splitlines()[2:]
            assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
            assert os.stat(f"/proc/{r.pid}/ns/net").st_ino != os.stat("/proc/self/ns/net").st_ino
