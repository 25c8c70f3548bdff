"""Runs as ``python -S -E -I entering.py SOURCE ORDER``: joins a box and does one thing there.

ORDER is JSON: ``pid`` (the box's first process), ``cgroups`` to join, ``fds`` (under which number each
inherited descriptor is wanted), and what to do. ``become``: the program behind descriptor 30 with
``argv``, in the box's user namespace or, with ``outside``, in ours. Everything else is done as any
program of the box, behind its walls: ``pack`` and ``unpack`` what lies in its memory (descriptor 20),
``watches`` (the paths that the processes below ``root`` watch), ``start`` ``argv`` and leave it there.
Argument 3 tells which box it is in, so that a hub that starts meanwhile can wait for it.
"""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import sys
import tarfile
from collections.abc import Iterator
from typing import Any, NoReturn

_SPACES = ("cgroup", "ipc", "uts", "net", "mnt", "pid")
_MEMORY = ("run", "tmp", "dev/shm")  # relative to the box's root: all that is not on its disk
_OWN = ("run/thopter/ledger", "run/thopter/status", "run/thopter/boxd.log", "run/lock")
_LOOK = ("/root", "/work", "/etc", "/opt", "/home", "/usr")
_MOST_FILES = 400_000
_MOST_BYTES = 4 << 30
# What CRIU needs to save processes from outside of their user namespace; none of the rest of root's powers.
_SAVES = frozenset(
    {"SYS_ADMIN", "SYS_PTRACE", "CHECKPOINT_RESTORE", "DAC_OVERRIDE", "DAC_READ_SEARCH", "KILL", "NET_ADMIN",
     "SETUID", "SETGID"}
)  # fmt: skip
_HIGH = 200  # descriptors wait above this until they get their numbers


def main(source: str, raw: str) -> NoReturn:
    """See the module docstring. Ends with the code of what it did."""
    sys.path.append(source)
    from thopter.kit.linux import calls, caps
    from thopter.providers.local import walls

    for name in ("utf-8", "ascii", "latin-1"):
        codecs.lookup(name)  # inside, the standard library is out of reach
    order = json.loads(raw)
    code = walls.program()
    for folder in order["cgroups"]:
        with open(f"{folder}/cgroup.procs", "w", encoding="ascii") as f:
            f.write("0")
    waiting = {int(n): fcntl.fcntl(fd, fcntl.F_DUPFD, _HIGH) for n, fd in order["fds"].items()}
    box = f"/proc/{order['pid']}"
    spaces = [*_SPACES, *(() if order.get("outside") else ("user",))]
    doors = [os.open(f"{box}/ns/{name}", os.O_RDONLY) for name in spaces]
    root = os.open(f"{box}/root", os.O_RDONLY | os.O_DIRECTORY)
    for door in doors:
        calls.setns(door, 0)
    os.fchdir(root)
    os.chroot(".")
    os.chdir("/")
    os.umask(0o022)
    pid = os.fork()  # only a child is in the pid namespace
    if pid:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
    status = 1
    try:
        if not order.get("outside"):
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        for number, fd in waiting.items():
            os.dup2(fd, number)
        calls.close_all_but((0, 1, 2, *waiting))
        if order.get("outside"):
            caps.drop_all_but(_SAVES)
        if order["do"] == "become":
            os.execve(30, order["argv"], {"GNUTLS_NO_IMPLICIT_INIT": "1", "LC_ALL": "C"})
        walls.close_the_door(code)
        status = _inside(order)
    except BaseException as e:  # noqa: BLE001 - the one who started us reads it
        os.write(2, f"{type(e).__name__}: {e}\n".encode("utf-8", "replace"))
    finally:
        os._exit(status)


def _inside(order: dict[str, Any]) -> int:
    if order["do"] == "pack":
        _pack()
    elif order["do"] == "unpack":
        _unpack()
    elif order["do"] == "watches":
        os.write(1, json.dumps(sorted(_watches(int(order["root"])))).encode("ascii"))
    elif order["do"] == "start":
        quiet = [(os.POSIX_SPAWN_OPEN, n, "/dev/null", os.O_RDWR, 0) for n in range(3)]
        pid = os.posix_spawn(order["argv"][0], order["argv"], {}, file_actions=quiet, setsid=True)
        os.write(1, b"%d" % pid)
    return 0


def _pack() -> None:
    """Write a tar of the box's memory files to descriptor 20. Sockets are left out: who listens on one
    makes it again."""
    with os.fdopen(20, "wb", closefd=False) as out, tarfile.open(fileobj=out, mode="w|") as tar:
        left = _MOST_BYTES

        def keep(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
            nonlocal left
            left -= member.size
            if left < 0:
                raise OSError(27, "the box holds too much in its memory files")
            return None if member.name in _OWN else member

        for place in _MEMORY:
            tar.add(f"/{place}", place, filter=keep)


def _unpack() -> None:
    """Put that tar's files where they were. It was made by us of a box's files, and is read inside a box."""
    with os.fdopen(20, "rb", closefd=False) as raw, tarfile.open(fileobj=raw, mode="r|") as tar:
        for member in tar:
            if member.name not in _MEMORY:
                if hasattr(tarfile, "fully_trusted_filter"):
                    tar.extract(member, "/", numeric_owner=True, filter="fully_trusted")
                else:
                    tar.extract(member, "/", numeric_owner=True)


def _watches(root: int) -> set[str]:
    wanted = set(_watched(root))
    found: set[str] = set()
    todo = list(_LOOK)
    looked = 0
    for path in todo:  # breadth first: what is watched lies near the top
        if not wanted or looked > _MOST_FILES:
            break
        try:
            own = os.lstat(path)
            names = list(os.scandir(path))
        except OSError:
            continue
        if (own.st_dev, own.st_ino) in wanted:
            wanted.discard((own.st_dev, own.st_ino))
            found.add(path)
        for entry in names:
            looked += 1
            key = (own.st_dev, entry.inode())
            if entry.is_dir(follow_symlinks=False):
                todo.append(entry.path)
            elif key in wanted:
                wanted.discard(key)
                found.add(entry.path)
    return found


def _watched(root: int) -> Iterator[tuple[int, int]]:
    """``(device, inode)`` of what the processes from ``root`` down watch."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as f:
                    parents[int(name)] = int(f.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
    for pid in parents:
        above = pid
        while above not in (root, 0):
            above = parents.get(above, 0)
        if above != root:
            continue
        for line in _fdinfo(pid):
            if line.startswith("inotify "):
                facts = dict(word.partition(":")[::2] for word in line.split()[1:])
                device = int(facts["sdev"], 16)
                yield os.makedev(device >> 20, device & 0xFFFFF), int(facts["ino"], 16)


def _fdinfo(pid: int) -> list[str]:
    """What the kernel tells of its open files; files and processes come and go."""
    lines: list[str] = []
    try:
        for fd in os.listdir(f"/proc/{pid}/fdinfo"):
            with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii", errors="replace") as f:
                lines += f
    except OSError:
        return lines
    return lines


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
