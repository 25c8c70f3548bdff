"""gVisor boxes: a kernel of their own inside a box of ours, and in all else a box like any other."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_lab import Lab, settings
from local_ways import ASKED, HERE

# What every box must hold, here too: these tests of battery S run against the boxes of this file.
from test_local_walls import (  # noqa: F401
    test_a_box_does_not_learn_where_it_is,
    test_a_box_sees_its_own_processes_only,
    test_a_process_of_a_box_starts_with_three_descriptors,
    test_boxes_do_not_reach_one_another,
    test_dangerous_system_calls_are_refused,
    test_no_secret_of_the_machine_is_readable,
    test_no_socket_of_the_machine_can_be_reached,
    test_nothing_can_be_typed_into_a_terminal_from_inside,
    test_odd_sockets_are_refused_and_usual_ones_work,
    test_root_of_a_box_is_not_root_of_the_machine,
    two,
)

from thopter.kit.linux import procs
from thopter.kit.settings import Settings
from thopter.model.errors import ProviderError, Refused, Unsupported
from thopter.model.nouns import BoxState, Isolation
from thopter.model.sockets import BoxHandle, BoxSpec
from thopter.providers.local.gv_command import OLDEST, version
from thopter.testing.local import GOLDEN

MIB = 1 << 20
PORT = 8401
NO_VM = {"vm_kernel": "/nonexistent"}  # or what gVisor can't give would be made as a virtual machine
RUNSC = os.environ.get("THOPTER_LOCAL_RUNSC") or str(HERE.parent.parent / ".dev/runsc/usr/bin/runsc")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(ASKED not in ("", "auto"), reason="of gVisor boxes only"),
]


def gvisor(**more: object) -> Settings:
    """Settings of a hub whose boxes all are gVisor's, by the runsc that ./dev unpacked or this machine's."""
    runsc = RUNSC if os.path.exists(RUNSC) else "auto"
    return settings(**({"isolation": "gvisor", "runsc": runsc, **NO_VM} | more))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab of gVisor boxes; skipped where no runsc can be had."""
    made = Lab(tmp_path_factory.mktemp("lab"), gvisor())
    try:
        for way in made.provider._ladder:
            if way.isolation is Isolation.GVISOR:
                try:
                    way.check()
                except ProviderError as e:
                    pytest.skip(f"no gVisor here: {e.message}")
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def one(lab: Lab) -> BoxHandle:
    """A box with one gateway's port."""
    return lab.box(ports=(PORT,))


def test_a_gvisor_box_has_a_kernel_of_its_own_and_is_in_a_box_of_ours(lab: Lab, one: BoxHandle) -> None:
    assert one.isolation is Isolation.GVISOR
    kernel, said = lab.sh(one.key, "uname -r; cat /proc/version").splitlines()
    assert kernel != os.uname().release and said != Path("/proc/version").read_text().strip()
    record = lab.provider._require(one.key)
    outside = lab.pids(one)
    assert len(outside) > 2 and any("runsc-sandbox" in procs.command_line(p) for p in outside)
    for pid in outside:
        if procs.stat_state(pid) in ("", "Z", "X"):
            continue
        assert record.base <= os.stat(f"/proc/{pid}").st_uid < record.base + record.count
        assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    status = Path(f"/proc/{record.pid}/status").read_text()
    assert "Seccomp:\t2" in status and "NoNewPrivs:\t1" in status
    assert not (Path(f"/proc/{record.pid}/root") / "usr").exists()  # nothing there but what it needs


def test_caps_say_what_such_boxes_can_and_cannot(lab: Lab, one: BoxHandle) -> None:
    caps = lab.run(lab.provider.caps())
    assert caps.isolation is Isolation.GVISOR and {"snapshots", "stops", "confines"} <= caps.facets
    assert "forks live" not in caps.facets and "CRIU" in caps.missing["forks live"]
    with pytest.raises(Unsupported, match="gVisor"):
        lab.run(lab.provider.snapshot_live(one.key, "snap_live", {}, 1))
    usual = settings(isolation="auto")
    assert usual.get("local.isolation") == "auto"


@pytest.mark.battery("S23", "E3")
def test_the_gateways_port_is_reached_inside_and_nothing_else(lab: Lab, one: BoxHandle) -> None:
    listener = lab.run(lab.provider.listeners(one.key))[PORT]

    def serve() -> None:
        with listener, listener.accept()[0] as sock:
            sock.settimeout(30)
            while data := sock.recv(65536):
                sock.sendall(data)

    listener.settimeout(30)
    server = threading.Thread(target=serve, daemon=True)
    server.start()
    probe = f"""
    import json, socket
    def reach(*where):
        try:
            socket.create_connection(where, 5).close(); return "ok"
        except OSError as e:
            return type(e).__name__
    sent = bytes(range(256)) * 8192
    with socket.create_connection(("127.0.0.1", {PORT}), 10) as s:
        import threading
        threading.Thread(target=lambda: (s.sendall(sent), s.shutdown(socket.SHUT_WR))).start()
        got = b""
        while part := s.recv(65536):
            got += part
    found = [reach("127.0.0.1", {PORT + 1}), reach("1.1.1.1", 443), reach("10.0.0.1", 80)]
    print(json.dumps([got == sent, *found]))
    """
    same, *others = lab.py(one.key, probe)
    server.join(30)
    assert same and "ok" not in others, others


def test_a_new_hub_finds_it_and_it_is_frozen_like_any_other(lab: Lab, one: BoxHandle) -> None:
    async def later() -> BoxState:
        async with lab.place.open() as other:
            await other.freeze(one.key)
            frozen = (await other.get(one.key)).state
            await other.thaw(one.key)
        return frozen

    assert lab.run(later()) is BoxState.FROZEN
    assert lab.run(lab.provider.get(one.key)).state is BoxState.READY
    assert lab.sh(one.key, "echo on") == "on"


