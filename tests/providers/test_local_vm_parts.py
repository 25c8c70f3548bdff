"""The parts of virtual machines that need none: pipe, control protocol, command line, archive, kits."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thopter.kit.linux import procs
from thopter.model.errors import ProviderError
from thopter.model.nouns import Limits
from thopter.providers.local import vm_command, vm_disk, vm_init, vm_kits, vm_mux, vm_qmp
from thopter.providers.local.vm_command import KVM, TCG, Machine
from thopter.providers.local.vm_mux import BrokenPipe, Mux

_PATIENCE = 60.0


class Pair:
    """Two ends of one pipe, each turned by a thread; ``inside`` opens towards ``outside``'s doors."""

    def __init__(self, doors: dict[int, Callable[[], socket.socket]]) -> None:
        self.socks = socket.socketpair()
        self.notes: list[bytes] = []
        self.ended: list[str] = []
        self._over = threading.Event()

        def opener(door: int) -> socket.socket:
            if door not in doors:
                raise OSError("no such door")
            return doors[door]()

        self.outside = Mux(self.socks[0].fileno(), 2, opener, self.notes.append)
        self.inside = Mux(self.socks[1].fileno(), 1, opener, self.notes.append)
        self._threads = [threading.Thread(target=self._turn, args=(m,)) for m in (self.outside, self.inside)]

    def _turn(self, mux: Mux) -> None:
        with suppress(BrokenPipe):
            while not self._over.is_set():
                mux.turn(0.01)

    def __enter__(self) -> Pair:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(_PATIENCE)
        for sock in self.socks:
            sock.close()


