"""What a push may bring, by policy: each rule refuses what it is for, lets the control pass, and is told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from gateway_support import Home, agit, commit, eventually, git, in_loop
from git_rig import GitRig, git_rig, leftovers

from thopter.gateway.git import shapes
from thopter.gateway.git.judge import PROTECTED
from thopter.gateway.policy.globs import above, bad_glob, fits

OWN = "refs/heads/thopter/flag"
#: Put together here, so that this file does not look like what it is about.
TOKEN = "gh" + "p_" + "Zq7" * 12


def write(work: Path, path: str, text: str = "x\n") -> None:
    (work / path).parent.mkdir(parents=True, exist_ok=True)
    (work / path).write_text(text)


async def push(work: Path, *, ok: bool = True) -> str:
    """Commit all and push; returns what git printed."""
    commit(work, "work")
    return await agit("push", "--force", "origin", "HEAD:thopter/flag", cwd=work, ok=ok)


async def told(r: GitRig, code: str) -> dict[str, object]:
    """The record of the refusal in the gateway's ledger."""

    async def look() -> dict[str, object] | None:
        records = (await r.client.log())["records"]
        return next((x for x in records if x["verdict"] == "deny" and x["code"] == code), None)

    return await eventually(look)  # type: ignore[no-any-return]


def gitlink(work: Path, path: str) -> None:
    git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},{path}", cwd=work)


def _link(work: Path, path: str, target: str) -> None:
    (work / path).parent.mkdir(parents=True, exist_ok=True)
    os.symlink(target, work / path)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 9\n"
CASES: dict[str, tuple[str, Callable[[Path], None], dict[str, object]]] = {
    "a workflow": ("protected_path", lambda w: write(w, ".github/workflows/x.yml"), {"workflows": True}),
    "other letters": ("protected_path", lambda w: write(w, ".GitHub/Workflows/x"), {"workflows": True}),
    "another CI": ("protected_path", lambda w: write(w, ".gitlab-ci.yml"), {"workflows": True}),
    "owners deep down": ("protected_path", lambda w: write(w, "docs/CODEOWNERS"), {"workflows": True}),
    "a link for the folder": ("protected_path", lambda w: _link(w, ".github", "docs"), {"workflows": True}),
    "a path of its own": ("protected_path", lambda w: write(w, "deploy/a/b.sh"), {"protected": []}),
    "a submodule": ("submodule", lambda w: gitlink(w, "lib"), {"submodules": True}),
    "modules": (
        "submodule",
        lambda w: write(w, ".gitmodules", '[submodule "a"]\n\tpath = a\n\turl = https://x.test/a\n'),
        {"submodules": True},
    ),
    "a filter": ("filter", lambda w: write(w, ".gitattributes", "*.c filter=evil\n"), {"filters": True}),
    "LFS attributes": ("filter", lambda w: write(w, "a/.gitattributes", "* filter=lfs\n"), {"lfs": True}),
    "an LFS pointer": ("lfs", lambda w: write(w, "big.bin", POINTER), {"lfs": True}),
    "a link out": ("link", lambda w: _link(w, "a/l", "../../etc"), {"links": True}),
    "an absolute link": ("link", lambda w: _link(w, "l", "/etc/passwd"), {"links": True}),
    "a big file": ("big_file", lambda w: write(w, "b", "x" * (2 << 20)), {"blob_mb": 3}),
    "a secret": ("secret", lambda w: write(w, "conf.py", f"T = '{TOKEN}'\n"), {"secrets": "allow"}),
    "a spared secret": ("secret", lambda w: write(w, "t/k.py", TOKEN), {"secrets_in": ["t/**"]}),
    "a secret as a name": ("secret", lambda w: write(w, TOKEN), {"secrets": "allow"}),
}  # fmt: skip
STRICT = {"protected": ["deploy/**"], "blob_mb": 1}


