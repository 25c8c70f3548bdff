"""The keeper of a gVisor box: the first process of its namespaces, outside of the sandbox.

It starts runsc, gives the sandbox's first process its orders, and joins two things for as long as the sandbox
lives: boxd's socket, at which the hub comes and goes, to the boxd inside; and the gateways' ports inside
to the gateways' sockets in this box's network. All that comes from the sandbox is hostile: it
can reach these ports and answer on connections of the hub, nothing else. Forked from the zygote: all it
will need is imported already. Once runsc runs it is behind the walls of every box.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
from collections.abc import Callable
from typing import Any, NoReturn

from thopter.boxd import wire
from thopter.boxd.loop import describe, log
from thopter.providers.local import gv_command, vm_mux
from thopter.providers.local.vm_mux import BOXD, BrokenPipe, Mux

END, SYNC, UP = b"end", b"sync", b"up"  # notes
LOG = "/run/thopter/boxd.log"
_WHY_S = 10.0


def keep(config: dict[str, Any], boxd: int, close_the_door: Callable[[], None]) -> NoReturn:
    """Be the keeper of one sandbox until it ends. ``config``: boxd's, and in it our orders, ``sentry`` (its
    ``ports``); ``boxd``: its listening socket; ``close_the_door`` puts the walls of a box into force."""
    listener = socket.socket(fileno=boxd)
    orders = config.pop("sentry")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    up = [False]
    try:
        pipe = _start(str(config.get("key") or "box"))
        close_the_door()
        _serve(pipe, listener, {int(p) for p in orders["ports"]}, config, up)
    except BaseException as e:  # noqa: BLE001 - the last line of a forked child
        why = f"the sandbox ended: {e}" if isinstance(e, BrokenPipe) else "defect: " + describe(e)
        log(why)
        if not up[0]:
            _say_why(listener, why)
    os._exit(0)  # and the kernel ends all the rest with us


def _say_why(listener: socket.socket, why: str) -> None:
    """Tell the hub, which waits for boxd's first words, why there will be none; nobody could read our log
    when we are gone."""
    with open(LOG, "rb") as file:
        lines = file.read(1 << 16).decode("utf-8", "replace").strip().splitlines()
    listener.settimeout(_WHY_S)
    try:
        with listener.accept()[0] as sock:
            sock.settimeout(_WHY_S)
            sock.sendall(wire.message(0, {"error": f"{why}; {' | '.join(lines[-3:-1])[-400:]}"}))
            while sock.recv(4096):  # what is left unread would take our words away
                continue
    except OSError:
        return  # nobody waits


def _start(name: str) -> socket.socket:
    """Have runsc make the sandbox; our end of its first process's standard input."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(theirs.fileno(), 0)
            os.execve(gv_command.PROGRAM, gv_command.argv(name), {"PATH": "/"})
        except BaseException as e:  # noqa: BLE001 - the last line of a forked child
            log("runsc can't be started: " + describe(e))
        finally:
            os._exit(127)
    theirs.close()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise OSError(5, f"runsc ended with status {status}")
    return ours


def _serve(
    pipe: socket.socket, listener: socket.socket, ports: set[int], config: dict[str, Any], up: list[bool]
) -> None:
    """Orders, then the sandbox's life; ``up`` is true once it runs. Raises BrokenPipe when it has ended."""
    raw = json.dumps({"config": config, "ports": sorted(ports)}).encode()
    vm_mux.write_all(pipe.fileno(), struct.pack(">I", len(raw)) + raw)

    def gateway(door: int) -> socket.socket:
        if door not in ports:
            raise OSError("no gateway is there")
        return vm_mux.dial(("127.0.0.1", door), socket.AF_INET)

    def note(content: bytes) -> None:
        if content == UP and not up[0]:
            up[0] = True
            mux.watch(listener.fileno(), take)

    def take() -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        mux.attach(sock, BOXD)

    listener.setblocking(False)
    mux = Mux(pipe.fileno(), 2, gateway, note)
    woken = _wake_on_signals(mux)
    while True:
        mux.turn(3600.0)
        _reap()
        if woken:
            woken.clear()
            mux.note(END)
            mux.turn(0)  # it is sent at the end of a turn


def _wake_on_signals(mux: Mux) -> list[int]:
    """SIGTERM asks the box to end: it is in the list then, and the mux has turned."""
    woken: list[int] = []
    ear, mouth = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(mouth)
    signal.signal(signal.SIGTERM, lambda number, _frame: woken.append(number))

    def hear() -> None:
        os.read(ear, 64)

    mux.watch(ear, hear)
    return woken


def _reap() -> None:
    """Take in the helpers of runsc that were left to us."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return
