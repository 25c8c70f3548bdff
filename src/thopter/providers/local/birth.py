"""The birth of one box: a builder forked from the zygote makes namespaces and mounts, forks the
box's first process, and is gone.

Order of things, and why. The builder makes every namespace while it still belongs to the outer user
namespace, so the box has no power over its mounts, its network or its host name, whatever it
becomes. Only the pid namespace belongs to the box's own user namespace (decision 0022): a process
between the two, the mother, enters that one, makes the pid namespace and bears the first process.
The builder maps the box's ids, has /proc mounted (only a member of the pid namespace can), mounts the
rest (idmapped by the box's user namespace) and pivots. Until the builder says go, the first
process only waits, and it ends if the builder does: nothing half-made can run.

A builder does the first half before it knows which box it will make: joining a cgroup costs an RCU
grace period (5-12 ms measured), and a spare builder has that behind it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from thopter.kit import failpoint
from thopter.kit.linux import calls, procs
from thopter.providers.local import gv_keeper, gv_rootfs, outer, rootfs, walls
from thopter.providers.local.fdline import Line, failure, send
from thopter.providers.local.opening import listen_here
from thopter.providers.local.order import TITLE, Half, Order

LOG = "/run/thopter/boxd.log"  # inside the box, in its own memory
_SPACES = (
    calls.CLONE_NEWNS | calls.CLONE_NEWIPC | calls.CLONE_NEWUTS | calls.CLONE_NEWNET
    | calls.CLONE_NEWCGROUP
)  # fmt: skip
_OOM_SCORE = 300  # when the machine itself runs out of memory, boxes go before the rest of it

Run = Callable[[dict[str, object]], object]


def builder(line: socket.socket, half: Half, code: bytes, run: Run) -> NoReturn:
    """The whole life of a builder process: get ready, wait for an order on ``line``, make the box,
    report, wait for ``k``, let the box breathe. On any error it reports and ends, and so does all
    it made."""
    status = 1
    try:
        chick = _half(half, code, run)
        talk = Line(line)
        raw = talk.wait()
        if raw is not None:
            listeners = _finish(half, Order(raw), chick, talk.take_fds())
            ports = sorted(listeners)
            report: dict[str, object] = {"pid": chick.pid, "start": chick.start, "ports": ports}
            send(line, report, [listeners[p].fileno() for p in ports])
            failpoint.hit("birth.reported")
            if line.recv(1) == b"k":
                send(chick.line, {"go": True})
                status = 0
    except BaseException as e:  # noqa: BLE001 - told to the zygote, which tells the hub
        with contextlib.suppress(OSError):
            send(line, failure(e))
    finally:
        os._exit(status)


class _Chick:
    """The box's first process as its builder knows it; ``userns``: its user namespace, ``files``: the
    one that says how the ids of its files are stored (-1: as they are)."""

    def __init__(self, pid: int, talk: Line, userns: int, files: int) -> None:
        self.pid, self.talk, self.line = pid, talk, talk.sock
        self.start = procs.start_time(pid)
        self.userns, self.files = userns, files


def _half(half: Half, code: bytes, run: Run) -> _Chick:
    """All that no order is needed for."""
    for path in half.cgroups:
        _write(f"{path}/cgroup.procs", "0")
    with contextlib.suppress(PermissionError):  # an outer sandbox set a floor; then it stays
        _write("/proc/self/oom_score_adj", str(_OOM_SCORE))
    if half.user:
        outer.enter(half.user)
    files = outer.stored_ids(half.stored, half.base, half.count) if half.stored else -1
    calls.unshare(_SPACES)
    rootfs.build_nest(half)
    ours, theirs = socket.socketpair()
    calls.prctl(calls.PR_SET_CHILD_SUBREAPER, 1)  # so that sweeps find the first process below us
    mother = os.fork()
    if mother == 0:
        ours.close()
        _mother(theirs, half, code, run)
    theirs.close()
    # Loopback only: there is no route and there never will be.
    calls.loopback_up()
    _write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
    talk = Line(ours)
    _hear(talk, "user")
    for kind in ("uid_map", "gid_map"):
        _write(f"/proc/{mother}/{kind}", f"0 {half.base} {half.count}\n")
    userns = os.open(f"/proc/{mother}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    send(ours, {"mapped": True})
    pid = int(str(_hear(talk, "pid")["pid"]))
    os.waitpid(mother, 0)
    chick = _Chick(pid, talk, userns, files)
    (pids,) = talk.take_fds()
    _mount_proc(pids, half.sentry)
    rootfs.move_in(half)
    send(ours, {"proc": True})
    return chick


def _mother(line: socket.socket, half: Half, code: bytes, run: Run) -> NoReturn:
    """Enters the box's user namespace, makes a pid namespace there and bears pid 1."""
    try:
        calls.unshare(calls.CLONE_NEWUSER)
        send(line, {"user": True})
        if Line(line).wait() is None:
            os._exit(1)
        inside = os.open("/proc/self/ns", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        _become_root_of_box(half.count > 1)
        calls.unshare(calls.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            os.close(inside)
            _first(line, half, code, run)
        pids = os.open("pid_for_children", os.O_RDONLY | os.O_CLOEXEC, dir_fd=inside)
        send(line, {"pid": pid}, [pids])
    except BaseException as e:  # noqa: BLE001 - told to the builder
        with contextlib.suppress(OSError):
            send(line, failure(e))
    finally:
        os._exit(0)


def _mount_proc(pids: int, whole: bool) -> None:
    """Have a member of that pid namespace mount its /proc in the nest."""
    calls.setns(pids, calls.CLONE_NEWPID)
    os.close(pids)
    helper = os.fork()
    if helper == 0:
        status = 255
        try:
            rootfs.mount_proc(whole)
            status = 0
        except OSError as e:
            status = e.errno or 255
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1])
    if status:
        raise OSError(status, f"the box's /proc can't be mounted: {os.strerror(status)}")


