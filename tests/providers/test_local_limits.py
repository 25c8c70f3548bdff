"""Limits hold, and a box that runs into them harms nobody else."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from local_lab import Lab

from thopter.model.nouns import BoxState, Limits
from thopter.model.sockets import BoxHandle

MIB = 1 << 20
FORKS = """
import json, os, signal
made = []
try:
    while len(made) < 5000:
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(0)
        made.append(pid)
    why = "enough"
except OSError as e:
    why = e.strerror
for pid in made:
    os.kill(pid, 9)
print(json.dumps([len(made), why]))
"""
FILLS = """
import json, sys
path, most, written = sys.argv[1], int(sys.argv[2]), 0
try:
    with open(path, "wb", buffering=0) as f:
        while written < most:
            written += f.write(b"x" * (1 << 20))
    why = "enough"
except OSError as e:
    why = e.strerror
print(json.dumps([written, why]))
"""


@pytest.mark.battery("S12")
def test_processes_are_limited_and_a_fork_bomb_stays_at_home(lab: Lab) -> None:
    bomb, other = lab.small_box(pids=64), lab.small_box(pids=256)
    for key, least, most in ((bomb.key, 40, 64), (other.key, 200, 256)):
        done = lab.exec(key, "python3", "-c", FORKS)
        made, why = json.loads(done.stdout)
        assert least < made <= most
        assert why == "Resource temporarily unavailable"
    lab.exec(bomb.key, "sh", "-c", "b() { b | b & }; b; sleep 1")
    assert lab.sh(other.key, "echo fine") == "fine"
    lab.run(lab.provider.destroy(bomb.key))
    assert lab.run(lab.provider.leaks(frozenset([other.key]))) == []
    lab.run(lab.provider.destroy(other.key))


@pytest.mark.battery("S13", "S18")
@pytest.mark.root
def test_memory_is_limited_and_the_neighbour_goes_on(lab: Lab) -> None:
    hog, other = lab.small_box(memory_bytes=128 * MIB), lab.small_box(memory_bytes=512 * MIB)
    eat = "x = bytearray(300 << 20); print(len(x))"
    done = lab.exec(hog.key, "python3", "-c", eat)
    assert (done.exit, done.signal) == (None, 9) or done.exit == 137
    assert lab.exec(other.key, "python3", "-c", eat).stdout.strip() == str(300 * MIB).encode()
    assert lab.sh(hog.key, "echo still here") == "still here"
    for path in ("/tmp/f", "/dev/shm/f"):  # memory too: a tmpfs is smaller than the box's memory
        written, why = json.loads(lab.exec(hog.key, "python3", "-c", FILLS, path, str(400 * MIB)).stdout)
        assert written < 128 * MIB and why == "No space left on device", path
        lab.sh(hog.key, f"rm {path}")


@pytest.mark.battery("S14")
@pytest.mark.root
def test_processors_are_limited(lab: Lab) -> None:
    slow = lab.small_box(cpus=0.2)
    spin = (
        "import time, json; end = time.monotonic() + 3; n = 0\n"
        "while time.monotonic() < end: n += 1\n"
        "print(json.dumps(time.process_time()))"
    )
    used = json.loads(lab.exec(slow.key, "python3", "-c", spin).stdout)
    assert 0.05 < used < 1.3  # 0.6 s of 3 are its share, and a period may be overdrawn
    # On a machine that is busy anyway that alone would pass without a limit: the kernel's own count does not.
    free = lab.small_box(cpus=0)
    lab.exec(free.key, "python3", "-c", spin)
    assert throttled(slow) > 5
    assert throttled(free) == 0


def throttled(box: BoxHandle) -> int:
    """How often the kernel made this box wait for its share of the processors."""
    found = 0
    for line in Path(f"/proc/{box.memory['pid']}/cgroup").read_text().splitlines():
        _, controllers, place = line.split(":", 2)
        for top in {"/sys/fs/cgroup/" + controllers.removeprefix("name="), "/sys/fs/cgroup/cpu"}:
            stat = Path(top + place) / "cpu.stat"
            if stat.exists():
                found = max(
                    found, int(dict(r.split() for r in stat.read_text().splitlines())["nr_throttled"])
                )
    return found


@pytest.mark.battery("S16")
@pytest.mark.root
def test_disk_is_limited_and_the_neighbour_goes_on(lab: Lab) -> None:
    caps = lab.run(lab.provider.caps())
    if "disk_bytes" not in caps.limits:
        assert "disk_bytes" in caps.missing
        pytest.skip("no disk limit here: " + caps.missing["disk_bytes"])
    full, other = lab.small_box(disk_bytes=64 * MIB), lab.small_box(disk_bytes=256 * MIB)
    for path in ("/work/f", "/usr/local/f"):  # both overlays count
        written, why = json.loads(lab.exec(full.key, "python3", "-c", FILLS, path, str(200 * MIB)).stdout)
        assert written < 66 * MIB and why == "Disk quota exceeded"
        lab.sh(full.key, f"rm {path}; sync")
    written, why = json.loads(lab.exec(other.key, "python3", "-c", FILLS, "/work/f", str(100 * MIB)).stdout)
    assert (written, why) == (100 * MIB, "enough")
    assert lab.sh(full.key, "echo still here") == "still here"


@pytest.mark.root
def test_the_disk_limit_of_a_fork_counts_only_what_it_writes_itself(lab: Lab) -> None:
    caps = lab.run(lab.provider.caps())
    if "disk_bytes" not in caps.limits:
        pytest.skip("no disk limit here: " + caps.missing["disk_bytes"])
    first = lab.small_box(disk_bytes=64 * MIB)
    lab.sh(first.key, "head -c 50000000 /dev/urandom > /work/old")
    lab.run(lab.provider.snapshot(first.key, "snap_heavy", {}))
    fork = lab.box(snapshot="snap_heavy", limits=Limits(disk_bytes=64 * MIB))
    assert lab.sh(fork.key, "stat -c %s /work/old") == "50000000"
    written, why = json.loads(lab.exec(fork.key, "python3", "-c", FILLS, "/work/f", str(50 * MIB)).stdout)
    assert (written, why) == (50 * MIB, "enough")
    written, why = json.loads(lab.exec(fork.key, "python3", "-c", FILLS, "/work/g", str(50 * MIB)).stdout)
    assert written < 20 * MIB and why == "Disk quota exceeded"
    lab.run(lab.provider.drop_snapshot("snap_heavy"))


@pytest.mark.root
def test_no_limit_means_none(lab: Lab) -> None:
    free = lab.box(limits=Limits(memory_bytes=0, pids=0, cpus=0, disk_bytes=0))
    done = lab.exec(free.key, "python3", "-c", FORKS.replace("5000", "700"))
    assert json.loads(done.stdout) == [700, "enough"]


@pytest.mark.battery("S17")
def test_open_files_are_limited(lab: Lab) -> None:
    one = lab.box()
    code = "import os, resource, json; print(json.dumps(resource.getrlimit(resource.RLIMIT_NOFILE)))"
    soft, hard = json.loads(lab.exec(one.key, "python3", "-c", code).stdout)
    assert soft == hard <= 65536


@pytest.mark.battery("S20")
def test_everything_of_a_destroyed_box_is_dead_also_what_hid_away(lab: Lab) -> None:
    one = lab.box()
    lab.sh(one.key, "cat > /root/hide.py <<'E'\n" + HIDES + "\nE\npython3 /root/hide.py && sleep 0.1")
    pids = lab.pids(one)
    deadline = time.monotonic() + 30
    while sum(_name(p) == "python3" for p in pids) < 6:
        assert time.monotonic() < deadline, [_name(p) for p in pids]
        pids = lab.pids(one)
    lab.run(lab.provider.destroy(one.key))
    assert [p for p in pids if os.path.exists(f"/proc/{p}") and _name(p) in ("python3", "thopter-box")] == []


# Double-forked, in sessions of their own, deaf to SIGTERM and SIGHUP, forking anew all the time.
HIDES = """
import os, signal, time
for _ in range(6):
    if os.fork() == 0:
        os.setsid()
        for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(s, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        if os.fork():
            os._exit(0)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        while True:
            if os.fork() == 0:
                time.sleep(0.05)
                os._exit(0)
            time.sleep(0.02)
"""


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except OSError:
        return ""


def test_a_box_whose_processes_died_is_lost_and_can_be_destroyed(lab: Lab) -> None:
    one = lab.box()
    os.kill(int(one.memory["pid"]), 9)
    deadline = time.monotonic() + 30
    while lab.run(lab.provider.get(one.key)).state is not BoxState.LOST:
        assert time.monotonic() < deadline
    lab.run(lab.provider.destroy(one.key))
    assert one.key not in [h.key for h in lab.run(lab.provider.list())]
