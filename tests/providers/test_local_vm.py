"""Boxes that are virtual machines, with the real QEMU: emulated where KVM does not come up.

One machine is booted and saved for all of these tests; boxes go on from that state.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_lab import Lab, settings
from local_ways import ASKED, VM_KERNEL

from thopter.kit.linux import procs
from thopter.model.errors import ProviderError, Unsupported
from thopter.model.nouns import BoxState, Isolation, Limits
from thopter.model.sockets import BoxHandle, BoxSpec
from thopter.providers.local.vm_kits import Kits
from thopter.testing.provider_suite import linked

pytestmark = [
    pytest.mark.root,
    pytest.mark.xdist_group("machines"),
    pytest.mark.timeout(900),
    pytest.mark.skipif(ASKED not in ("", "auto"), reason="of the usual boxes only"),
]
_PATIENCE = 600.0
_MEMORY = 768 << 20


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose boxes can be virtual machines."""
    try:
        Kits(Path("/nonexistent"), str(VM_KERNEL)).check()
    except ProviderError as e:
        pytest.skip(f"no virtual machine can be had: {e.message}; './dev setup' gets what it takes")
    made = Lab(tmp_path_factory.mktemp("machines"), settings(vm_kernel=str(VM_KERNEL)))
    try:
        yield made
    finally:
        made.end()


def machine(lab: Lab, key: str) -> BoxHandle:
    """A new box that is one."""
    spec = BoxSpec(
        key=key, name="m-" + key[4:], golden="base", isolation="vm", ports=(8401,),
        limits=Limits(memory_bytes=_MEMORY, cpus=1, pids=300),
    )  # fmt: skip
    return lab.run(lab.provider.ensure(spec), _PATIENCE)


@pytest.fixture(scope="module")
def one(machines: Lab) -> BoxHandle:
    """A machine that the tests share."""
    return machine(machines, "box_one")


def qemu(handle: BoxHandle) -> int:
    """The process of QEMU, as this host numbers it."""
    (found,) = (p for p in procs.tree(int(handle.memory["pid"])) if "-nodefaults" in procs.command_line(p))
    return found


