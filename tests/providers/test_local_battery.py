"""Boxes that run wild: the lines of battery S of the security reference that take more than one probe.

The table of all lines, and the test of each, is in docs/explanation/isolation.md.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from pathlib import Path

import hypothesis
import pytest
from local_lab import Lab, settings

from thopter.model.nouns import BoxState
from thopter.model.sockets import BoxHandle, BoxSpec
from thopter.testing.local import GOLDEN

MIB = 1 << 20
DEEP = hypothesis.settings.default.max_examples > 1000  # ./dev test --all
NONE: frozenset[str] = frozenset()

_INODES = """
import json, os, sys
top, most, made = sys.argv[1], int(sys.argv[2]), 0
try:
    for folder in range(most // 1000):
        os.mkdir(f"{top}/{folder}")
        for number in range(1000):
            os.close(os.open(f"{top}/{folder}/{number}", os.O_CREAT | os.O_WRONLY))
            made += 1
    why = "enough"
except OSError as e:
    why = e.strerror
print(json.dumps([made, why]))
"""
_PIPES = """
import json, os, resource
held, children = [], 0
try:
    while True:
        held += os.pipe()
except OSError as e:
    why = e.strerror
print(json.dumps([len(held), resource.getrlimit(resource.RLIMIT_NOFILE)[1], why]))
"""
_SWAPS = """
import os, sys
outside = sys.argv[1]
os.chdir("/work")
os.makedirs("real"); open("real/f", "w").write("mine")
os.symlink(outside, "link")
open("ready", "w").close()
while True:
    for a, b in (("real", "d"), ("d", "real"), ("link", "d"), ("d", "link")):
        try:
            os.rename(a, b)
        except OSError:
            pass
"""
_HIDES = """
import os, signal, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(s, signal.SIG_IGN)
        if os.fork():
            os._exit(0)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        time.sleep(5000)
"""


@pytest.mark.battery("S15")
@pytest.mark.root
def test_a_million_small_files_stop_at_the_disk_limit_and_the_neighbour_goes_on(lab: Lab) -> None:
    caps = lab.run(lab.provider.caps())
    if "disk_bytes" not in caps.limits:
        pytest.skip("no disk limit here: " + caps.missing["disk_bytes"])
    full, other = lab.small_box(disk_bytes=8 * MIB), lab.small_box(disk_bytes=256 * MIB)
    made, why = json.loads(lab.exec(full.key, "python3", "-c", _INODES, "/work", "1000000").stdout)
    assert 1000 < made < 500_000 and why == "Disk quota exceeded", (made, why)
    assert json.loads(lab.exec(other.key, "python3", "-c", _INODES, "/work", "5000").stdout) == [
        5000,
        "enough",
    ]
    for box in (full, other):
        lab.run(lab.provider.destroy(box.key))


@pytest.mark.battery("S17")
def test_pipes_stop_at_the_limit_of_open_files_and_the_neighbour_has_its_own(lab: Lab) -> None:
    one, other = lab.box(), lab.box()
    held, most, why = json.loads(lab.exec(one.key, "python3", "-c", _PIPES).stdout)
    assert why == "Too many open files" and most - 16 < held <= most <= 65536
    assert lab.sh(other.key, "echo x | cat | cat") == "x"
    assert lab.sh(one.key, "echo y | cat") == "y"
    for box in (one, other):
        lab.run(lab.provider.destroy(box.key))


@pytest.mark.battery("S19")
def test_a_crash_in_a_box_dumps_no_core_and_starts_no_program_of_the_machine(lab: Lab) -> None:
    # A limit of 0 would still have the kernel start the machine's core_pattern program, as the host's
    # root, for every crash; of 1 it means: no dump at all (see fs/coredump.c).
    one = lab.box()
    code = "import json, resource; print(json.dumps(resource.getrlimit(resource.RLIMIT_CORE)))"
    assert json.loads(lab.exec(one.key, "python3", "-c", code).stdout) == [1, 1]
    done = lab.exec(one.key, "sh", "-c", "cd /work; for i in 1 2 3; do sh -c 'kill -SEGV $$'; done; ls -A")
    assert done.stdout == b""
    lab.run(lab.provider.destroy(one.key))


@pytest.mark.battery("S10", "P2")
@pytest.mark.parametrize("pool", ["auto", "plain"])
def test_a_box_that_swaps_folders_and_links_reaches_nothing_outside(tmp_path: Path, pool: str) -> None:
    canary = "canary-" + secrets.token_hex(12)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text(canary)
    lab = Lab(tmp_path / "lab", settings(pool=pool))
    try:
        one = lab.box()
        lab.sh(one.key, f"cat > /root/swap.py <<'E'\n{_SWAPS}\nE\n")
        lab.sh(one.key, f"setsid python3 /root/swap.py {outside} > /dev/null 2>&1 &")
        lab.sh(one.key, "until [ -e /work/ready ]; do sleep 0.01; done")
        snaps = [f"snap_{n}" for n in range(20 if DEEP else 4)]
        for snap in snaps:
            lab.run(lab.provider.snapshot(one.key, snap, {}))
        two = lab.box(snapshot=snaps[-1])
        # The control: the link leads to the canary, here and there, for whoever is outside.
        assert lab.sh(two.key, f"find /work -lname {outside} | wc -l") == "1"
        assert (outside / "f").read_text() == canary
        for box in (one, two):
            assert lab.sh(box.key, f"grep -rlsI {canary} /work /root /etc || true") == ""
            lab.run(lab.provider.destroy(box.key))
        for snap in snaps:
            lab.run(lab.provider.drop_snapshot(snap))
        assert sorted(p.name for p in outside.iterdir()) == ["f"]
        assert lab.run(lab.provider.leaks(NONE)) == []
    finally:
        lab.end()


@pytest.mark.battery("S20")
def test_start_stop_and_kill_again_and_again_leave_nothing(own_lab: Lab) -> None:
    lab = own_lab
    warm = lab.box()
    lab.run(lab.provider.destroy(warm.key))
    mounts, groups = _mounts(), lab.provider._maker.groups.names()
    for cycle in range(500 if DEEP else 15):
        box = lab.box(ports=(8401,))
        lab.sh(box.key, f"python3 -c '{_HIDES}'")
        _end(lab, box, cycle % 4)
    assert lab.run(lab.provider.list()) == []
    assert lab.run(lab.provider.leaks(NONE)) == []
    deadline = time.monotonic() + 30
    while len(_mounts()) > len(mounts) or len(lab.provider._maker.groups.names()) > max(1, len(groups)):
        assert time.monotonic() < deadline, (_mounts() - mounts, lab.provider._maker.groups.names())
        time.sleep(0.05)


def _end(lab: Lab, box: BoxHandle, how: int) -> None:
    if how == 1:
        os.kill(int(box.memory["pid"]), 9)
    elif how == 2:
        lab.run(lab.provider.freeze(box.key))
    elif how == 3:
        lab.run(lab.provider.stop(box.key))
        assert lab.run(lab.provider.get(box.key)).state is BoxState.STOPPED
        spec = BoxSpec(key=box.key, name="b" + box.key[4:], golden=GOLDEN, ports=(8401,))
        lab.run(lab.provider.revive(spec))
    lab.run(lab.provider.destroy(box.key))


def _mounts() -> set[str]:
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
