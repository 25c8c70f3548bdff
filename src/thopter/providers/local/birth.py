"""The birth of one box: a builder forked from the zygote makes namespaces and mounts, forks the
box's first process, and is gone.

Order of things, and why. The builder makes every namespace while it still belongs to the outer user
namespace, so the box has no power over its mounts, its network or its host name, whatever it
becomes. The first process mounts /proc (only a member of the pid namespace can), then enters the
box's own user namespace; the builder maps its ids, mounts the rest (idmapped by that very
namespace) and pivots both of them. Until the builder says go, the first process only waits, and it
ends if the builder does: nothing half-made can run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable

from thopter.kit import failpoint
from thopter.kit.linux import calls, procs
from thopter.providers.local import rootfs, walls
from thopter.providers.local.order import Order

_SPACES = (
    calls.CLONE_NEWNS | calls.CLONE_NEWPID | calls.CLONE_NEWIPC | calls.CLONE_NEWUTS
    | calls.CLONE_NEWNET | calls.CLONE_NEWCGROUP
)  # fmt: skip
LOG = "/run/thopter/boxd.log"  # inside the box, in its own memory
_OOM_SCORE = 300  # when the machine itself runs out of memory, boxes go before the rest of it

Run = Callable[[dict[str, object]], None]


class Newborn:
    """A box that waits for its first breath: send ``b"g"`` on ``line``."""

    def __init__(
        self, pid: int, start: int, listeners: dict[int, socket.socket], line: socket.socket
    ) -> None:
        self.pid, self.start, self.listeners, self.line = pid, start, listeners, line


def build(
    order: Order, boxd_fd: int, mapper: Callable[[], None] | None, filter_code: bytes, run: Run
) -> Newborn:
    """Make the box up to the point of no return.

    ``mapper``: for an ordinary user, enters the outer user namespace first. Raises OSError; the
    caller then exits and nothing of the box is left.
    """
    _join(order)
    if mapper is not None:
        mapper()
    calls.unshare(_SPACES)
    rootfs.make_private()
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _first(order, boxd_fd, theirs, filter_code, run)
    theirs.close()
    _expect(ours, b"u")
    start = procs.start_time(pid)
    userns = _map_ids(pid, order)
    failpoint.hit("birth.mapped")
    root = rootfs.assemble(order, userns)
    listeners = _network(order)
    calls.sethostname(order.name)
    os.close(userns)
    calls.pivot_into(root)
    ours.sendall(b"p")
    _expect(ours, b"r")
    return Newborn(pid, start, listeners, ours)


def _join(order: Order) -> None:
    for path in order.cgroups:
        _write(f"{path}/cgroup.procs", "0")
    with contextlib.suppress(PermissionError):  # an outer sandbox set a floor; then it stays
        _write("/proc/self/oom_score_adj", str(_OOM_SCORE))


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as e:
        raise OSError(e.errno, f"{path} = {text!r}: {e.strerror}") from None
    finally:
        os.close(fd)


def _map_ids(pid: int, order: Order) -> int:
    for kind in ("uid_map", "gid_map"):
        _write(f"/proc/{pid}/{kind}", f"0 {order.base} {order.count}\n")
    return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def _network(order: Order) -> dict[int, socket.socket]:
    """Loopback only: there is no route and there never will be. The gateways' sockets are opened
    here, in the box's network namespace, and leave by descriptor."""
    calls.loopback_up()
    _write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
    return {port: listen_here(port) for port in order.ports}


def listen_here(port: int) -> socket.socket:
    """Open a listening socket in the present network namespace.

    SO_REUSEPORT: when the zygote that held it died, a new one can open its like while an old
    gateway still holds the first. A box can't join in: that takes the same outer uid.
    """
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(("127.0.0.1", port))
    s.listen(128)
    return s


def _expect(line: socket.socket, letter: bytes) -> None:
    got = line.recv(1)
    if got == letter:
        return
    if got == b"!":
        raise OSError(5, line.recv(4096).decode("utf-8", "replace"))
    raise OSError(5, f"the box's first process ended before it said {letter.decode()!r}")


def _first(order: Order, boxd_fd: int, line: socket.socket, filter_code: bytes, run: Run) -> None:
    """The box's pid 1. Never returns."""
    try:
        rootfs.mount_proc(order)
        calls.unshare(calls.CLONE_NEWUSER)
        line.sendall(b"u")
        if line.recv(1) != b"p":
            os._exit(1)
        _become_root_of_box(order, (boxd_fd, line.fileno()))
        walls.close_the_door(filter_code)
        line.sendall(b"r")
        if line.recv(1) != b"g":
            os._exit(1)
        line.close()
    except BaseException as e:  # noqa: BLE001 - this process has nobody else to tell
        try:
            line.sendall(b"!" + f"{type(e).__name__}: {e}".encode()[:4000])
        finally:
            os._exit(1)
    try:
        run({**order.config, "listen_fd": boxd_fd})
    finally:
        os._exit(1)


def _become_root_of_box(order: Order, keep: tuple[int, ...]) -> None:
    os.chdir("/")
    if order.count > 1:
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    calls.close_all_but(keep)
    os.umask(0o022)
    null = os.open("/dev/null", os.O_RDWR)
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for fd in (null, log):
        if fd > 2:
            os.close(fd)
    for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    calls.set_name("thopter-box")
