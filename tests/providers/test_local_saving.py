"""Saving, stopping and reviving of the local provider: kill -9 at every step, reboots, hostile files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from local_lab import Lab, settings

from thopter.kit import failpoint
from thopter.kit.linux import procs
from thopter.model.nouns import BoxState
from thopter.model.sockets import BoxSpec

KEY, SNAP = "box_victim", "snap_victim"
SPEC = BoxSpec(key=KEY, name="victim", golden="base", ports=(8401,))
IN_SNAPSHOT = ("snapshot.recorded", "snapshot.still", "snapshot.taken")
IN_STOP = ("stop.marked", "stop.ended")
IN_REVIVE = ("ensure.recorded", "ensure.folder", "ensure.cgroup", "ensure.asked", "ensure.confirmed")


def hub(lab: Lab, what: str, dies_at: str = "") -> None:
    """Run a hub process that does ``what``; it must die at the failpoint, or succeed without one."""
    paths = lab.place.paths
    env = os.environ | ({failpoint.ENV: dies_at} if dies_at else {})
    argv = [sys.executable, str(Path(__file__).with_name("local_hub.py"))]
    done = subprocess.run(
        [*argv, str(paths.state), str(paths.runtime), what, KEY],
        env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == (-signal.SIGKILL if dies_at else 0), done.stderr


def all_in_order(lab: Lab) -> None:
    """The box works, can be saved under the same id, and nothing else is left anywhere."""
    assert lab.sh(KEY, "cat /root/mark") == "mine"
    lab.run(lab.provider.snapshot(KEY, SNAP, {}))
    made = lab.box(snapshot=SNAP)
    assert lab.sh(made.key, "cat /root/mark") == "mine"
    assert lab.run(lab.provider.leaks(frozenset([KEY, SNAP, made.key]))) == []
    lab.run(lab.provider.drop_snapshot(SNAP))
    for key in (KEY, made.key):
        lab.run(lab.provider.destroy(key))
    lab.run(lab.provider.sweep(frozenset()))
    assert lab.run(lab.provider.leaks(frozenset())) == []


def victim(lab: Lab) -> None:
    """The box that every test here starts with."""
    lab.run(lab.provider.ensure(SPEC))
    lab.sh(KEY, "echo mine > /root/mark")


@pytest.mark.battery("P5")
@pytest.mark.parametrize("dies_at", IN_SNAPSHOT)
def test_a_hub_killed_while_saving_a_box(own_lab: Lab, dies_at: str) -> None:
    victim(own_lab)
    hub(own_lab, "snapshot", dies_at)
    assert own_lab.run(own_lab.provider.snapshots()) == []
    own_lab.run(own_lab.provider.start())
    assert own_lab.run(own_lab.provider.get(KEY)).state is BoxState.READY
    assert {leak.key for leak in own_lab.run(own_lab.provider.sweep(frozenset([KEY])))} == {SNAP}
    assert own_lab.run(own_lab.provider.leaks(frozenset([KEY]))) == []
    hub(own_lab, "snapshot", dies_at)
    own_lab.run(own_lab.provider.start())
    all_in_order(own_lab)


def test_a_hub_killed_while_a_box_stands_still_leaves_it_to_the_next_one(own_lab: Lab) -> None:
    victim(own_lab)
    hub(own_lab, "snapshot", "snapshot.still")
    assert own_lab.run(own_lab.provider.get(KEY)).state is BoxState.FROZEN
    own_lab.run(own_lab.provider.start())
    assert own_lab.run(own_lab.provider.get(KEY)).state is BoxState.READY
    own_lab.run(own_lab.provider.freeze(KEY))  # somebody wants it frozen now: that stays
    own_lab.run(own_lab.provider.start())
    assert own_lab.run(own_lab.provider.get(KEY)).state is BoxState.FROZEN
    own_lab.run(own_lab.provider.thaw(KEY))
    all_in_order(own_lab)


@pytest.mark.parametrize("dies_at", IN_STOP)
def test_a_hub_killed_while_stopping_a_box(own_lab: Lab, dies_at: str) -> None:
    victim(own_lab)
    hub(own_lab, "stop", dies_at)
    own_lab.run(own_lab.provider.start())
    state = own_lab.run(own_lab.provider.get(KEY)).state
    assert state is (BoxState.READY if dies_at == "stop.marked" else BoxState.STOPPED)
    own_lab.run(own_lab.provider.stop(KEY))
    assert own_lab.run(own_lab.provider.revive(SPEC)).state is BoxState.READY
    all_in_order(own_lab)


@pytest.mark.parametrize("dies_at", IN_REVIVE)
def test_a_hub_killed_while_reviving_a_box(own_lab: Lab, dies_at: str) -> None:
    victim(own_lab)
    own_lab.run(own_lab.provider.stop(KEY))
    hub(own_lab, "revive", dies_at)
    own_lab.run(own_lab.provider.start())
    own_lab.run(own_lab.provider.sweep(frozenset([KEY])))
    state = own_lab.run(own_lab.provider.get(KEY)).state
    assert state is (BoxState.READY if dies_at == "ensure.confirmed" else BoxState.STOPPED)
    assert own_lab.run(own_lab.provider.revive(SPEC)).state is BoxState.READY
    sockets = own_lab.run(own_lab.provider.listeners(KEY))
    assert list(sockets) == [8401]
    sockets[8401].close()
    all_in_order(own_lab)


@pytest.mark.root
@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "running"])
def test_boxes_and_snapshots_survive_a_reboot(own_lab: Lab, stopped: bool) -> None:
    """Simulated: every process of ours is killed, everything is unmounted."""
    victim(own_lab)
    own_lab.sh(KEY, "echo usr > /usr/local/mark")
    own_lab.run(own_lab.provider.snapshot(KEY, SNAP, {}))
    other = own_lab.box(snapshot=SNAP)
    own_lab.sh(other.key, "echo other > /root/mark")
    if stopped:
        own_lab.run(own_lab.provider.stop(KEY))
    reboot(own_lab)
    own_lab.run(own_lab.provider.start())
    known = frozenset([KEY, SNAP, other.key])
    assert {leak.kind for leak in own_lab.run(own_lab.provider.sweep(known))} == {"cgroup"}  # a spare's
    want = BoxState.STOPPED if stopped else BoxState.LOST
    assert own_lab.run(own_lab.provider.get(KEY)).state is want
    assert own_lab.run(own_lab.provider.get(other.key)).state is BoxState.LOST
    assert [h.id for h in own_lab.run(own_lab.provider.snapshots())] == [SNAP]
    assert own_lab.run(own_lab.provider.revive(SPEC)).state is BoxState.READY
    assert own_lab.sh(KEY, "cat /root/mark /usr/local/mark") == "mine\nusr"
    own_lab.run(own_lab.provider.snapshot(other.key, "snap_lost", {}))  # as it lies
    made = own_lab.box(snapshot="snap_lost")
    assert own_lab.sh(made.key, "cat /root/mark") == "other"
    for snap in (SNAP, "snap_lost"):
        own_lab.run(own_lab.provider.drop_snapshot(snap))
    for key in (other.key, made.key):
        own_lab.run(own_lab.provider.destroy(key))
    all_in_order(own_lab)


def reboot(lab: Lab) -> None:
    """End everything that a reboot ends."""
    pids = [lab.run(lab.provider._nursery.ping()).get("pid")]
    pids += [h.memory["pid"] for h in lab.run(lab.provider.list()) if h.state is not BoxState.STOPPED]
    for pid in pids:
        procs.kill(int(pid), procs.start_time(int(pid)))
    pool = lab.place.paths.state / "pool"
    if os.path.ismount(pool):
        lab.provider._maker.pool.unmount()


@pytest.mark.root
def test_a_chain_of_snapshots_has_no_end(own_lab: Lab) -> None:
    box, snaps = own_lab.box(), []
    for level in range(52):
        own_lab.sh(
            box.key, f"echo {level} > /root/level; echo {level} > /root/l{level}; rm -f /root/l{level - 2}"
        )
        snaps.append(own_lab.run(own_lab.provider.snapshot(box.key, f"snap_{level}", {})))
        new = own_lab.box(snapshot=f"snap_{level}")
        own_lab.run(own_lab.provider.destroy(box.key))
        own_lab.run(own_lab.provider.drop_snapshot(f"snap_{level - 1}"))
        box = new
    assert own_lab.sh(box.key, "cat /root/level; ls /root") == "51\nl50\nl51\nlevel"
    assert snaps[-1].parent == "snap_50"


HOSTILE = """
rm -rf /etc; ln -s /root /etc
rm -rf /var/lib/thopter /var/lib; ln -s /root/lib /var/lib; mkdir -p /root/lib/thopter/journal
echo kept > /root/hostname; echo kept > /root/lib/thopter/kept
"""


@pytest.mark.battery("S11", "P2")
@pytest.mark.parametrize("pool", ["auto", "plain"])
def test_links_that_a_box_put_in_the_way_are_not_followed(tmp_path: Path, pool: str) -> None:
    lab = Lab(tmp_path, settings(pool=pool))
    try:
        box = lab.box()
        lab.sh(box.key, HOSTILE)
        lab.run(lab.provider.snapshot(box.key, SNAP, {}))
        made = lab.box(snapshot=SNAP)
        said = lab.sh(made.key, "cat /root/hostname /root/lib/thopter/kept /etc/hostname; ls /etc; hostname")
        name = "b" + made.key[4:]
        assert said.split() == ["kept", "kept", name, "hostname", "hosts", name]
    finally:
        lab.end()


@pytest.mark.battery("P1")
def test_a_very_deep_tree_is_copied(tmp_path: Path) -> None:
    lab = Lab(tmp_path, settings(pool="plain"))
    try:
        box = lab.box()
        down = "import os\nfor i in range(300): os.mkdir('d'*100); os.chdir('d'*100)\n"
        lab.exec(box.key, "python3", "-c", down + "open('end','w').write('x')", cwd="/root")
        lab.run(lab.provider.snapshot(box.key, SNAP, {}))
        made = lab.box(snapshot=SNAP)
        down = "import os\nfor i in range(300): os.chdir('d'*100)\nprint(open('end').read())"
        assert lab.exec(made.key, "python3", "-c", down, cwd="/root").stdout == b"x\n"
    finally:
        lab.end()


@pytest.mark.battery("P5")
@pytest.mark.parametrize("pool", ["auto", "plain"])
def test_a_snapshot_of_a_busy_box_is_one_instant(tmp_path: Path, pool: str) -> None:
    """A program writes first here, then there; no snapshot has the second without the first."""
    lab = Lab(tmp_path, settings(pool=pool))
    busy = (
        "i=0; while :; do i=$((i+1)); echo $i > /root/t; mv /root/t /root/a; "
        "echo $i > /usr/local/t; mv /usr/local/t /usr/local/b; done"
    )
    try:
        box = lab.box()
        lab.sh(
            box.key,
            f"setsid sh -c '{busy}' >/dev/null 2>&1 </dev/null & until [ -e /usr/local/b ]; do :; done",
        )
        seen = []
        for n in range(3):
            lab.run(lab.provider.snapshot(box.key, f"snap_{n}", {}))
            made = lab.box(snapshot=f"snap_{n}")
            one, two = lab.sh(made.key, "cat /root/a /usr/local/b").split()
            assert int(one) - int(two) in (0, 1), (one, two)
            seen.append(int(one))
        assert seen == sorted(set(seen)), "it went on in between"
    finally:
        lab.end()