def echo() -> socket.socket:
    """A socket whose other end says everything backwards once it has heard all, then closes."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        got = b""
        with theirs:
            while part := theirs.recv(65536):
                got += part
            theirs.sendall(got[::-1])

    threading.Thread(target=serve, daemon=True).start()
    return ours


def ask(pair: Pair, door: int, sent: bytes) -> bytes:
    """What comes back through a door."""
    mine, its = socket.socketpair()
    mine.settimeout(_PATIENCE)
    pair.inside.attach(its, door)
    with mine:
        mine.sendall(sent)
        mine.shutdown(socket.SHUT_WR)
        got = b""
        with suppress(ConnectionResetError):
            while part := mine.recv(65536):
                got += part
        return got


def test_streams_of_any_size_go_there_and_back_at_once_each_ending_by_itself() -> None:
    sizes = (0, 1, vm_mux.CHUNK, vm_mux.WINDOW, 3 * vm_mux.WINDOW + 17)
    with Pair({80: echo}) as pair:
        found: dict[int, bytes] = {}

        def one(size: int) -> None:
            found[size] = ask(pair, 80, os.urandom(1) * size)

        threads = [threading.Thread(target=one, args=(size,)) for size in sizes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_PATIENCE)
    assert {size: len(content) for size, content in found.items()} == {size: size for size in sizes}


def test_a_door_that_is_not_there_ends_the_stream_and_nothing_else() -> None:
    with Pair({80: echo}) as pair:
        assert ask(pair, 81, b"hello") == b""
        assert ask(pair, 80, b"hello") == b"olleh"


def test_who_does_not_read_holds_up_nobody_else() -> None:
    deaf = socket.socketpair()
    with Pair({1: lambda: deaf[0], 80: echo}) as pair:
        mine, its = socket.socketpair()
        mine.setblocking(False)
        pair.inside.attach(its, 1)
        with suppress(BlockingIOError):
            for _ in range(400):
                mine.send(bytes(4096))
        assert ask(pair, 80, bytes(vm_mux.WINDOW)) == bytes(vm_mux.WINDOW)
        mine.close()
    deaf[1].close()


@pytest.mark.battery("S24")
@given(st.binary(max_size=200))
def test_nonsense_from_a_machine_ends_its_pipe_or_is_harmless(content: bytes) -> None:
    ours, its = socket.socketpair()
    opened: list[int] = []

    def opener(door: int) -> socket.socket:
        opened.append(door)
        raise OSError("nothing is opened")

    with ours, its:
        mux = Mux(ours.fileno(), 2, opener, lambda note: None)
        its.sendall(content)
        its.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipe):
            for _ in range(10):
                mux.turn(0)


@pytest.mark.battery("S24")
@pytest.mark.parametrize(
    "frames",
    [
        [(b"O", 2, (80).to_bytes(4, "big"))],  # a number of ours
        [(b"O", 1, (80).to_bytes(4, "big"))] * 2,
        [(b"O", 1, b"")],
        [(b"O", 1, (80).to_bytes(4, "big")), (b"C", 1, (1).to_bytes(4, "big"))],
        [(b"O", 1, (80).to_bytes(4, "big")), *[(b"D", 1, bytes(vm_mux.CHUNK))] * 9],
        [(b"O", 1, (80).to_bytes(4, "big")), (b"E", 1, b""), (b"D", 1, b"more")],
        [(b"O", 1, (80).to_bytes(4, "big")), (b"D", 1, bytes(vm_mux.CHUNK + 1))],
        [(b"X", 1, b"")],
    ],
)
def test_a_machine_that_breaks_the_rules_is_given_up(frames: list[tuple[bytes, int, bytes]]) -> None:
    ours, its = socket.socketpair()
    kept = socket.socketpair()
    kept[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with ours, its, kept[0], kept[1]:
        mux = Mux(ours.fileno(), 2, lambda door: kept[0].dup(), lambda note: None)
        raw = b"".join(k + n.to_bytes(4, "big") + len(c).to_bytes(2, "big") + c for k, n, c in frames)
        thread = threading.Thread(target=lambda: its.sendall(raw))
        thread.start()
        with pytest.raises(BrokenPipe):
            for _ in range(1000):
                mux.turn(0.01)
        thread.join(_PATIENCE)


@pytest.mark.battery("S24")
def test_no_more_than_so_many_streams_are_open_from_either_side() -> None:
    ours, its = socket.socketpair()
    kept = socket.socketpair()
    opened: list[int] = []

    def opener(door: int) -> socket.socket:
        opened.append(door)
        return kept[0].dup()

    with ours, its, kept[0], kept[1]:
        mux = Mux(ours.fileno(), 2, opener, lambda note: None)
        its.sendall(
            b"".join(
                b"O" + (1 + 2 * n).to_bytes(4, "big") + b"\0\4" + bytes(4) for n in range(vm_mux.MOST + 5)
            )
        )
        for _ in range(20):
            mux.turn(0)
        assert len(opened) == vm_mux.MOST
        assert its.recv(1 << 16) == b"".join(
            b"R" + (1 + 2 * n).to_bytes(4, "big") + b"\0\0" for n in range(vm_mux.MOST, vm_mux.MOST + 5)
        )
        for _ in range(vm_mux.MOST + 5):
            mux.attach(kept[0].dup(), vm_mux.BOXD)
        mux.turn(0)
        assert its.recv(1 << 16).count(b"O") == vm_mux.MOST
        for stream in list(mux._streams.values()):
            stream.sock.close()


@pytest.mark.battery("S24")
def test_who_asks_for_doors_and_never_reads_is_given_up() -> None:
    ours, its = socket.socketpair()

    def opener(door: int) -> socket.socket:
        raise OSError("nothing is opened")

    def flood() -> None:
        number = 1
        with suppress(OSError):
            while True:
                its.sendall(b"".join(
                    b"O" + (number + 2 * i).to_bytes(4, "big") + b"\0\4" + bytes(4) for i in range(5000)
                ))  # fmt: skip
                number += 10000

    mux = Mux(ours.fileno(), 2, opener, lambda note: None)
    thread = threading.Thread(target=flood)
    thread.start()
    with pytest.raises(BrokenPipe, match="does not read"):
        while True:
            mux.turn(1)
    ours.close()
    its.shutdown(socket.SHUT_RDWR)
    thread.join(_PATIENCE)
    its.close()


# ------------------------------------------------------------------------------------------- QEMU


def test_requests_and_answers_of_the_control_protocol() -> None:
    assert json.loads(vm_qmp.request("migrate", {"uri": "fd:x"})) == {
        "execute": "migrate", "arguments": {"uri": "fd:x"},
    }  # fmt: skip
    assert vm_qmp.answer(b'{"return": {}}') == {}
    assert vm_qmp.answer(b'{"event": "STOP"}') is None
    with pytest.raises(vm_qmp.QmpError, match="no such thing"):
        vm_qmp.answer(b'{"error": {"class": "GenericError", "desc": "no such thing"}}')
    for nonsense in (b"", b"[]", b"\xff"):
        with pytest.raises(vm_qmp.QmpError, match="nonsense"):
            vm_qmp.answer(nonsense)


def test_answers_cut_anywhere_between_events_are_found_and_silence_ends() -> None:
    ours, its = socket.socketpair()
    with ours, its:
        qmp = vm_qmp.Qmp(ours, 0.2)
        its.sendall(b'{"QMP": {}}\r\n{"event": "A"}\r\n{"retu')
        its.sendall(b'rn": {}}\r\n')
        qmp.greet()
        with pytest.raises(vm_qmp.QmpError, match="did not answer"):
            qmp.ask("query-status")
        qmp.drain()  # nothing is there
        its.sendall(b'{"event": "B"}\r\n' * 1000)
        qmp.drain()
        its.settimeout(_PATIENCE)
        its.sendall(b'{"event": "C"}\r\n' * 1000)
        qmp.drain()
        its.close()
        with pytest.raises(vm_qmp.QmpError, match=r"gone|reset"):
            qmp.ask("query-status")


def test_the_command_line_gives_a_machine_its_devices_and_nothing_else() -> None:
    words = vm_command.argv(Machine(TCG, 512, 1, 2_300_000), 3, 4, 5)
    assert words[:3] == [vm_command.PROGRAM, "-nodefaults", "-no-user-config"]
    assert words[words.index("-sandbox") + 1] == (
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    )
    devices = [words[i + 1].split(",")[0] for i, word in enumerate(words) if word == "-device"]
    assert devices == ["virtio-serial-device", "virtserialport", "virtio-blk-device", "virtio-9p-device"]
    assert "readonly=on" in words[words.index("-fsdev") + 1]
    assert words[-2:] == ["-incoming", "fd:5"] and words[words.index("-m") + 1] == "512M"
    assert not {"-net", "-netdev", "-nic", "-vnc", "-s", "-gdb", "-monitor"} & set(words)
    kvm = vm_command.argv(Machine(KVM, 512, 1, 0), 3, 4, -1)
    assert kvm[kvm.index("-cpu") + 1] == "host" and "-incoming" not in kvm
    assert "mitigations=off" not in kvm[kvm.index("-append") + 1]


def test_a_machine_is_as_large_as_its_box_may_be() -> None:
    assert vm_command.size(KVM, 1 << 30, 1.5, 8, 7).raw() == {
        "accel": KVM,
        "memory_mb": 1024,
        "cpus": 2,
        "khz": 0,
    }
    assert vm_command.size(TCG, 0, 0, 4, 7).raw() == {"accel": TCG, "memory_mb": 2048, "cpus": 4, "khz": 7}
    with pytest.raises(ValueError, match="256 MiB"):
        vm_command.size(TCG, 64 << 20, 1, 4, 7)
    orders = {"machine": Machine(TCG, 512, 1, 7).raw()}
    around = vm_disk.outside(orders, Limits(memory_bytes=512 << 20, cpus=1.5, pids=7))
    assert around.memory_bytes > 512 << 20 and around.cpus == 1.5 and around.pids > 7


# ------------------------------------------------------------------------------------ what it boots


def module(name: str, *needs: str) -> bytes:
    """What of a kernel's module is read."""
    return b"\x7fELF\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=" + name.encode() + b"\0"


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """A kernel's modules, ext4 and its like built in."""
    folder = tmp_path / "modules"
    (folder / "kernel").mkdir(parents=True)
    (folder / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\nkernel/crypto/crc32c_generic.ko\n")
    needs = {
        "virtio_ring": (), "virtio": ("virtio_ring",), "virtio_mmio": ("virtio", "virtio_ring"), "9pnet": (),
        "virtio_console": ("virtio",), "virtio_blk": ("virtio",), "9p": ("9pnet",), "overlay": (),
        "9pnet_virtio": ("virtio", "9pnet"),
    }  # fmt: skip
    for name, more in needs.items():
        (folder / "kernel" / f"{name}.ko").write_bytes(module(name, *more))
    return folder


def test_the_archive_has_the_modules_in_an_order_that_works_and_is_a_real_one(
    modules: Path, tmp_path: Path
) -> None:
    made = vm_init.archive(modules, b"busybox", b"app")
    assert made == vm_init.archive(modules, b"busybox", b"app")
    assert b"TRAILER!!!" in made and len(made) % 4 == 0
    script = vm_init.script(["virtio_ring", "virtio"], ["virtio_blk"])
    assert "for m in virtio_ring virtio; do" in script and "@" not in script.replace('"@$now"', "")
    init = made[made.index(b"#!/bin/busybox sh") :]
    order = init[init.index(b"for m in ") + 9 : init.index(b"; do")].split()
    for name in order:
        for needed in vm_init.depends((modules / "kernel" / f"{name.decode()}.ko").read_bytes()):
            assert order.index(needed.encode()) < order.index(name)
    assert b"virtio_blk" not in order


def test_a_kernel_without_what_machines_need_is_refused(modules: Path) -> None:
    (modules / "kernel/9p.ko").unlink()
    with pytest.raises(ProviderError, match="no module 9p"):
        vm_init.archive(modules, b"", b"")


def test_the_first_program_is_a_script_that_a_shell_understands() -> None:
    subprocess.run(["sh", "-n"], input=vm_init.script(["a"], ["b"]).encode(), check=True)


def test_a_kernel_is_found_where_a_package_was_unpacked_the_newest_first(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="no kernel"):
        vm_kits.find_kernel(str(tmp_path))
    (tmp_path / "boot").mkdir()
    for release in ("6.1.9-amd64", "6.1.57-amd64", "7.0-cloud"):
        (tmp_path / f"boot/vmlinuz-{release}").write_bytes(b"")
        (tmp_path / "lib/modules" / release).mkdir(parents=True)
        if "cloud" not in release:
            (tmp_path / "lib/modules" / release / "9pnet_virtio.ko").write_bytes(b"")
    with pytest.raises(ProviderError, match="busybox-static"):
        vm_kits.find_kernel(str(tmp_path))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/busybox").write_bytes(b"\x7fELF /lib64/ld-linux-x86-64.so.2")
    with pytest.raises(ProviderError, match="busybox-static"):
        vm_kits.find_kernel(str(tmp_path))
    (tmp_path / "bin/busybox").write_bytes(b"\x7fELF")
    assert vm_kits.find_kernel(str(tmp_path)).image.name == "vmlinuz-6.1.57-amd64"


def test_an_image_that_is_none_is_left_as_it_is() -> None:
    assert vm_init.vmlinux(b"x" * 4096) == b"x" * 4096


@pytest.mark.skipif(not Path(vm_command.PROGRAM).exists(), reason="QEMU is not installed")
def test_a_verdict_on_kvm_holds_for_a_day_and_for_this_host_only(tmp_path: Path) -> None:
    kits = vm_kits.Kits(tmp_path / "vm", "auto")
    assert kits.untried() and kits.why_no_kvm() == ""
    kits.tried("it did not come up")
    assert not kits.untried() and kits.why_no_kvm() == "it did not come up"
    again = vm_kits.Kits(tmp_path / "vm", "auto")
    khz = again.khz()
    assert 100_000 < khz < 10_000_000 and kits.khz() == khz
    facts = json.loads((tmp_path / "vm/facts.json").read_bytes())
    assert facts["boot"] == procs.boot_id()
    (tmp_path / "vm/facts.json").write_text(json.dumps({**facts, "at": facts["at"] - 90_000}))
    assert kits.untried()
    (tmp_path / "vm/facts.json").write_text(json.dumps({**facts, "host": "another"}))
    assert kits.untried()
    (tmp_path / "vm/facts.json").write_text("{")
    assert kits.untried()
