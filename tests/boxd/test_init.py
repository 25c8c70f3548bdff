"""init: reaps, restarts, ends everything; and what the two cost while nothing happens."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from boxd_support import BOUND, SRC, BoxdProcess, run, until, wait_for

from thopter.boxd import procfs, spawn
from thopter.kit.channel import BoxLink

# As the zygote does: imports first, then a fork that becomes the box's first process.
ZYGOTE = f"""
import gc, os, socket, sys
sys.path.append({SRC!r})
from thopter.boxd import init
gc.collect(); gc.freeze()
folder = sys.argv[1]
listener = socket.socket(socket.AF_UNIX)
listener.bind(folder + "/s")
listener.listen(64)
os.set_inheritable(listener.fileno(), True)
config = {{"run_dir": folder + "/run", "var_dir": folder + "/var", "home": folder, "hook_port": 0,
          "hook_token": "t", "listen_fd": listener.fileno()}}
pid = os.fork()
if pid == 0:
    os.setsid()
    init.run_init(config)
print(pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def forked(folder: Path) -> Iterator[int]:
    """The pid of an init that a zygote forked."""
    command = [sys.executable, "-S", "-E", "-I", "-c", ZYGOTE, str(folder)]
    zygote = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert zygote.stdin and zygote.stdout
    pid = int(zygote.stdout.readline())
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGTERM)
        zygote.stdin.close()
        zygote.stdout.close()
        zygote.wait(BOUND)
        wait_for(lambda: (s := procfs.stat(pid)) is None or s.state in "ZX")


def children(pid: int) -> list[procfs.Stat]:
    return [p for p in procfs.everything() if p.ppid == pid]


def test_orphans_are_reaped_and_stopping_ends_every_descendant(boxd: BoxdProcess) -> None:
    async def go() -> int:
        async with boxd.link() as link:
            await link.run_start("r", ["sleep", "1000"], None, "/tmp")
            for _ in range(10):
                await link.exec(["sh", "-c", "setsid sh -c 'sleep 0.01' &"])
            result = await link.exec(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!"])
            await until(lambda: not [p for p in children(boxd.process.pid) if p.state == "Z"])
        return int(result.stdout)

    daemon = run(go())
    below = procfs.descendants([boxd.process.pid])
    assert daemon in below and len(below) >= 4
    boxd.stop()
    assert boxd.process.returncode == 0
    assert not [p for p in below if (s := procfs.stat(p)) is not None and s.state not in "ZX"]


def test_a_boxd_that_can_not_stay_up_is_tried_again_with_growing_pauses(boxd: BoxdProcess) -> None:
    def deaths() -> list[float]:
        return [float(s) for s in re.findall(r"starts in ([0-9.]+) s", boxd.log.read_text())]

    for n in range(1, 7):
        os.kill(boxd.boxd_pid(), signal.SIGKILL)
        wait_for(lambda n=n: len(deaths()) >= n)
    pauses = deaths()
    assert pauses[0] == 0.0 and pauses == sorted(pauses) and pauses[-1] >= 0.5

    async def go() -> None:
        async with boxd.link() as link:
            await link.ping()

    run(go())


def test_a_bad_configuration_is_logged_and_does_not_spin(folder: Path) -> None:
    # Not by the command line, which refuses it: as a provider might pass it.
    code = ZYGOTE.replace('"home": folder', '"home": "relative"')
    command = [sys.executable, "-S", "-E", "-I", "-c", code, str(folder)]
    with open(folder / "err", "wb") as err:
        zygote = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=err, text=True)
    assert zygote.stdin and zygote.stdout
    pid = int(zygote.stdout.readline())
    wait_for(lambda: (folder / "err").read_text().count("home must be an absolute path") >= 3)
    began = time.monotonic()
    count = (folder / "err").read_text().count("boxd failed")
    wait_for(lambda: (folder / "err").read_text().count("boxd failed") >= count + 3)
    assert time.monotonic() - began > 0.1
    os.kill(pid, signal.SIGTERM)
    zygote.communicate(timeout=BOUND)


