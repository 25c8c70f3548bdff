"""Pushes from the mirror to where a repository came from: https, ssh and files, and all that can go wrong."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from gateway_support import commit, git, in_loop
from upstream_rig import NAME, REF, TOKEN, Rig, basic, https, sshd

from thopter.gateway.git import outbox
from thopter.model.errors import NotAllowed


@in_loop
async def test_a_push_to_a_repository_on_this_machine_moves_one_branch_and_again_is_success(
    tmp_path: Path,
) -> None:
    r = Rig(tmp_path)
    await r.mirrored()
    ups = r.upstreams()
    for _ in range(2):
        done = await ups.push(r.slug, NAME, str(r.bare), "p", r.a, "")
        assert (done.kind, r.at()) == ("done", r.a)
    assert r.moves() == [f"{'0' * 40} {r.a} {REF}"]
    assert (await ups.push(r.slug, NAME, str(r.bare), "p", r.b, r.a)).kind == "done"
    assert await ups.where(r.slug, NAME, str(r.bare), "p") == r.b
    assert git("rev-parse", "main", cwd=r.bare).strip() == r.base


@pytest.mark.battery("G16")
@in_loop
async def test_what_others_put_there_is_not_overwritten(tmp_path: Path) -> None:
    r = Rig(tmp_path)
    await r.mirrored()
    ups = r.upstreams()
    git("checkout", "-q", "-b", "theirs", r.base, cwd=r.work)
    theirs = commit(r.work, "theirs", t="t")
    git("push", "-q", str(r.bare), f"{theirs}:{REF}", cwd=r.work)
    for believed in ("", r.a):
        found = await ups.push(r.slug, NAME, str(r.bare), "p", r.b, believed)
        assert (found.kind, found.theirs, found.behind, r.at()) == ("moved", theirs, False, theirs)
    git("push", "-q", "--force", str(r.bare), f"{r.a}:{REF}", cwd=r.work)
    found = await ups.push(r.slug, NAME, str(r.bare), "p", r.b, "")
    assert (found.kind, found.theirs, found.behind, r.at()) == ("moved", r.a, True, r.a)
    git("push", "-q", str(r.bare), f":{REF}", cwd=r.work)
    found = await ups.push(r.slug, NAME, str(r.bare), "p", r.b, r.a)
    assert (found.kind, found.theirs) == ("moved", "")
    assert (await ups.push(r.slug, NAME, str(r.bare), "p", r.b, "")).kind == "done"  # the control


@pytest.mark.battery("G10")
@in_loop
async def test_the_password_for_https_reaches_the_server_and_nothing_else(tmp_path: Path) -> None:
    r = Rig(tmp_path)
    await r.mirrored()
    with https(r.bare.parent, tmp_path) as (address, ca, server):
        source = f"{address}/proj.git"
        home = tmp_path / "home"
        home.mkdir()
        git("config", "--file", str(home / ".gitconfig"), "credential.helper", "!echo password=wrong; false")
        git("config", "--file", str(home / ".gitconfig"), f"url.{address}/evil/.insteadOf", address)
        ups = r.upstreams({"GIT_SSL_CAINFO": str(ca), "HOME": str(home)}, TOKEN)
        done = await ups.push(r.slug, NAME, source, "p", r.a, "")
        assert (done.kind, r.at()) == ("done", r.a), done
        assert set(server.given) == {f"x-access-token:{TOKEN}"}
        assert server.seen == [], "the secret was in an argument or an environment"
        assert not any("evil" in path for path in server.asked)
        held = [p for p in tmp_path.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
        assert held == []
        server.tokens = {basic("x-access-token", "rotated")}  # type: ignore[misc]
        refused = await ups.push(r.slug, NAME, source, "p", r.b, r.a)
        assert refused.kind == "login" and TOKEN not in refused.text
        again = await r.upstreams({"GIT_SSL_CAINFO": str(ca)}, "rotated").push(
            r.slug, NAME, source, "p", r.b, r.a
        )
        assert (again.kind, r.at()) == ("done", r.b)


@in_loop
async def test_by_https_with_a_password_too_it_is_told_where_others_moved_the_branch(tmp_path: Path) -> None:
    r = Rig(tmp_path)
    await r.mirrored()
    git("push", "-q", str(r.bare), f"{r.a}:{REF}", cwd=r.work)
    with https(r.bare.parent, tmp_path) as (address, ca, _server):
        ups = r.upstreams({"GIT_SSL_CAINFO": str(ca)}, TOKEN)
        found = await ups.push(r.slug, NAME, f"{address}/proj.git", "p", r.b, "")
        assert (found.kind, found.theirs, found.behind) == ("moved", r.a, True), found
        assert await ups.where(r.slug, NAME, f"{address}/proj.git", "p") == r.a


FAILURES = {
    "401": "login",
    "403": "login",
    "500": "later",
    "404": "later",
    "redirect": "later",
    "cut": "later",
}


@pytest.mark.battery("G12")
@pytest.mark.parametrize(("mode", "kind"), FAILURES.items())
@in_loop
async def test_a_server_that_fails_is_understood_and_nothing_is_lost(
    tmp_path: Path, mode: str, kind: str
) -> None:
    r = Rig(tmp_path)
    await r.mirrored()
    with https(r.bare.parent, tmp_path) as (address, ca, server):
        ups = r.upstreams({"GIT_SSL_CAINFO": str(ca)}, TOKEN)
        server.mode = mode
        found = await ups.push(r.slug, NAME, f"{address}/proj.git", "p", r.a, "")
        assert found.kind == kind and found.text and found.text.isprintable(), found
        assert not any("evil" in path for path in server.asked)
        server.mode = ""
        again = await ups.push(r.slug, NAME, f"{address}/proj.git", "p", r.a, "")
        assert (again.kind, r.at()) == ("done", r.a)
        assert r.moves() == [f"{'0' * 40} {r.a} {REF}"]  # though the cut answer came after the push


@pytest.mark.battery("G12")
@in_loop
async def test_a_host_that_is_not_there_and_a_login_that_may_not_go_there_wait(tmp_path: Path) -> None:
    r = Rig(tmp_path)
    await r.mirrored()
    gone = await r.upstreams().push(r.slug, NAME, "https://localhost:1/proj.git", "p", r.a, "")
    assert gone.kind == "later" and "connect" in gone.text.lower()

    def never(_policy: str, _source: str) -> str:
        raise NotAllowed("credential gh may not go there")

    from thopter.gateway.upstream import Upstreams

    ups = Upstreams(tmp_path / "mirrors", tmp_path / "notes", never, {})
    refused = await ups.push(r.slug, NAME, "https://localhost:1/proj.git", "p", r.a, "")
    assert (refused.kind, refused.text) == ("login", "credential gh may not go there")
    missing = await r.upstreams().push(r.slug, NAME, str(tmp_path / "nowhere"), "p", r.a, "")
    assert missing.kind == "later"


@pytest.mark.battery("G12", "X2")
@in_loop
async def test_upstreams_own_rules_are_told_in_clean_words(tmp_path: Path) -> None:
    r = Rig(tmp_path)
    await r.mirrored()
    r.hook("pre-receive", "printf 'not on a \\033[31mFriday\\007\\n' >&2; exit 1")
    found = await r.upstreams().push(r.slug, NAME, str(r.bare), "p", r.a, "")
    assert found.kind == "refused" and "Friday" in found.text
    assert found.text.isprintable() and "\x1b" not in found.text
    assert r.at() == ""


@in_loop
async def test_a_push_by_ssh_uses_the_operators_key(tmp_path: Path) -> None:
    r = Rig(tmp_path)
    await r.mirrored()
    home = tmp_path / "home"
    home.mkdir()
    with sshd(tmp_path / "sshd") as (port, config):
        git("config", "--file", str(home / ".gitconfig"), "core.sshCommand", f"ssh -F {config}")
        source = f"ssh://127.0.0.1:{port}{r.bare}"
        found = await r.upstreams({"HOME": str(home)}).push(r.slug, NAME, source, "p", r.a, "")
        assert (found.kind, r.at()) == ("done", r.a), found
        (config.parent / "user.pub").write_text("")
        found = await r.upstreams({"HOME": str(home)}).push(r.slug, NAME, source, "p", r.b, r.a)
        assert found.kind == "login" and "Permission denied" in found.text
    found = await r.upstreams({"HOME": str(home)}).push(r.slug, NAME, source, "p", r.b, r.a)
    assert found.kind == "later" and r.at() == r.a


def test_notes_are_durable_until_taken_and_what_makes_no_sense_is_thrown_away(tmp_path: Path) -> None:
    r = Rig(tmp_path)
    notes, slug = tmp_path / "notes", "proj-0123456789"
    outbox.put(str(notes / slug), "bx_1", REF, "a" * 40)
    for name, text in (("x", "{"), ("y", "[]"), ("z", json.dumps({"box": "b", "new": "main"}))):
        (notes / slug / name).write_text(text)
    (notes / "..evil").mkdir()
    outbox.put(str(notes / "..evil"), "bx_1", REF, "a" * 40)
    ups = r.upstreams()
    found = ups.notes(time.time())
    assert [(n.slug, n.name, n.box, n.new) for n in found] == [(slug, NAME, "bx_1", "a" * 40)]
    assert ups.notes(time.time()) and not list((notes / slug).glob("[xyz]"))
    outbox.put(str(notes / slug), "bx_1", REF, "b" * 40)
    ups.taken(found[0])  # a newer one came meanwhile: it stays
    assert [n.new for n in ups.notes(time.time())] == ["b" * 40]
    ups.taken(ups.notes(time.time())[0])
    assert ups.notes(time.time()) == []


def test_an_answer_is_for_one_commit_and_only_a_final_one_ends_the_wait(tmp_path: Path) -> None:
    r = Rig(tmp_path)
    folder, ups = str(tmp_path / "notes/s"), r.upstreams()
    assert outbox.answer(folder, REF, "a" * 40, 0.1) == ""
    ups.tell("s", NAME, "b" * 40, "another's", True)
    assert outbox.answer(folder, REF, "a" * 40, 0.1) == ""
    ups.tell("s", NAME, "a" * 40, "waits\x1b[2J", False)
    assert outbox.answer(folder, REF, "a" * 40, 0.1) == "waits"
    ups.tell("s", NAME, "a" * 40, "there", True)
    assert outbox.answer(folder, REF, "a" * 40, 30.0) == "there"