@pytest.mark.battery("G6", "G8", "G9")
@pytest.mark.parametrize("name", CASES)
@in_loop
async def test_what_a_push_may_not_bring_is_refused_and_with_the_right_passes(place: Home, name: str) -> None:
    code, change, right = CASES[name]
    async with git_rig(place) as r:
        await r.attach("flag", rights=STRICT)
        work = await r.clone(place.root / "work")
        change(work)
        if "submodule" in name:
            git("commit", "-q", "-m", "work", cwd=work)
        else:
            commit(work, "work")
        said = await agit("push", "origin", "HEAD:thopter/flag", cwd=work, ok=False)
        assert "remote: thopter: refused: " in said and TOKEN not in said
        assert OWN not in r.refs() and leftovers(r.mirror) == []
        record = await told(r, code)
        assert (record["box"], record["host"], record["path"]) == ("flag", r.slug, OWN)
        assert TOKEN not in str(record)
        await r.attach("flag", rights=STRICT | right)
        await agit("push", "-q", "origin", "HEAD:thopter/flag", cwd=work)  # the control
        assert r.refs()[OWN] == (await agit("rev-parse", "HEAD", cwd=work)).strip()


@pytest.mark.battery("G6")
@in_loop
async def test_what_was_put_in_and_taken_out_again_is_still_in_the_history(place: Home) -> None:
    async with git_rig(place) as r:
        work = await r.clone(place.root / "work")
        for path, text, code in ((".github/workflows/x.yml", "x", "protected_path"), ("k", TOKEN, "secret")):
            write(work, path, text)
            commit(work, "in")
            (work / path).unlink()
            await push(work, ok=False)
            await told(r, code)
            git("reset", "-q", "--hard", r.base, cwd=work)
        commit(work, f"a message with {TOKEN}")
        await agit("push", "origin", "HEAD:thopter/flag", cwd=work, ok=False)
        assert OWN not in r.refs()


@pytest.mark.battery("G6")
@in_loop
async def test_deleting_a_workflow_is_changing_it_and_leaving_it_alone_is_not(place: Home) -> None:
    async with git_rig(place, {"a.txt": "one\n", ".github/workflows/ci.yml": "on: push\n"}) as r:
        work = await r.clone(place.root / "work")
        write(work, "a.txt", "two\n")
        await push(work)
        (work / ".github/workflows/ci.yml").unlink()
        assert "ci.yml is protected" in await push(work, ok=False)


@in_loop
async def test_a_merge_brings_what_the_source_changed_and_nothing_else(place: Home) -> None:
    async with git_rig(place, {"a.txt": "one\n", ".github/workflows/ci.yml": "on: push\n"}) as r:
        await r.attach("flag", source_branch="main")
        work = await r.clone(place.root / "work")
        write(work, "b.txt")
        commit(work, "mine")
        write(r.source, ".github/workflows/ci.yml", "on: pull_request\n")
        commit(r.source, "the source's own change")
        git("checkout", "-q", "-b", "strange", r.base, cwd=r.source)
        write(r.source, ".github/workflows/evil.yml", "on: push\n")
        commit(r.source, "on a branch that nobody merged")
        await r.mirrors.prepare(str(r.source))
        await agit("fetch", "-q", "origin", cwd=work)
        await agit("merge", "-q", "-m", "with main", "origin/main", cwd=work)
        await agit("push", "-q", "origin", "HEAD:thopter/flag", cwd=work)
        await agit("merge", "-q", "-m", "with strange", "origin/strange", cwd=work)
        said = await agit("push", "origin", "HEAD:thopter/flag", cwd=work, ok=False)
        assert "evil.yml is protected" in said


@pytest.mark.battery("G6")
@in_loop
async def test_work_of_another_box_is_judged_by_the_rules_of_the_one_that_pushes_it(place: Home) -> None:
    async with git_rig(place) as r:
        await r.attach("other", rights={"secrets": "allow"})
        theirs = await r.clone(place.root / "theirs", "other")
        write(theirs, "keys.txt", TOKEN)
        head = commit(theirs, "with a right that flag lacks")
        await agit("push", "-q", "origin", "HEAD:thopter/other", cwd=theirs)
        work = await r.clone(place.root / "work")
        await agit("fetch", "-q", str(theirs), "HEAD", cwd=work)
        await agit("reset", "-q", "--hard", "FETCH_HEAD", cwd=work)
        said = await agit("push", "origin", "HEAD:thopter/flag", cwd=work, ok=False)
        assert "looks like a secret" in said
        assert r.refs()["refs/heads/thopter/other"] == head and OWN not in r.refs()