def status(pid: int) -> dict[str, str]:
    """What the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}


@pytest.mark.battery("S24")
def test_a_machine_has_a_kernel_and_memory_of_its_own_and_no_way_out(machines: Lab, one: BoxHandle) -> None:
    assert one.isolation is Isolation.VM and one.state is BoxState.READY
    found = machines.py(one.key, """
        import json, os, socket
        words = {l.split(":")[0]: int(l.split()[1]) for l in open("/proc/meminfo")}
        net = [i[1] for i in socket.if_nameindex()]
        with socket.socket() as s:
            s.settimeout(2)
            try:
                s.connect(("192.0.2.1", 80)); out = "connected"
            except OSError as e:
                out = e.strerror or str(e)
        print(json.dumps({"kernel": os.uname().release, "net": net, "out": out, "name": os.uname().nodename,
                          "memory": words["MemTotal"], "cpus": os.cpu_count()}))
    """)  # fmt: skip
    assert found["kernel"] != os.uname().release
    assert found["net"] == ["lo"] and "unreachable" in found["out"]
    assert 0.75 * _MEMORY < found["memory"] << 10 < _MEMORY
    assert found["cpus"] == 1 and found["name"] == "m-one"


@pytest.mark.battery("S24")
def test_the_walls_of_every_box_stand_inside_of_the_machine_too(machines: Lab, one: BoxHandle) -> None:
    found = machines.py(one.key, """
        import ctypes, json, os, resource
        libc = ctypes.CDLL(None, use_errno=True)
        def tried(what):
            try:
                return what() or "done"
            except OSError as e:
                return e.strerror
        def mount():
            if libc.mount(b"none", b"/mnt", b"tmpfs", 0, None):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        def write(path):
            with open(path, "w") as f:
                f.write("x")
        status = dict(l.rstrip().split(":", 1) for l in open("/proc/self/status"))
        print(json.dumps({
            "mount": tried(mount), "core": tried(lambda: write("/proc/sys/kernel/core_pattern")),
            "disk": tried(lambda: os.mknod("/root/disk", 0o60600, os.makedev(254, 0))),
            "devices": sorted(os.listdir("/dev")), "caps": status["CapEff"].strip(),
            "seccomp": status["Seccomp"].strip(), "new": status["NoNewPrivs"].strip(),
            "first": tried(lambda: os.readlink("/proc/1/exe")),
            "pids": open("/proc/self/cgroup").read().strip(),
        }))
    """)  # fmt: skip
    assert found["mount"] == found["disk"] == "Operation not permitted"
    assert found["core"] == "Read-only file system"
    assert found["first"] == "Permission denied"
    assert found["seccomp"] == "2" and found["new"] == "1"
    assert not int(found["caps"], 16) & (
        1 << 21 | 1 << 19 | 1 << 16 | 1 << 17
    )  # SYS_ADMIN, PTRACE, MODULE, RAWIO
    assert not {"vda", "vport0p1", "kvm", "mem"} & set(found["devices"])
    assert found["pids"] == "0::/box"


def test_files_go_in_and_out_and_stay_on_the_machines_own_disk(machines: Lab, one: BoxHandle) -> None:
    content = os.urandom(300_000)

    async def there_and_back() -> bytes:
        async with linked(machines.provider, one.key) as link:
            await link.put("/root/a file", content)
            return await link.fetch("/root/a file")

    assert machines.run(there_and_back(), _PATIENCE) == content
    machines.sh(one.key, "cd /usr/local && echo changed > share/mine && rm -rf /usr/share/doc/bash && sync")
    assert machines.sh(one.key, "cat /usr/local/share/mine") == "changed"
    assert not Path("/usr/local/share/mine").exists() and Path("/usr/share/doc/bash").exists()
    root = machines.place.paths.state / "pool" / one.key / "root/upper"
    assert not (root / "root/a file").exists()


@pytest.mark.battery("S24")
def test_a_gateways_port_inside_comes_out_at_its_socket_and_no_other_port_does(
    machines: Lab, one: BoxHandle
) -> None:
    (listener,) = machines.run(machines.provider.listeners(one.key)).values()
    listener.setblocking(True)
    listener.settimeout(_PATIENCE)
    heard: list[bytes] = []

    def gateway() -> None:
        for _ in range(2):
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(_PATIENCE)
                got = b""
                while part := sock.recv(65536):
                    got += part
                heard.append(got)
                sock.sendall(got[::-1])

    with listener:
        thread = threading.Thread(target=gateway)
        thread.start()
        for size in (5, 400_000):
            found = machines.py(one.key, f"""
                import json, socket
                sent = bytes(i * i % 251 for i in range({size}))
                with socket.create_connection(("127.0.0.1", 8401)) as s:
                    s.sendall(sent); s.shutdown(socket.SHUT_WR)
                    got = b""
                    while part := s.recv(65536):
                        got += part
                print(json.dumps(got == sent[::-1]))
            """)  # fmt: skip
            assert found is True
        thread.join(_PATIENCE)
    assert [len(h) for h in heard] == [5, 400_000]
    dial = "import socket; socket.create_connection(('127.0.0.1', 8402))"
    refused = machines.sh(one.key, f'python3 -c "{dial}" 2>&1 | tail -1')
    assert "refused" in refused


@pytest.mark.battery("S24")
def test_qemu_is_behind_the_walls_of_a_box_that_holds_nothing_but_the_machine(
    machines: Lab, one: BoxHandle
) -> None:
    pid = qemu(one)
    found = status(pid)
    uids = {int(u) for u in found["Uid"].split()}
    assert len(uids) == 1 and min(uids) >= 0x10000000  # nobody of this host
    assert found["NoNewPrivs"] == "1" and found["Seccomp"] == "2"
    assert (
        int(found["CapEff"], 16) == int(found["CapBnd"], 16) == 1 << 1
    )  # DAC_OVERRIDE, in its own namespace
    for space in ("net", "mnt", "pid", "ipc", "uts", "user", "cgroup"):
        assert os.stat(f"/proc/{pid}/ns/{space}").st_ino != os.stat(f"/proc/self/ns/{space}").st_ino
    root = f"/proc/{pid}/root"
    assert not {"home", "root", "etc", "var", "opt"} & set(os.listdir(root))
    assert sorted(os.listdir(f"{root}/tree/proc") + os.listdir(f"{root}/tree/dev")) == []
    mounts = {
        line.split()[4]: line.split()[5] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    }
    writable = {path for path, how in mounts.items() if not how.startswith("ro")}
    assert writable <= {"/", "/disk", "/proc", "/dev", "/dev/pts", "/run"}
    groups = machines.provider._maker.groups
    assert pid in groups.pids(machines.provider._require(one.key).group)
    words = procs.command_line(pid)
    assert words[words.index("-sandbox") + 1].count("deny") == 4 and "-netdev" not in words


def test_machines_of_one_saved_state_draw_other_numbers_and_one_that_dies_leaves_nothing(
    machines: Lab, one: BoxHandle
) -> None:
    kits = sorted((machines.place.paths.state / "vm").glob("*/state-*"))
    other = machine(machines, "box_other")
    assert sorted((machines.place.paths.state / "vm").glob("*/state-*")) == kits  # nothing was booted for it
    probe = """
        import json, os, time
        boot = open("/proc/sys/kernel/random/boot_id").read()
        print(json.dumps([boot, os.urandom(16).hex(), time.time()]))
    """
    before = time.time()
    mine, its = machines.py(one.key, probe), machines.py(other.key, probe)
    assert mine[0] != its[0] and mine[1] != its[1]
    assert before - 1 < mine[2] < time.time() + 1 and before - 1 < its[2] < time.time() + 1
    machines.sh(one.key, "echo mine > /root/of-one")
    assert machines.exec(other.key, "cat", "/root/of-one").exit != 0

    # Then its QEMU dies: it is lost, nobody knows it any more, and it is swept without a trace.
    pids = machines.pids(other)
    os.kill(qemu(other), signal.SIGKILL)
    deadline = time.monotonic() + _PATIENCE
    while machines.run(machines.provider.get(other.key)).state is not BoxState.LOST:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    removed = machines.run(machines.provider.sweep(frozenset({"box_one"})))
    assert {leak.key for leak in removed} == {"box_other"}
    state = machines.place.paths.state
    assert not (state / "pool" / other.key).exists() and not (state / "boxes" / other.key).exists()
    assert machines.run(machines.provider.leaks(frozenset({"box_one"}))) == []
    assert all(procs.stat_state(pid) in ("Z", "X", "") for pid in pids)


def test_a_frozen_machine_stands_still_and_goes_on_where_it_was(machines: Lab, one: BoxHandle) -> None:
    counting = "i=0; while :; do i=$((i+1)); echo $i > /run/new; mv /run/new /run/count; sleep 0.1; done"
    machines.sh(one.key, f"({counting}) >/dev/null 2>&1 & echo $! > /run/counter; sleep 1")
    machines.run(machines.provider.freeze(one.key))
    assert machines.run(machines.provider.get(one.key)).state is BoxState.FROZEN

    def used() -> list[str]:
        return Path(f"/proc/{qemu(one)}/stat").read_text().split()[13:15]

    before = used()
    time.sleep(0.5)
    assert used() == before
    machines.run(machines.provider.thaw(one.key))
    first = int(machines.sh(one.key, "cat /run/count"))
    wait = 'until [ "$(cat /run/count)" -gt $n ]; do sleep 0.1; done'
    later = machines.sh(one.key, f"n={first}; {wait}; kill $(cat /run/counter); cat /run/count; date +%s")
    count, now = later.split()
    assert int(count) > first and abs(int(now) - time.time()) < 5


def test_a_new_hub_takes_up_a_machine_that_went_on_without_one(machines: Lab, one: BoxHandle) -> None:
    machines.sh(one.key, "sleep 9999 >/dev/null 2>&1 & echo $! > /run/pid")

    async def half_a_frame_and_gone() -> None:
        _, writer = await machines.provider.channel(one.key)
        writer.write(b"\0\0\1\0J")  # the hub is killed in the middle of a frame
        await writer.drain()
        writer.transport.abort()

    machines.run(half_a_frame_and_gone())

    async def by_another() -> tuple[BoxState, bytes]:
        async with machines.place.open() as other:
            (found,) = [h for h in await other.list() if h.key == one.key]
            async with linked(other, one.key) as link:
                done = await link.exec(
                    ("sh", "-c", "kill -0 $(cat /run/pid) && echo there"), timeout=_PATIENCE
                )
            return found.state, done.stdout

    assert machines.run(by_another(), _PATIENCE) == (BoxState.READY, b"there\n")


def test_what_a_machine_cannot_is_said_and_refused(machines: Lab, one: BoxHandle) -> None:
    caps = machines.run(machines.provider.caps(BoxSpec(key="x", name="x", isolation="vm")), _PATIENCE)
    assert caps.isolation is Isolation.VM
    assert not {"snapshots", "stops", "forks live"} & caps.facets
    assert {"snapshots", "stops", "forks live"} <= set(caps.missing)
    if machines.provider._maker.kits.why_no_kvm():
        assert "emulated" in caps.missing["kvm"]
    for ask in (machines.provider.snapshot(one.key, "snap_x", {}), machines.provider.stop(one.key)):
        with pytest.raises(Unsupported, match="vm"):
            machines.run(ask)


def test_a_machine_that_runs_is_destroyed_with_all_it_had(machines: Lab, one: BoxHandle) -> None:
    pids, record = machines.pids(one), machines.provider._require(one.key)
    machines.run(machines.provider.destroy(one.key))
    assert all(procs.stat_state(pid) in ("Z", "X", "") for pid in pids)
    assert record.group not in machines.provider._maker.groups.names()
    assert machines.run(machines.provider.leaks(frozenset())) == []
