"""The zygote: adopted, replaced, killed; boxes go on whatever happens to it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from local_lab import Lab

import thopter
from thopter.kit.linux import procs
from thopter.model.nouns import BoxState
from thopter.model.sockets import BoxHandle
from thopter.providers.local.nursery import Nursery


def zygote(lab: Lab) -> int:
    """The pid of the living zygote, 0 without one."""
    return int(lab.run(lab.provider._nursery.ping()).get("pid", 0))


def gone(pid: int) -> None:
    """Wait until a process is no more (or a zombie of somebody else)."""
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}") and not procs.stopped(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def greets(lab: Lab, one: BoxHandle) -> bool:
    """A program in the box reaches a gateway on the listening socket we are given now."""
    listener = lab.run(lab.provider.listeners(one.key))[8401]
    with listener:
        listener.settimeout(30)
        code = "import socket; print(socket.create_connection(('127.0.0.1', 8401), 20).recv(9).decode())"
        lab.sh(one.key, f'nohup python3 -c "{code}" > /tmp/said 2>&1 &')
        conn, _ = listener.accept()
        with conn:
            conn.sendall(b"hello")
    deadline = time.monotonic() + 30
    while lab.sh(one.key, "cat /tmp/said") != "hello":
        assert time.monotonic() < deadline
    return True


def test_the_zygote_survives_the_hub_and_is_adopted(own_lab: Lab) -> None:
    own_lab.box()
    before = zygote(own_lab)
    own_lab.run(own_lab.provider.close())
    own_lab.run(own_lab.provider.start())
    own_lab.box()
    assert zygote(own_lab) == before != 0


def test_boxes_outlive_a_killed_zygote_and_their_gateways_can_listen_again(own_lab: Lab) -> None:
    one = own_lab.box(ports=(8401,))
    assert greets(own_lab, one)
    held = own_lab.run(own_lab.provider.listeners(one.key))[8401]  # as an old gateway would hold it
    before = zygote(own_lab)
    os.kill(before, signal.SIGKILL)
    gone(before)
    held.close()
    assert own_lab.run(own_lab.provider.get(one.key)).state is BoxState.READY
    assert own_lab.sh(one.key, "echo on") == "on"
    own_lab.run(own_lab.provider.freeze(one.key))
    own_lab.run(own_lab.provider.thaw(one.key))
    assert greets(own_lab, one)
    assert own_lab.box().state is BoxState.READY  # by a new zygote
    assert zygote(own_lab) not in (0, before)
    own_lab.run(own_lab.provider.destroy(one.key))
    known = frozenset(h.key for h in own_lab.run(own_lab.provider.list()))
    assert own_lab.run(own_lab.provider.sweep(known)) is not None
    assert own_lab.run(own_lab.provider.leaks(known)) == []


def test_listeners_can_be_had_while_an_old_gateway_still_holds_its_own(own_lab: Lab) -> None:
    one = own_lab.box(ports=(8401,))
    held = own_lab.run(own_lab.provider.listeners(one.key))[8401]
    before = zygote(own_lab)
    os.kill(before, signal.SIGKILL)
    gone(before)
    again = own_lab.run(own_lab.provider.listeners(one.key))[8401]
    assert again.getsockname() == held.getsockname() == ("127.0.0.1", 8401)
    again.close()
    held.close()


def test_a_zygote_of_other_code_hands_over_and_old_boxes_go_on(own_lab: Lab) -> None:
    one = own_lab.box(ports=(8401,))
    before = zygote(own_lab)
    paths = own_lab.place.paths
    other = Nursery(paths.runtime / "zygote.sock", paths.state / "zygote" / "nest", "thopter-test")
    other._version = "another"
    own_lab.run(other.ready())
    assert zygote(own_lab) not in (0, before)
    gone(before)
    assert own_lab.run(own_lab.provider.get(one.key)).state is BoxState.READY
    assert greets(own_lab, one)
    own_lab.run(own_lab.provider.start())  # and back again
    assert own_lab.box().state is BoxState.READY


def test_the_zygote_is_small_and_knows_nothing(own_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THOPTER_TEST_SECRET", "canary-of-the-zygote")
    own_lab.box()
    pid = zygote(own_lab)
    assert Path(f"/proc/{pid}/environ").read_bytes().strip(b"\0") == b""
    assert (Path("/proc") / str(pid) / "cmdline").read_text().startswith("thopter-zygote thopter-")
    rss = int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])
    assert rss < 24 * 1024
    kinds = {os.readlink(f"/proc/{pid}/fd/{n}").split(":")[0] for n in os.listdir(f"/proc/{pid}/fd")}
    assert kinds <= {"/dev/null", "socket", "pipe"}


def test_what_the_zygote_imports_stays_small() -> None:
    code = (
        "import sys; sys.path.append(sys.argv[1]); import thopter.providers.local.zygote;"
        "print(*[m for m in ('asyncio', 'msgspec', 'subprocess', 'ssl', 'email') if m in sys.modules])"
    )
    source = str(Path(thopter.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-I", "-c", code, source], capture_output=True, check=True, timeout=60
    )
    assert done.stdout.strip() == b""


def test_strangers_are_not_served(own_lab: Lab) -> None:
    own_lab.box()
    path = own_lab.place.paths.runtime / "zygote.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(path))
        wrong = (b"\xff\xfe", b"[]", b'{"op": "create"}', b'{"op": "listen", "key": 1}', b'{"op": 1}')
        for nonsense in wrong:
            s.sendall(nonsense + b"\n")
            assert b'"error"' in s.recv(4096)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(path))
        with contextlib.suppress(ConnectionError):  # cut off before all of it was taken
            s.sendall(b"x" * (300 << 10))
            assert s.recv(10) == b""
    assert own_lab.box().state is BoxState.READY
