"""The first process of a box that another program made (bubblewrap, a container engine, nobody).

Runs as ``python3 -S -E -I first.pyz DOOR TITLE`` inside whatever that program made. It reports at the
*door*, a unix socket of the hub: there it is given its orders with boxd's listening socket, and
there it hands over the gateways' listening sockets, opened where the box lives. Until the hub says
go it only waits, and it ends if the hub does: nothing half-made can run. Then it is boxd's init.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from typing import NoReturn

from thopter.boxd import init
from thopter.kit.linux import calls, caps
from thopter.providers.local import walls
from thopter.providers.local.fdline import Line, failure, send
from thopter.providers.local.opening import listen_here

_SETPCAP = 1 << caps.NUMBER["SETPCAP"]


def main(door: str, title: str) -> NoReturn:
    """See the module docstring."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        line.connect(door)
        talk = Line(line)
        orders = talk.wait()
        if orders is None:
            os._exit(1)
        config, wanted = orders["config"], orders["ports"]
        assert isinstance(config, dict) and isinstance(wanted, dict)
        (boxd,) = talk.take_fds()
        listeners = {name: listen_here(int(port)) for name, port in wanted.items()}
        _walls(int(str(orders["processes"])))
        _settle(str(orders["log"]), (boxd, line.fileno(), *(s.fileno() for s in listeners.values())))
        real = {name: s.getsockname()[1] for name, s in listeners.items()}
        if own := str(orders["hook"]):  # boxd's own: only its number is wanted, init binds it again
            config["hook_port"] = real[own]
            listeners.pop(own).close()
        fds = [s.fileno() for s in listeners.values()]
        send(line, {"ready": True, "names": list(listeners), "ports": real}, fds)
        for s in listeners.values():
            s.close()
        if talk.wait() is None:
            os._exit(1)
        line.close()
        calls.retitle("thopter-box", title)
    except BaseException as e:  # noqa: BLE001 - told to the hub
        with contextlib.suppress(OSError):
            send(line, failure(e))
        os._exit(1)
    try:
        init.run_init({**config, "listen_fd": boxd})
    finally:
        os._exit(1)


def _walls(processes: int) -> None:
    walls.lower_rlimits()
    walls.limit_processes(processes)
    calls.prctl(calls.PR_SET_NO_NEW_PRIVS, 1)
    if caps.effective() & _SETPCAP:
        caps.drop_all_but(walls.KEPT_CAPABILITIES)
    walls.bar_calls(walls.program())


def _settle(log: str, keep: tuple[int, ...]) -> None:
    """Be at home: nothing of whoever started us is left open."""
    os.environ.clear()
    os.chdir("/")
    os.umask(0o077)
    os.makedirs(os.path.dirname(log), exist_ok=True)
    calls.close_all_but(keep)
    null = os.open("/dev/null", os.O_RDWR)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for fd, at in ((null, 0), (out, 1), (out, 2)):
        os.dup2(fd, at)
    for fd in (null, out):
        if fd > 2:
            os.close(fd)
    os.umask(0o022)
    for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
