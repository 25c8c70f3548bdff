"""Processes of a box that are saved and started in another one: what goes along, and what must not."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_lab import Lab, settings

from thopter.kit.linux import procs
from thopter.model.errors import Conflict, NotNow, ProviderError, ThopterError
from thopter.model.sockets import BoxHandle
from thopter.providers.local import criu

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("living"), pytest.mark.timeout(300)]

# Counts in its memory and shows it. A word of its environment, a deleted file and a listening socket go
# along; its connection to boxd does not.
_PROGRAM = """
import os, socket, time
server = socket.create_server(("127.0.0.1", 3456))
line = socket.create_connection(("127.0.0.1", 8400))
line.setblocking(False)
def state():
    try:
        return "closed" if line.recv(1) == b"" else "?"
    except BlockingIOError:
        return "open"
    except OSError:
        return "closed"
kept = open("/tmp/gone", "w+"); kept.write("still here"); kept.flush(); os.unlink("/tmp/gone")
count = 0
while True:
    count += 1
    kept.seek(0)
    with open("/dev/shm/count.new", "w") as f:
        f.write(f"{count} {os.getpid()} {os.environ['WORD']} {state()} {kept.read()}")
    os.rename("/dev/shm/count.new", "/dev/shm/count")
    time.sleep(0.05)
