"""The first process inside a gVisor sandbox: joins boxd and the gateways' ports to the keeper outside.

Runs as ``python3 -S -E -I first.pyz`` with a socket to the keeper as its standard input; what comes first on
it is a length and the orders as JSON. boxd is a child behind the same walls as in any other box. When
either it or the keeper ends, so does this process and with it the sandbox. Python 3.9, standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import time
from typing import Any, NoReturn

from thopter.boxd import init, procfs
from thopter.kit.linux import calls
from thopter.providers.local import vm_mux, walls
from thopter.providers.local.opening import listen_here
from thopter.providers.local.vm_mux import BOXD, BrokenPipe, Mux

END, SYNC, UP = b"end", b"sync", b"up"
_MOST = 1 << 20  # of orders
_SOCKET = "/run/thopter/sandbox.sock"
_GRACE_S = 3.0


def main() -> NoReturn:
    """See the module docstring."""
    try:
        pipe = os.dup(0)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1):
            os.dup2(null, fd)
        os.close(null)
        _serve(pipe)
    except BrokenPipe as e:
        sys.stderr.write(f"sandbox: {e}\n")
    finally:
        os.sync()
        os._exit(1)


def _serve(pipe: int) -> None:
    os.umask(0o022)
    os.makedirs(os.path.dirname(_SOCKET), 0o700, exist_ok=True)
    os.makedirs("/run/lock", 0o1777, exist_ok=True)
    os.chmod("/run/lock", 0o1777)
    (size,) = struct.unpack(">I", vm_mux.read_exactly(pipe, 4))
    if size > _MOST:
        raise BrokenPipe(f"orders of {size} bytes")
    orders: dict[str, Any] = json.loads(vm_mux.read_exactly(pipe, size))
    listeners = {int(port): listen_here(int(port)) for port in orders["ports"]}
    child = _fork_boxd(orders["config"])

    def note(content: bytes) -> None:
        if content == END:
            _end_all()

    def boxd(door: int) -> socket.socket:
        if door != BOXD:
            raise OSError("there is no such door")
        return vm_mux.dial(_SOCKET, socket.AF_UNIX)

    mux = Mux(pipe, 1, boxd, note)
    for port, listener in listeners.items():
        _lead_out(mux, port, listener)
    mux.note(UP)
    while True:
        mux.turn(1.0)
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid = child
            if pid == child:
                raise BrokenPipe("boxd's first process has ended")
            if pid == 0:
                break


def _lead_out(mux: Mux, port: int, listener: socket.socket) -> None:
    """What connects to that port in here comes out at the gateway's outside."""
    listener.setblocking(False)

    def take() -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        mux.attach(sock, port)

    mux.watch(listener.fileno(), take)


def _fork_boxd(config: dict[str, Any]) -> int:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(_SOCKET)
    os.chmod(_SOCKET, 0o600)
    listener.listen(128)
    pid = os.fork()
    if pid:
        listener.close()
        return pid
    try:
        calls.close_all_but((0, 1, 2, listener.fileno()))
        os.dup2(2, 1)  # boxd's log is the keeper's: it can be read when nothing in here answers any more
        os.setsid()
        os.environ.clear()
        # The capabilities are already what the bundle says.
        walls.lower_rlimits()
        calls.prctl(calls.PR_SET_NO_NEW_PRIVS, 1)
        walls.bar_calls(walls.program())
        init.run_init({**config, "listen_fd": listener.fileno()})
    except BaseException as e:  # noqa: BLE001 - the last line of a forked child
        sys.stderr.write(f"sandbox: boxd can't be started: {type(e).__name__}: {e}\n")
    finally:
        os._exit(1)


def _end_all() -> NoReturn:
    """Ask every program to end, give it a little time, and end."""
    ours = _command(os.getpid())  # boxd is a fork of this process
    for number, seconds in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, 1.0)):
        due = time.monotonic() + seconds
        while time.monotonic() < due:
            left = [p for p in procfs.descendants([os.getpid()]) if _command(p) != ours]
            if not left:
                break
            procfs.kill(left, number)
            time.sleep(0.02)
    os.sync()
    os._exit(0)


def _command(pid: int) -> bytes:
    try:
        return procfs.read_small(f"/proc/{pid}/cmdline")
    except OSError:
        return b""
