"""The first process inside a virtual machine: joins boxd and the gateways' ports to the keeper outside.

Runs as ``python3 -S -E -I first.pyz PIPE PYZ`` with the box's root in place (vm_init.py); what comes first
on the pipe is a length and the orders as JSON. The machine was started from a saved state that others
were started from, too: the clock is set and the kernel's random numbers are seeded before anything else
runs. boxd is a program of its own, behind the same walls as in any other box; when it ends, or the
keeper does, the machine is switched off. Python 3.9, standard library only.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
import time
from typing import Any, NoReturn

from thopter.boxd import init
from thopter.kit.linux import calls, caps
from thopter.providers.local import vm_mux, walls
from thopter.providers.local.opening import listen_here
from thopter.providers.local.vm_mux import BOXD, BrokenPipe, Mux

SEED = 64  # bytes
_MOST = 1 << 20  # of orders
_ADD_ENTROPY, _RESEED = 0x40085203, 0x5207
_POWER_OFF = 0x4321FEDC
_LOG = "/run/thopter/boxd.log"
_SOCKET = "/run/thopter/machine.sock"
_GROUP = "/run/thopter-groups"
_STRAY_S = 0.2  # how far the clock may be off
# Outside of a user namespace this one would reach the process that boxd's own walls leave out.
_KEPT = walls.KEPT_CAPABILITIES - {"SYS_PTRACE"}


def main(args: list[str]) -> NoReturn:
    """See the module docstring; ``args`` without the program."""
    if args[0] == "boxd":
        _boxd(int(args[1]), int(args[2]))
    pipe, app = int(args[0]), args[1]
    try:
        _serve(pipe, app)
    except BrokenPipe as e:
        sys.stderr.write(f"machine: {e}\n")
    finally:
        os.sync()
        ctypes.CDLL(None).reboot(_POWER_OFF)
        os._exit(1)


def set_clock(ns: int) -> None:
    """Set the time of day when it is off by more than a little."""
    if abs(time.time_ns() - ns) > _STRAY_S * 1e9:
        time.clock_settime_ns(time.CLOCK_REALTIME, ns)


def seed(content: bytes) -> None:
    """Make the kernel's random numbers depend on ``content``, from the next one on."""
    fd = os.open("/dev/urandom", os.O_RDWR)
    try:
        fcntl.ioctl(fd, _ADD_ENTROPY, struct.pack("ii", len(content) * 8, len(content)) + content)
        fcntl.ioctl(fd, _RESEED)
    finally:
        os.close(fd)


def _serve(pipe: int, app: str) -> None:
    (size,) = struct.unpack(">I", vm_mux.read_exactly(pipe, 4))
    if size > _MOST:
        raise BrokenPipe(f"orders of {size} bytes")
    orders: dict[str, Any] = json.loads(vm_mux.read_exactly(pipe, size))
    set_clock(int(orders["now_ns"]))
    seed(bytes.fromhex(orders["seed"]))
    calls.loopback_up()
    child = _start_boxd(orders, app)

    def note(content: bytes) -> None:
        set_clock(int(json.loads(content)["now_ns"]))

    def boxd(door: int) -> socket.socket:
        if door != BOXD:
            raise OSError("there is no such door")
        return vm_mux.dial(_SOCKET, socket.AF_UNIX)

    mux = Mux(pipe, 1, boxd, note)
    for port in orders["ports"]:
        _lead_out(mux, int(port))
    mux.note(b"up")
    while True:
        mux.turn(1.0)
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid = 0
            if pid == child:
                raise BrokenPipe("boxd's first process has ended")
            if pid == 0:
                break


def _lead_out(mux: Mux, port: int) -> None:
    """What connects to that port in here comes out at the gateway's outside."""
    listener = listen_here(port)
    listener.setblocking(False)

    def take() -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        mux.attach(sock, port)

    mux.watch(listener.fileno(), take)


def _start_boxd(orders: dict[str, Any], app: str) -> int:
    """Start boxd's first process as a program of its own: its memory is laid out by seeded numbers."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(_SOCKET)
    os.chmod(_SOCKET, 0o600)
    listener.listen(128)
    read, write = os.pipe()
    fcntl.fcntl(write, 1031, 1 << 20)  # F_SETPIPE_SZ: the orders fit in whole
    os.write(write, json.dumps(orders).encode())
    os.close(write)
    argv = [sys.executable, "-S", "-E", "-I", "-B", app, "boxd", str(listener.fileno()), str(read)]
    pid = os.fork()
    if pid == 0:
        try:
            for fd in (listener.fileno(), read):
                os.set_inheritable(fd, True)
            os.setsid()
            os.execve(argv[0], argv, {})
        finally:
            os._exit(127)
    listener.close()
    os.close(read)
    return pid


def _boxd(listener: int, orders_fd: int) -> NoReturn:
    with open(orders_fd, "rb") as file:
        orders: dict[str, Any] = json.loads(file.read())
    _join_group(int(orders["processes"]))
    calls.close_all_but((listener,))
    log = os.open(_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open("/dev/null", os.O_RDWR)
    for fd, at in ((null, 0), (log, 1), (log, 2)):
        os.dup2(fd, at)
    os.close(null)
    os.close(log)
    os.environ.clear()
    os.chdir("/")
    os.umask(0o022)
    walls.lower_rlimits()
    calls.prctl(calls.PR_SET_NO_NEW_PRIVS, 1)
    caps.drop_all_but(_KEPT)
    walls.bar_calls(walls.program())
    init.run_init({**orders["config"], "listen_fd": listener})


def _join_group(processes: int) -> None:
    """The limit of processes, by the machine's own control groups, which are out of reach afterwards."""
    if processes:
        with open(f"{_GROUP}/cgroup.subtree_control", "w") as file:
            file.write("+pids")
        os.mkdir(f"{_GROUP}/box")
        for name, text in (("pids.max", str(processes)), ("cgroup.procs", "0")):
            with open(f"{_GROUP}/box/{name}", "w") as file:
                file.write(text)
    calls.umount(_GROUP, calls.MNT_DETACH)
