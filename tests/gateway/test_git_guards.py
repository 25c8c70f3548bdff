"""Guards behind the rules on pushes: how much one may bring, and what git should not have let through."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from gateway_support import Home, agit, commit, git, in_loop
from git_rig import git_rig, leftovers
from test_git_hostile import CAPS, FLUSH, command, pack, pkt
from test_git_hostile import push as raw_push
from test_git_policy import OWN, told, write

from thopter.gateway.git import hook


def lower(place: Home, name: str, most: int) -> None:
    """From now on the gateway's own hook has that limit: a million objects take half a minute to push."""
    program = (
        "import runpy, sys; sys.path.insert(0, sys.argv[1])\n"
        f"import thopter.gateway.git.judge as judge; assert judge.{name} > {most}; judge.{name} = {most}\n"
        f"runpy.run_path({str(Path(hook.__file__))!r}, run_name='__main__')\n"
    )
    script = place.state / "gateway/hooks/pre-receive"
    assert "hook.py" in script.read_text(), "it is the hook that pushes go through"
    root = Path(hook.__file__).parents[3]
    argv = [sys.executable, "-I", "-S", "-B", "-c", program, str(root)]
    script.write_text(f"#!/bin/sh\n# hook.py\nexec {shlex.join(argv)}\n")


@pytest.mark.battery("G5")
@in_loop
async def test_a_push_of_one_commit_too_many_is_refused(place: Home) -> None:
    async with git_rig(place) as r:
        work = await r.clone(place.root / "work")
        lines = f"reset refs/heads/many\nfrom {r.base}\n\n"
        lines += "commit refs/heads/many\ncommitter t <t@t> 1700000000 +0000\ndata 1\nm\n" * 31
        await agit("fast-import", "--quiet", cwd=work, input=lines.encode())
        lower(place, "COMMITS_MAX", 30)
        said = await agit("push", "origin", "many:refs/heads/thopter/flag", cwd=work, ok=False)
        assert "more than 30 new commits in one push" in said
        assert OWN not in r.refs() and leftovers(r.mirror) == []
        await told(r, "too_many")
        await agit("push", "-q", "origin", "many~1:refs/heads/thopter/flag", cwd=work)  # the control
        await agit("push", "-q", "origin", "many:refs/heads/thopter/flag", cwd=work)
        assert r.refs()[OWN] == git("rev-parse", "many", cwd=work).strip(), "in two pushes they are taken"


@pytest.mark.battery("G5")
@in_loop
async def test_a_push_of_one_object_too_many_is_refused(place: Home) -> None:
    async with git_rig(place) as r:
        work = await r.clone(place.root / "work")
        for number in range(20):
            write(work, f"many/{number}", f"{number}\n")
        commit(work, "twenty files: the commit, two trees and they")
        lower(place, "OBJECTS_MAX", 22)
        said = await agit("push", "origin", "HEAD:thopter/flag", cwd=work, ok=False)
        assert "more than 22 new objects in one push" in said
        assert OWN not in r.refs() and leftovers(r.mirror) == []
        await told(r, "too_many")
        lower(place, "OBJECTS_MAX", 23)
        await agit("push", "-q", "origin", "HEAD:thopter/flag", cwd=work)  # the control
        assert OWN in r.refs()


def certified(new: str, armour: str) -> bytes:
    """A push of the box's own ref by a certificate, though none was advertised."""
    lines = ["certificate version 0.1\n", "pusher x\n", "nonce \n", "\n", f"{'0' * 40} {new} {OWN}\n"]
    lines += [f"-----BEGIN {armour}-----\n", "x\n", f"-----END {armour}-----\n", "push-cert-end\n"]
    return pkt(b"push-cert\0" + CAPS) + b"".join(pkt(line) for line in lines) + FLUSH + pack()


@pytest.mark.battery("G1")
@in_loop
async def test_a_push_certificate_is_refused_though_the_ref_is_the_boxs_own(
    place: Home,
) -> None:
    async with git_rig(place) as r:
        for armour in ("PGP SIGNATURE", "PGP MESSAGE", "SIGNED MESSAGE", "SSH SIGNATURE"):
            _, answer = await raw_push(r, certified(r.base, armour))
            assert b"signed pushes are not taken" in answer, answer
            assert OWN not in r.refs() and leftovers(r.mirror) == []
        await told(r, "certificate")
        await raw_push(r, command("0" * 40, r.base, OWN) + FLUSH + pack())  # the control
        assert r.refs()[OWN] == r.base


@pytest.mark.battery("G1")
@pytest.mark.parametrize("kind", ["options", "certificate"])
@in_loop
async def test_the_hook_refuses_what_a_mirror_would_take_whose_settings_were_changed(
    place: Home, kind: str
) -> None:
    """By the real client, which only sends either when it is offered."""
    async with git_rig(place) as r:
        work = await r.clone(place.root / "work")
        commit(work, "work", b="two")
        if kind == "options":
            git("config", "receive.advertisePushOptions", "true", cwd=r.mirror)
            options = ["-c", "push.pushOption=ci.skip", "push"]
        else:
            git("config", "receive.certNonceSeed", "seed", cwd=r.mirror)
            key = place.root / "key"
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
            await asyncio.to_thread(subprocess.run, argv, check=True, timeout=60)
            signing = ["-c", "gpg.format=ssh", "-c", f"user.signingKey={key}"]
            options = [*signing, "push", "--signed"]
        said = await agit(*options, "origin", "HEAD:thopter/flag", cwd=work, ok=False)
        wanted = {"options": "push options are not taken", "certificate": "signed pushes are not taken"}[kind]
        assert wanted in said
        assert OWN not in r.refs() and leftovers(r.mirror) == []
        await told(r, kind)
        await agit("push", "-q", "origin", "HEAD:thopter/flag", cwd=work)  # the control
        assert OWN in r.refs()