@pytest.mark.battery("G7")
@in_loop
async def test_a_push_brings_nothing_that_its_commits_do_not_name(place: Home) -> None:
    from test_git_hostile import FLUSH, command
    from test_git_hostile import push as raw_push

    async with git_rig(place) as r:
        work = await r.clone(place.root / "work")
        head = commit(work, "work", b="two")
        stray = (await agit("hash-object", "-w", "--stdin", cwd=work, input=b"nobody names me")).strip()

        def pack(*oids: str) -> bytes:
            listed = git("rev-list", "--objects", f"{r.base}..{head}", cwd=work).splitlines()
            wanted = [line.split(" ")[0] for line in listed] + list(oids)
            return _pack(work, wanted)

        own = command("0" * 40, head, OWN)
        _, answer = await raw_push(r, own + FLUSH + pack(stray))
        assert b"none of its commits refers to" in answer and OWN not in r.refs()
        await told(r, "hidden")
        _, answer = await raw_push(r, own + FLUSH + pack())
        assert b"ok " + OWN.encode() in answer  # the control


def _pack(work: Path, oids: list[str]) -> bytes:
    import subprocess

    asked = "".join(f"{o}\n" for o in oids).encode()
    argv = ["git", "pack-objects", "--stdout", "-q"]
    return subprocess.run(argv, cwd=work, input=asked, capture_output=True, check=True).stdout


@in_loop
async def test_a_secret_that_only_the_hub_knows_is_found_by_its_mark(place: Home) -> None:
    secret = "correct-horse-battery-staple-77"
    async with git_rig(place) as r:
        await r.attach("flag", known=shapes.marks(secret))
        work = await r.clone(place.root / "work")
        for text in (f"key={secret}", f'"{secret}"', f"https://u:{secret}/"):
            write(work, "conf", text)
            assert "secret of the operator" in await push(work, ok=False)
            git("reset", "-q", "--hard", r.base, cwd=work)
        write(work, "conf", secret[:-1])
        await push(work)  # the control


@pytest.mark.battery("G5")
@in_loop
async def test_a_push_over_its_size_is_refused_by_git_and_told(place: Home) -> None:
    async with git_rig(place) as r:
        await r.attach("flag", rights={"push_mb": 0.05})
        work = await r.clone(place.root / "work")
        (work / "noise").write_bytes(os.urandom(200_000))
        assert "maximum allowed size" in await push(work, ok=False)
        await told(r, "git")
        assert leftovers(r.mirror) == [] and OWN not in r.refs()
        await r.attach("flag", rights={"push_mb": 1})
        await agit("push", "-q", "origin", "HEAD:thopter/flag", cwd=work)
        taken = [x for x in (await r.client.log())["records"] if x["verdict"] == "allow"]
        assert [(x["was"], x["detail"]) for x in taken] == [("0" * 40, r.refs()[OWN])]


@in_loop
async def test_a_policy_without_pushing_takes_none_and_without_rewriting_only_additions(place: Home) -> None:
    async with git_rig(place) as r:
        work = await r.clone(place.root / "work")
        await r.attach("flag", rights={"push": "none"})
        assert "lets it push nothing" in await push(work, ok=False)
        await told(r, "request")
        await r.attach("flag", rights={"force": False})
        await push(work)
        await agit("commit", "-q", "--allow-empty", "--amend", "-m", "again", cwd=work)
        had, wants = r.refs()[OWN], git("rev-parse", "HEAD", cwd=work).strip()
        said = await agit("push", "--force", "origin", "HEAD:thopter/flag", cwd=work, ok=False)
        no = [x for x in (await r.client.log())["records"] if x.get("code") == "rewrite"]
        assert [(x["was"], x["detail"], x["path"]) for x in no] == [(had, wants, OWN)]
        assert "add commits on top" in said
        git("reset", "-q", "--hard", "origin/thopter/flag", cwd=work)
        await push(work)  # the control


@pytest.mark.battery("G1")
@in_loop
async def test_push_options_and_signed_pushes_never_reach_a_decision(place: Home) -> None:
    async with git_rig(place) as r:
        work = await r.clone(place.root / "work")
        commit(work, "work")
        said = await agit("push", "-o", "ci.skip", "origin", "HEAD:thopter/flag", cwd=work, ok=False)
        assert "does not support push options" in said
        assert OWN not in r.refs()