def _finish(half: Half, order: Order, chick: _Chick, fds: list[int]) -> dict[int, socket.socket]:
    if len(fds) != 1:
        raise ValueError("an order comes with exactly one listening socket")
    _hear(chick.talk, "walled")  # it still needs the nest's /proc until then
    failpoint.hit("birth.ordered")
    (gv_rootfs if half.sentry else rootfs).assemble(half, order, chick.userns, chick.files)
    os.close(chick.userns)
    if chick.files >= 0:
        os.close(chick.files)
    # The gateways' sockets are opened in the box's network namespace and leave by descriptor.
    listeners = {port: listen_here(port) for port in order.ports}
    calls.sethostname(order.name)
    failpoint.hit("birth.pivoted")
    first = {"config": order.config, "key": order.key, "processes": order.processes}
    with contextlib.suppress(BrokenPipeError):  # it died; why is read below
        send(chick.line, first, fds)
    os.close(fds[0])
    _hear(chick.talk, "ready")
    return listeners


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as e:
        raise OSError(e.errno, f"{path} = {text!r}: {e.strerror}") from None
    finally:
        os.close(fd)


def _hear(talk: Line, word: str) -> dict[str, object]:
    said = talk.wait()
    if said is None:
        raise OSError(5, f"the box's first process ended before it was at {word!r}")
    if "error" in said:
        raise OSError(int(str(said["errno"])) or 5, str(said["error"]))
    if word not in said:
        raise OSError(5, f"the box's first process said {said} instead of {word!r}")
    return said


def _first(line: socket.socket, half: Half, code: bytes, run: Run) -> NoReturn:
    """The box's pid 1."""
    try:
        talk = Line(line)
        if talk.wait() is None:
            os._exit(1)
        calls.retitle(TITLE, f"{half.family} spare {half.group}")
        if not half.sentry:  # a keeper does it itself, as soon as its sandbox stands
            walls.close_the_door(code)
        send(line, {"walled": True})
        orders = talk.wait()
        if orders is None:
            os._exit(1)
        (boxd,) = talk.take_fds()
        _settle((boxd, line.fileno()))
        send(line, {"ready": True})
        if talk.wait() is None:
            os._exit(1)
        line.close()
        calls.retitle(TITLE, f"{half.family} box {orders['key']}")
        walls.limit_processes(int(str(orders["processes"])))
        config = orders["config"]
        assert isinstance(config, dict)
    except BaseException as e:  # noqa: BLE001 - this process has only its builder to tell
        with contextlib.suppress(OSError):
            send(line, failure(e))
        os._exit(1)
    try:
        if half.sentry:
            gv_keeper.keep(config, boxd, partial(walls.close_the_door, code))
        run({**config, "listen_fd": boxd})
    finally:
        os._exit(1)


def _become_root_of_box(many: bool) -> None:
    if many:  # with one id only, the kernel does not let go of the others
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _settle(keep: tuple[int, ...]) -> None:
    """Be at home in the new root: nothing of the zygote is left open."""
    os.chdir("/")
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
