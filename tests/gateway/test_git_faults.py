"""kill -9 in the middle of pushes, clients that vanish, a full disk: the mirror stays whole and unlocked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from gateway_support import Home, agit, alive, commit, eventually, git, in_loop, kill, request
from git_rig import GitRig, git_rig, leftovers

from thopter.gateway.git.sweep import LOCK_SECONDS, sweep


def children(pid: int) -> list[int]:
    """Every process below ``pid``."""
    listed = subprocess.run(
        ["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    parents = {int(a): int(b) for a, b in (line.split() for line in listed.splitlines())}
    found: list[int] = []
    todo = [pid]
    while todo:
        at = todo.pop()
        below = [p for p, parent in parents.items() if parent == at]
        found += below
        todo += below
    return found


def slow_pack(work: Path) -> bytes:
    """A real push body, as git itself would send it."""
    head = git("rev-parse", "HEAD", cwd=work).strip()
    packed = subprocess.run(
        ["git", "-C", str(work), "pack-objects", "--revs", "--stdout", "-q", "--thin"],
        input=f"{head}\n^origin/main\n".encode(),
        capture_output=True,
        check=True,
    ).stdout
    line = f"{'0' * 40} {head} refs/heads/thopter/flag\0report-status".encode()
    return b"%04x%b0000%b" % (len(line) + 4, line, packed)


async def half_a_push(rig: GitRig, work: Path) -> tuple[socket.socket, bytes]:
    """Send all but the end of a push; returns the open socket and what is missing."""
    body = slow_pack(work)
    kind = "content-type: application/x-git-receive-pack-request"
    head = request(
        "POST", f"/r/{rig.slug}.git/git-receive-pack", None, (kind, f"content-length: {len(body)}")
    )
    sock = socket.create_connection(("127.0.0.1", rig.ports["flag"]))
    await asyncio.to_thread(sock.sendall, head + body[:-1000])
    await eventually(lambda: [p for p in leftovers(rig.mirror) if "incoming" in p])
    return sock, body[-1000:]


async def work_with_a_big_commit(rig: GitRig, folder: Path) -> Path:
    work = await rig.clone(folder)
    (work / "big").write_bytes(random.Random(1).randbytes(3 << 20))
    commit(work, "big")
    return work


@in_loop
async def test_a_client_that_vanishes_in_the_middle_of_a_push_leaves_nothing(place: Home) -> None:
    async with git_rig(place) as r:
        work = await work_with_a_big_commit(r, place.root / "work")
        before = r.refs()
        sock, _rest = await half_a_push(r, work)
        assert children(r.pid)
        sock.close()
        await eventually(lambda: not children(r.pid) and not leftovers(r.mirror))
        assert r.refs() == before
        await agit("push", "-q", "origin", "HEAD:thopter/flag", cwd=work)  # and the same push goes through


@pytest.mark.parametrize("victim", ["http-backend", "receive-pack", "unpack-objects", "all of them"])
@in_loop
async def test_after_a_killed_git_the_box_was_told_what_is_and_nothing_is_left(
    place: Home, victim: str
) -> None:
    async with git_rig(place) as r:
        work = await work_with_a_big_commit(r, place.root / "work")
        before, head = r.refs(), git("rev-parse", "HEAD", cwd=work).strip()
        sock, rest = await half_a_push(r, work)
        for pid in children(r.pid):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ")
            if victim == "all of them" or victim in command:
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):  # cut off already
            await asyncio.to_thread(sock.sendall, rest)
        sock.settimeout(60)
        said = await asyncio.to_thread(_read_all, sock)
        sock.close()
        await eventually(lambda: not children(r.pid) and not leftovers(r.mirror))
        if b"ok refs/heads/thopter/flag" in said:
            assert victim == "http-backend"  # the one that only carries; receive-pack may have been through
            assert r.refs() == before | {"refs/heads/thopter/flag": head}
        else:
            assert r.refs() == before
        await agit("push", "-q", "origin", "HEAD:thopter/flag", cwd=work)


def _read_all(sock: socket.socket) -> bytes:
    said = b""
    try:
        while data := sock.recv(65536):
            said += data
    except ConnectionResetError:
        pass
    return said


@in_loop
async def test_a_gateway_killed_in_the_middle_of_a_push_leaves_a_whole_mirror_and_the_next_one_goes_on(
    place: Home,
) -> None:
    async with git_rig(place) as r:
        work = await work_with_a_big_commit(r, place.root / "work")
        before = r.refs()
        sock, _rest = await half_a_push(r, work)
        orphans = children(r.pid)
        await asyncio.to_thread(kill, r.pid)
        sock.close()
        _client, pong = await place.start("git")
        assert pong.attached == []
        assert orphans and not any(alive(p) for p in orphans), "what the dead gateway had started goes on"
        assert leftovers(r.mirror) == [] and r.refs() == before
        waiting = asyncio.gather(agit("push", "-q", "origin", "HEAD:thopter/flag", cwd=work))
        await asyncio.sleep(0.5)
        assert not waiting.done(), "the push waits in the box's socket"
        await r.attach("flag")
        await asyncio.wait_for(waiting, 60)
        assert r.refs()["refs/heads/thopter/flag"] == git("rev-parse", "HEAD", cwd=work).strip()


@pytest.mark.battery("G13")
@in_loop
async def test_kills_at_thirty_moments_never_break_a_mirror_or_tell_a_lie(place: Home) -> None:
    async with git_rig(place) as r:
        work = await r.clone(place.root / "work")
        rng = random.Random(20)
        acknowledged = ""
        for number in range(30):
            head = commit(work, f"n{number}", f=str(number))
            push = asyncio.gather(agit("push", "-q", "-f", "origin", "HEAD:thopter/flag", cwd=work, ok=None))
            await asyncio.sleep(rng.random() * 0.25)
            for pid in children(r.pid)[: rng.randrange(1, 5)]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            said = (await push)[0]
            found = r.refs().get("refs/heads/thopter/flag", "")
            if not said:  # git push -q says nothing when it worked
                assert found == head, "an acknowledged push is not there"
                acknowledged = head
            assert (
                found in ("", head, acknowledged) or git("cat-file", "-t", found, cwd=r.mirror) == "commit\n"
            )
        git("fsck", "--full", "--connectivity-only", cwd=r.mirror)
        await eventually(lambda: not [p for p in leftovers(r.mirror) if "incoming" in p])
        for lock in r.mirror.rglob("*.lock"):  # one that a kill left: old enough, it goes
            os.utime(lock, (1, 1))
        sweep(r.mirror, pushes_under_way=False)
        await agit("push", "-q", "-f", "origin", "HEAD:thopter/flag", cwd=work)
        assert leftovers(r.mirror) == []


def test_the_sweep_takes_what_nobody_holds_and_nothing_else(tmp_path: Path) -> None:
    mirror = tmp_path / "m.git"
    git("init", "-q", "--bare", str(mirror))
    (mirror / "refs/heads/thopter").mkdir(parents=True)
    old = [
        mirror / "refs/heads/thopter/flag.lock",
        mirror / "packed-refs.lock",
        mirror / "objects/tmp_objdir-incoming-x",
    ]
    fresh = [mirror / "refs/heads/thopter/new.lock", mirror / "objects/incoming-y"]
    for path in [*old, *fresh]:
        if "incoming" in path.name:
            (path / "pack").mkdir(parents=True)
            (path / "pack" / "p").write_text("x")
        else:
            path.write_text("x")
    for path in old:
        os.utime(path, (1, 1))
    assert sweep(mirror, pushes_under_way=True) == ["refs/heads/thopter/flag.lock", "packed-refs.lock"]
    assert fresh[1].exists() and old[2].exists(), "a push may be using them"
    assert sweep(mirror, pushes_under_way=False, quarantine_seconds=60.0) == ["objects/tmp_objdir-incoming-x"]
    assert sweep(mirror, pushes_under_way=False) == ["objects/incoming-y"]
    assert fresh[0].exists() and LOCK_SECONDS > 60
    assert git("rev-parse", "--is-bare-repository", cwd=mirror).strip() == "true"


@in_loop
async def test_a_mirror_that_vanished_is_an_error_of_that_request_alone(place: Home) -> None:
    async with git_rig(place) as r:
        work = await r.clone(place.root / "work")
        hidden = r.mirror.with_name("hidden")
        r.mirror.rename(hidden)
        said = await agit("fetch", "origin", cwd=work, ok=False)
        assert "404" in said or "not found" in said or "500" in said
        hidden.rename(r.mirror)
        await agit("fetch", "-q", "origin", cwd=work)


@pytest.mark.battery("G5")
@in_loop
async def test_a_full_disk_refuses_the_push_and_the_mirror_stays_whole(place: Home) -> None:
    async with git_rig(place) as r:
        work = await work_with_a_big_commit(r, place.root / "work")
        before = r.refs()
        # As near to a full disk as can be had without one: git may not write a file of that size.
        subprocess.run(["prlimit", "--pid", str(r.pid), "--fsize=1000000:unlimited"], check=True)
        said = await agit("push", "origin", "HEAD:thopter/flag", cwd=work, ok=False)
        assert said
        assert r.refs() == before
        await eventually(lambda: not leftovers(r.mirror))
        subprocess.run(["prlimit", "--pid", str(r.pid), "--fsize=unlimited:unlimited"], check=True)
        await agit("push", "-q", "origin", "HEAD:thopter/flag", cwd=work)