def test_every_shape_of_a_secret_is_found_and_what_only_resembles_one_is_not() -> None:
    made = {
        "private key": "-----BEGIN " + "OPENSSH PRIVATE KEY-----",
        "AWS access key": "AK" + "IA" + "Q3" * 8,
        "GitHub token": TOKEN,
        "GitHub personal token": "github" + "_pat_" + "a1" * 30,
        "GitLab token": "gl" + "pat-" + "x" * 20,
        "Anthropic key": "sk-" + "ant-api03-" + "k" * 30,
        "OpenAI key": "sk-" + "proj-" + "k" * 44,
        "Slack token": "xo" + "xb-" + "1" * 24,
        "Slack webhook": "https://hooks.slack" + ".com/services/T1/B2/" + "z" * 24,
        "Google API key": "AI" + "za" + "k" * 35,
        "Stripe key": "sk_" + "live_" + "k" * 24,
        "npm token": "np" + "m_" + "k" * 36,
        "PyPI token": "py" + "pi-AgEI" + "k" * 60,
        "Hugging Face token": "h" + "f_" + "k" * 34,
        "SendGrid key": "S" + "G." + "k" * 22 + "." + "k" * 43,
        "DigitalOcean token": "do" + "p_v1_" + "a" * 64,
        "Tailscale key": "ts" + "key-auth-" + "k" * 12 + "-" + "k" * 24,
        "password in an address": "https://me:" + "hunter2hunter2" + "@git.example.com/x",
    }
    assert set(made) == set(shapes.SHAPES)
    for name, text in made.items():
        assert shapes.find(f"a = '{text}'\n".encode()) == name
    for text in ("sk-ant-api03-...", "ghp_xxx", "https://host:8080/path", "https://user:$PASSWORD@host.test/",
                 "AKIA", "-----BEGIN PUBLIC KEY-----", "https://u:********@h.test/"):  # fmt: skip
        assert shapes.find(text.encode()) == ""


def test_patterns_mean_paths_from_the_top_and_bare_names_anywhere() -> None:
    assert all(not bad_glob(p) for p in PROTECTED)
    ci = ".github/workflows/**"
    good = [(ci, ".github/workflows/a/b.yml"), ("*.lock", "a/b/x.LOCK"), ("a/**/z", "a/z")]
    good += [("a/**/z", "a/b/c/z"), ("deploy/?.sh", "deploy/a.sh")]
    assert [p for p in good if not fits(*p)] == []
    bad = [(ci, "x/.github/workflows/a"), ("a/*", "a/b/c"), ("a.b", "axb"), ("deploy/**", "deploy")]
    assert [p for p in [*bad, ("*.lock", "x.lock/y")] if fits(*p)] == []
    assert above(".github/workflows/**", ".GitHub") and above("a/b/c", "a/b") and not above("a/*/c", "a/b")
    for bad in ("", "/a", "a/", "a/../b", "a//b", "**a", "x\n", "a" * 201):
        assert bad_glob(bad)


def test_the_pipe_of_a_pushs_hooks_is_closed_and_noise_in_it_is_no_report() -> None:
    from thopter.gateway.git.routes import parse_attach
    from thopter.gateway.git.told import Told

    async def ten() -> int:
        before = len(os.listdir("/proc/self/fd"))
        attach = parse_attach({"box": "b", "repo": "r-0123456789", "branch": "thopter/b"})
        kept: list[object] = []
        for number in range(10):
            said = Told(attach, kept.append)
            os.write(said.fds[0], b'noise\n{"ok": 1}\n[]\n{"ok": false, "code": "x"}\n' + b"y" * number)
            said.close(True)
        assert len(kept) == 20  # "ok: 1" is no acceptance
        return len(os.listdir("/proc/self/fd")) - before

    assert asyncio.run(ten()) == 0


def test_the_reference_names_every_protected_path_and_every_shape_of_a_secret() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/policy.md").read_text("utf-8")
    text = " ".join(page.partition("### Keys of git")[2].partition("\n#")[0].split())
    assert [p for p in PROTECTED if f"`{p}`" not in text] == []
    assert [name for name in shapes.SHAPES if name not in text] == []