"""


_CALL = "import socket; socket.create_connection(('127.0.0.1', 3456), 30)"
_EVIL = """
echo /root/evil.so >/etc/ld.so.preload
printf '#!/bin/sh\\nid >/root/was-here\\n' >/root/evil
chmod +x /root/evil
mkdir -p /etc/criu /root/.criu /usr/lib/criu
echo 'action-script /root/evil' | tee /etc/criu/default.conf >/root/.criu/default.conf
cp /root/evil /usr/lib/criu/evil.so
head -c 912 /dev/zero >/run/criu.kdat
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A provider with CRIU; skips with the reason where there is none."""
    wish = os.environ.get("THOPTER_LOCAL_CRIU") or "auto"
    try:
        criu.find(wish, tmp_path_factory.mktemp("own"))
    except ThopterError as e:
        pytest.skip(f"{e.message} ({e.hint})")
    lab = Lab(tmp_path_factory.mktemp("living"), settings(criu=wish))
    yield lab
    lab.end()


@pytest.fixture
def one(lab: Lab) -> Iterator[BoxHandle]:
    """A box with the program at work in it."""
    made = lab.box()
    lab.exec(made.key, "sh", "-c", "cat >/root/count.py", stdin=_PROGRAM.encode())
    lab.sh(
        made.key,
        "WORD=walnut setsid python3 /root/count.py </dev/null >/dev/null 2>&1 & "
        "until [ -e /dev/shm/count ]; do sleep 0.05; done",
    )
    yield made
    lab.run(lab.provider.destroy(made.key))


def _count(lab: Lab, key: str) -> list[str]:
    return lab.sh(key, "cat /dev/shm/count").split(" ", 4)


def _snap(lab: Lab, one: BoxHandle) -> str:
    snap = "snap_" + secrets.token_hex(6)
    root = int(_count(lab, one.key)[1])
    lab.run(lab.provider.snapshot_live(one.key, snap, {}, root), 150)
    return snap


def _grows(lab: Lab, key: str, beyond: int) -> None:
    lab.sh(key, f"until [ $(cut -d' ' -f1 /dev/shm/count) -gt {beyond} ]; do sleep 0.05; done")


def test_a_program_goes_on_in_the_new_box_with_its_memory_behind_the_same_walls(
    lab: Lab, one: BoxHandle
) -> None:
    before = _count(lab, one.key)
    snap = _snap(lab, one)
    again = lab.run(lab.provider.snapshot_live(one.key, snap, {}, int(before[1])))
    assert again.snapshot.id == snap, "saved once"
    made = lab.box(snapshot=snap)
    lab.run(lab.provider.start_live(made.key, snap), 150)
    lab.run(lab.provider.start_live(made.key, snap), 150)
    after = _count(lab, made.key)
    assert before[1:] == [before[1], "walnut", "open", "still here"]
    assert int(after[0]) >= int(before[0])
    for key, line in ((one.key, "open"), (made.key, "closed")):
        _grows(lab, key, int(after[0]) + 3)
        assert _count(lab, key)[1:] == [before[1], "walnut", line, "still here"]
        assert lab.exec(key, "python3", "-c", _CALL).exit == 0, "it listens there, too"
    walls = f"grep -E '^(Seccomp|NoNewPrivs|Cap|Uid|Groups)' /proc/{before[1]}/status"
    assert lab.sh(one.key, walls) == lab.sh(made.key, walls) != ""
    assert "Seccomp:\t2" in lab.sh(made.key, walls)
    inner = {procs.inner_pid(p): p for p in lab.pids(made)}
    theirs, first = inner[int(before[1])], int(made.memory["pid"])
    for name in ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup"):
        assert os.readlink(f"/proc/{theirs}/ns/{name}") == os.readlink(f"/proc/{first}/ns/{name}"), name
    groups = Path(f"/proc/{theirs}/cgroup").read_text()
    assert groups == Path(f"/proc/{first}/cgroup").read_text(), "the limits of its box are on it"
    lab.run(lab.provider.destroy(made.key))
    lab.run(lab.provider.drop_snapshot(snap))
    assert not (lab.place.paths.state / "snapshots" / snap).exists()
    assert lab.run(lab.provider.leaks(frozenset([one.key]))) == []


def test_nothing_that_lies_in_the_box_gets_into_the_one_who_saves_it(lab: Lab, one: BoxHandle) -> None:
    lab.sh(one.key, _EVIL)
    control = lab.exec(one.key, "/bin/true").stderr
    assert b"/root/evil.so" in control, "an ordinary program of the box does read it"
    snap = _snap(lab, one)
    log = (lab.place.paths.state / "snapshots" / snap / "live/dump.log").read_text()
    assert "evil" not in log, log
    made = lab.box(snapshot=snap)
    lab.run(lab.provider.start_live(made.key, snap), 150)
    for key in (one.key, made.key):
        assert lab.exec(key, "test", "-e", "/root/was-here").exit == 1
    lab.run(lab.provider.destroy(made.key))
    lab.run(lab.provider.drop_snapshot(snap))


def test_what_can_not_be_saved_is_refused_and_goes_on(lab: Lab, one: BoxHandle) -> None:
    root = int(_count(lab, one.key)[1])
    with pytest.raises(NotNow):
        lab.run(lab.provider.snapshot_live(one.key, "snap_none", {}, 31999))
    lab.run(lab.provider.freeze(one.key))
    with pytest.raises(NotNow):
        lab.run(lab.provider.snapshot_live(one.key, "snap_frozen", {}, root))
    lab.run(lab.provider.thaw(one.key))
    for ours in (1, int(lab.sh(one.key, "echo $PPID"))):
        with pytest.raises(NotNow):  # every box has a first process and a boxd of its own
            lab.run(lab.provider.snapshot_live(one.key, "snap_boxd", {}, ours))
    talks = (
        "import os, socket, time; s = socket.socket(socket.AF_UNIX); s.connect('/root/s'); time.sleep(999)"
    )
    lab.sh(
        one.key,
        "setsid python3 -c 'import socket, time; s = socket.socket(socket.AF_UNIX); "
        's.bind("/root/s"); s.listen(); c = s.accept(); time.sleep(999)\' </dev/null >/dev/null 2>&1 & '
        "until [ -e /root/s ]; do sleep 0.05; done",
    )
    lab.sh(one.key, f'setsid python3 -c "{talks}" </dev/null >/dev/null 2>&1 & echo $! >/root/pid; sleep 0.5')
    with pytest.raises(ProviderError) as caught:  # half of a connection
        lab.run(
            lab.provider.snapshot_live(one.key, "snap_half", {}, int(lab.sh(one.key, "cat /root/pid"))), 150
        )
    assert "can't be saved" in caught.value.message, caught.value.message
    other = lab.box()
    with pytest.raises(Conflict):
        lab.run(lab.provider.start_live(other.key, "snap_none"))
    _grows(lab, one.key, int(_count(lab, one.key)[0]) + 3)
    assert lab.run(lab.provider.snapshots()) == []
    lab.run(lab.provider.destroy(other.key))
    assert lab.run(lab.provider.leaks(frozenset([one.key]))) == []