def test_the_same_listening_socket_serves_before_and_after_a_death(forked: int, folder: Path) -> None:
    os.rename(folder / "s", folder / "elsewhere")  # nothing binds anew: the box can't see the path

    async def boot() -> str:
        reader, writer = await asyncio.open_unix_connection(str(folder / "elsewhere"))
        async with BoxLink.connect(reader, writer, timeout=BOUND) as link:
            return str(link.facts["boot"])

    before = run(boot())
    (boxd,) = [p for p in children(forked) if p.state not in "ZX"]
    os.kill(boxd.pid, signal.SIGKILL)
    wait_for(lambda: run(boot()) != before)


def test_idle_costs_little_memory_and_no_wake_ups(forked: int, folder: Path) -> None:
    (folder / "t").mkdir()

    async def go() -> tuple[int, int]:
        link_of = BoxdProcess.__new__(BoxdProcess)
        link_of.socket = str(folder / "s")
        async with link_of.link() as link, asyncio.TaskGroup() as group:

            async def follow() -> None:
                async for _ in link.journal(follow=True):
                    pass

            async def tail() -> None:
                async for _ in link.tail(str(folder / "t"), "**/*.jsonl", follow=True):
                    pass

            watching = [group.create_task(follow()), group.create_task(tail())]
            await link.run_start("r", ["sleep", "1000"], None, "/tmp")
            for _ in range(30):
                await link.exec(["true"])
            pids = [forked, *(p.pid for p in children(forked))]
            # What the start left to do may take a while on a busy machine; whatever ticks would
            # tick in every window.
            end = asyncio.get_running_loop().time() + BOUND
            woken = -1
            while woken and asyncio.get_running_loop().time() < end:
                before = sum(_switches(p) for p in pids)
                await asyncio.sleep(4)
                woken = sum(_switches(p) for p in pids) - before
            private = sum(_private_kb(p) for p in pids)
            for task in watching:
                task.cancel()
        return woken, private

    woken, private = run(go())
    assert woken == 0
    assert private < 9 << 10, f"init, boxd and tmux hold {private} kB of their own"


def _switches(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0])


def _private_kb(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(n) for n in re.findall(r"Private_(?:Dirty|Clean): *(\d+)", text))


@pytest.mark.root
def test_as_the_first_process_of_a_pid_namespace_it_ends_the_whole_box(
    start: Callable[..., BoxdProcess],
) -> None:
    boxd = start(wrapper=("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"))

    async def go() -> None:
        async with boxd.link() as link:
            listed = {p["pid"]: p for p in await link.procs()}
            assert 1 in listed and link.facts["pid"] in listed and len(listed) == 2
            await link.run_start("r", ["sleep", "1000"], None, "/tmp")
            await link.exec(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &"])
            await link.exec(["sh", "-c", "setsid sh -c 'sleep 0.01' &"])
            await link.call("run.stop", run="r")
            os.kill(boxd.boxd_pid(), signal.SIGKILL)
        async with boxd.link() as link:
            assert [r["kind"] async for r in link.journal(kinds=["run.exited"])] == ["run.exited"]

    run(go())
    below = procfs.descendants([boxd.process.pid])
    boxd.stop()
    assert not [p for p in below if (s := procfs.stat(p)) is not None and s.state not in "ZX"]


def test_a_ledger_of_another_life_kills_nobody(folder: Path) -> None:
    sleeper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        path = folder / "ledger"
        old = spawn.Ledger(str(path))
        old.sweep()
        old.enter(sleeper.pid)
        content = path.read_bytes()
        path.write_bytes(b"x" + content[1:])  # another boot
        assert spawn.Ledger(str(path)).sweep() == 0 and sleeper.poll() is None
        path.write_bytes(content)
        assert spawn.Ledger(str(path)).sweep() == 1
        assert sleeper.wait(BOUND) == -signal.SIGKILL
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_reused_number_in_the_ledger_is_left_alone(folder: Path) -> None:
    stranger = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        path = folder / "ledger"
        ledger = spawn.Ledger(str(path))
        ledger.sweep()
        ledger.enter(stranger.pid)
        raw = bytearray(path.read_bytes())
        slot = raw.index(stranger.pid.to_bytes(4, "little"), 60)
        raw[slot + 4 : slot + 12] = b"\0" * 8  # recorded at the beginning of time
        path.write_bytes(raw)
        assert spawn.Ledger(str(path)).sweep() == 0 and stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