def test_what_it_wrote_is_saved_and_a_stop_lets_its_programs_end(lab: Lab) -> None:
    box = lab.box()
    lab.sh(box.key, "echo one > /work/file; mkdir /etc/own; ln -s file /work/link; chmod 640 /work/file")
    lab.run(lab.provider.snapshot(box.key, "snap_gv", {}))
    lab.sh(
        box.key,
        "(sh -c 'trap \"echo bye > /work/bye; exit\" TERM; : > /work/set; while :; do sleep 0.05; done' "
        "> /dev/null 2>&1 &) ; until [ -e /work/set ]; do sleep 0.05; done",
    )
    lab.run(lab.provider.stop(box.key))
    assert lab.run(lab.provider.get(box.key)).state is BoxState.STOPPED
    spec = BoxSpec(key=box.key, name="b" + box.key[4:], golden=GOLDEN)
    again = lab.run(lab.provider.revive(spec))
    assert again.isolation is Isolation.GVISOR
    assert lab.sh(box.key, "cat /work/bye /work/link; uname -r").split()[:2] == ["bye", "one"]
    made = lab.box(snapshot="snap_gv")
    assert lab.sh(
        made.key, "cat /work/link; stat -c %a /work/file; ls -d /etc/own; ls /work/bye || echo no"
    ) == ("one\n640\n/etc/own\nno")
    for key in (box.key, made.key):
        lab.run(lab.provider.destroy(key))
    lab.run(lab.provider.drop_snapshot("snap_gv"))


@pytest.mark.battery("S12", "S13")
def test_a_fork_bomb_and_a_memory_hog_stay_at_home(lab: Lab, one: BoxHandle) -> None:
    caps = lab.run(lab.provider.caps())
    if not {"memory_bytes", "pids"} <= caps.limits:
        pytest.skip("no cgroup limits here")
    box = lab.small_box(memory_bytes=256 * MIB, pids=200)
    for wild in (
        "f() { f | f & }; f; sleep 2",
        "python3 -c 'x = bytearray(1 << 30); x[::4096] = b\"y\" * len(x[::4096])'",
    ):
        try:
            done = lab.exec(box.key, "sh", "-c", f"timeout 5 sh -c '{wild}'" if "f()" in wild else wild)
            assert done.exit != 0 or "f()" in wild
        except Exception as e:  # the box may end of it; the neighbour must not
            assert "box" in str(e) or "connection" in str(e), e
        assert lab.sh(one.key, "echo fine") == "fine"
    lab.run(lab.provider.destroy(box.key))
    assert lab.run(lab.provider.leaks(frozenset(h.key for h in lab.run(lab.provider.list())))) == []


def test_a_box_whose_sandbox_is_killed_is_lost_and_leaves_nothing(lab: Lab) -> None:
    box = lab.box()
    pids = lab.pids(box)
    (sandbox,) = [p for p in pids if procs.command_line(p)[:1] == ["runsc-sandbox"]]
    os.kill(sandbox, signal.SIGKILL)
    threading.Event().wait(0.05)
    for _ in range(600):
        if lab.run(lab.provider.get(box.key)).state is BoxState.LOST:
            break
        threading.Event().wait(0.05)
    assert lab.run(lab.provider.get(box.key)).state is BoxState.LOST
    lab.run(lab.provider.destroy(box.key))
    assert [p for p in pids if procs.stat_state(p) not in ("", "Z", "X")] == []


@pytest.mark.battery("S20", "S21")
def test_a_box_that_does_not_come_up_says_why_and_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    liar = tmp_path / "runsc"
    liar.write_text("#!/bin/sh\n[ \"$1\" != --version ] || echo 'runsc version release-20300101.0'\n")
    liar.chmod(0o755)
    other = Lab(tmp_path / "lab", gvisor(runsc=str(liar)))
    try:
        with pytest.raises(Refused, match=r"gvisor: .*runsc ended with status") as caught:
            other.box()
        assert "doctor" in caught.value.hint
        assert other.run(other.provider.list()) == [] == other.run(other.provider.leaks(frozenset()))
        liar.write_text("#!/bin/sh\necho 'runsc version 0.0~20221219.0'\n")
        why = other.run(other.provider.tiers(again=True))[Isolation.GVISOR]
        assert "20221219" in why and "apt install" in why
    finally:
        other.end()


def test_without_runsc_the_sentence_says_how_to_get_it_and_usual_boxes_are_made(tmp_path: Path) -> None:
    lab = Lab(tmp_path, settings(runsc="off", **NO_VM))
    try:
        spec = BoxSpec(key="box_x", name="x", golden=GOLDEN, isolation="gvisor")
        assert "local.runsc is off" in lab.run(lab.provider.caps(spec)).missing["gvisor"]
        with pytest.raises(Refused, match=r"local\.runsc is off"):
            lab.run(lab.provider.ensure(spec))
        assert lab.run(lab.provider.list()) == []
        assert lab.box().isolation is Isolation.NAMESPACES_IDMAPPED
    finally:
        lab.end()


def test_the_age_of_a_runsc_is_read_from_both_spellings() -> None:
    assert version("runsc version 0.0~20240729.0\nspec: 1.0.2-dev") == version(
        "runsc version release-20240729.0"
    )
    assert version("runsc version 0.0~20221219.0") < OLDEST <= version("runsc version release-20240729.0")
    assert version("nonsense") == 0
