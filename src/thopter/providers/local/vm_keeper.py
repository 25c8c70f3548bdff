"""The keeper of a virtual machine: the first process of its box, outside of the machine.

It starts QEMU, gives the machine its orders, and joins three things for as long as the machine lives:
boxd's socket, at which the hub comes and goes, to the boxd inside; the gateways' ports inside to
the gateways' sockets in this box's network; and the time. All that comes from the machine is hostile: it
can reach these ports and answer on connections of the hub, nothing else. Forked from the
zygote, behind the walls of every box: all it will need is imported already.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, NoReturn

from thopter.boxd.loop import describe, log
from thopter.kit.linux import caps
from thopter.providers.local import vm_command, vm_mux
from thopter.providers.local.vm_command import Machine
from thopter.providers.local.vm_mux import BOXD, BrokenPipe, Mux
from thopter.providers.local.vm_qmp import Qmp, QmpError

SAVED = "state"  # file of the box's own folder: what a machine was saved as
LOG = "log"  # another: what we and QEMU said
_PARENT_DIES = 1  # PR_SET_PDEATHSIG
_SEED = 64
_TIME_EVERY_S = 60.0
_QMP_S = 60.0
_libc = ctypes.CDLL(None, use_errno=True)  # loaded now: where this runs, there is no library to be found
# Its files are of many owners; all but its disk is read-only.
_QEMU_KEEPS = frozenset({"DAC_OVERRIDE"})


def or_init(init: Callable[[dict[str, object]], object]) -> Callable[[dict[str, object]], object]:
    """What a first process becomes: a keeper when it is told of a machine, else ``init``."""

    def run(config: dict[str, object]) -> object:
        orders = config.pop("machine", None)
        if not isinstance(orders, dict):
            return init(config)
        return keep(orders, config)

    return run


def keep(orders: dict[str, Any], config: dict[str, Any]) -> NoReturn:
    """Be the keeper of one machine until it ends. ``orders``: ``machine`` (see Machine), ``from`` (a saved
    state of the kit, empty: boot), ``save`` (boot, save the state and end), ``python``, ``ports``,
    ``processes``; ``config``: boxd's, with its listening socket."""
    listener = socket.socket(fileno=int(config.pop("listen_fd")))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))  # the kernel ends all the rest with us
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        _log_to(f"{vm_command.DISK}/{LOG}")
        qemu = _Qemu(Machine.of(orders["machine"]), str(orders["from"]), float(orders["patience"]))
        if orders["save"]:
            qemu.save()
        else:
            _serve(qemu, listener, orders, config)
    except (BrokenPipe, QmpError, OSError, ValueError) as e:
        log(f"the machine ended: {e} {_how_children_ended()}")
    except BaseException as e:  # noqa: BLE001 - the last line of a forked child
        log("defect: " + describe(e))
    os._exit(0)


class _Qemu:
    """A running QEMU, its machine waiting for orders: booted, or gone on from a saved state."""

    def __init__(self, machine: Machine, saved: str, patience: float) -> None:
        monitor, its_monitor = socket.socketpair()
        pipe, its_pipe = socket.socketpair()
        incoming = os.open(f"{vm_command.KIT}/{saved}", os.O_RDONLY) if saved else -1
        fds = [its_monitor.fileno(), its_pipe.fileno(), *([incoming] if saved else [])]
        self.pid = _start(vm_command.argv(machine, fds[0], fds[1], incoming), fds)
        for end in (its_monitor, its_pipe):
            end.close()
        if saved:
            os.close(incoming)
        self.pipe = pipe
        self.qmp = Qmp(monitor, _QMP_S)
        self.qmp.greet()
        if saved:
            self.qmp.wait("query-status", "status", ["paused", "prelaunch", "postmigrate"], ["inmigrate"])
            self.qmp.ask("cont")
        else:
            pipe.settimeout(patience)
            said = self._first_line()
            if said != b"ready":
                raise BrokenPipe(f"the machine did not come up: {said[:200]!r}")
            pipe.settimeout(None)

    def _first_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n") and len(line) < 1000:
            try:
                part = self.pipe.recv(1)
            except TimeoutError:
                raise BrokenPipe("the machine did not come up in time") from None
            if not part:
                raise BrokenPipe("the machine ended while it came up")
            line += part
        return line.strip()

    def save(self) -> None:
        """Save the machine as it waits, and end it."""
        self.qmp.ask("stop")
        path = f"{vm_command.DISK}/{SAVED}"
        out = os.open(path + ".new", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        fast: dict[str, Any] = {"max-bandwidth": 1 << 40}
        self.qmp.ask("migrate-set-parameters", **fast)
        self.qmp.ask("getfd", fds=[out], fdname="state")
        self.qmp.ask("migrate", uri="fd:state")
        self.qmp.wait("query-migrate", "status", ["completed"], ["none", "setup", "active", "device"])
        os.rename(path + ".new", path)

    def ended(self) -> int | None:
        """How it ended; None while it runs. Reaps whatever else was left to us, too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return 0
            if pid == self.pid:
                return status
            if pid == 0:
                return None


def _how_children_ended() -> str:
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return ""
    return f"(QEMU: {os.waitstatus_to_exitcode(status)})" if pid else ""


def _log_to(path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def _start(argv: list[str], fds: list[int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        _libc.prctl(_PARENT_DIES, signal.SIGKILL, 0, 0, 0)
        os.setsid()
        caps.drop_all_but(_QEMU_KEEPS)
        for fd in fds:
            os.set_inheritable(fd, True)
        os.chdir("/tmp")
        os.execve(argv[0], argv, {"PATH": "/usr/bin", "HOME": "/tmp"})
    except BaseException as e:  # noqa: BLE001 - the last line of a forked child
        log("QEMU can't be started: " + describe(e))
    finally:
        os._exit(127)


def _serve(qemu: _Qemu, listener: socket.socket, orders: dict[str, Any], config: dict[str, Any]) -> None:
    """Orders, then the machine's life. Returns when QEMU has ended. Raises BrokenPipe."""
    ports = {int(p) for p in orders["ports"]}
    pipe = qemu.pipe.fileno()
    name, python = config.get("name") or "box", orders["python"]
    vm_mux.write_all(pipe, f"go {int(time.time())} {name} {python}\n".encode())
    told = {
        "config": config, "ports": sorted(ports), "processes": orders["processes"],
        "now_ns": time.time_ns(), "seed": os.urandom(_SEED).hex(),
    }  # fmt: skip
    raw = json.dumps(told).encode()
    vm_mux.write_all(pipe, struct.pack(">I", len(raw)) + raw)

    def gateway(door: int) -> socket.socket:
        if door not in ports:
            raise OSError("no gateway is there")
        return vm_mux.dial(("127.0.0.1", door), socket.AF_INET)

    def note(content: bytes) -> None:
        if content == b"up":
            mux.watch(listener.fileno(), take)
            _tell_time(mux)

    def take() -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        _tell_time(mux)
        mux.attach(sock, BOXD)

    listener.setblocking(False)
    mux = Mux(pipe, 2, gateway, note)
    mux.watch(qemu.qmp.fileno(), qemu.qmp.drain)
    due = time.monotonic() + _TIME_EVERY_S
    while qemu.ended() is None:
        mux.turn(_TIME_EVERY_S)
        if time.monotonic() > due:
            due = time.monotonic() + _TIME_EVERY_S
            _tell_time(mux)


def _tell_time(mux: Mux) -> None:
    mux.note(json.dumps({"now_ns": time.time_ns()}).encode())
