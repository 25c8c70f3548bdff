"""What a gateway gives up at its start: network, file system, capabilities, being looked into.

A gateway parses hostile bytes, so it keeps only what its work needs. Each measure is tried on its own and
the list of those in force is shown by ``ping``; a kernel that has one less still gets the others.
Must run before the process has any thread (Landlock binds to the calling thread and its children).
"""

from __future__ import annotations

import ctypes
import os
import resource
import site
import struct
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

#: Below the ids of boxes, above those of people and services.
_FIRST_UID = 0x0FFE0000
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 24, 38
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446

_EXECUTE, _WRITE, _READ, _READ_DIR, _TRUNCATE = 1, 2, 4, 8, 1 << 14
_READ_ONLY = _EXECUTE | _READ | _READ_DIR
_FILE_RIGHTS = _EXECUTE | _WRITE | _READ | _TRUNCATE | 1 << 15
_DEVICES_AND_SOCKETS = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11
_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # by Landlock ABI; 5 and later: 16

_SYSTEM_READ = (
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/sbin",
    "/etc",
    "/proc",
    "/run/systemd/resolve",
    "/dev/urandom",
)


class _NotHere(Exception):
    """This kernel (or this kind of user) can't do that."""


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(what: str, result: int) -> int:
    if result < 0:
        raise _NotHere(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def confine(
    *, writable: Sequence[Path], network: bool, uid: int = 0, private: Sequence[Path] = ()
) -> tuple[str, ...]:
    """Give up everything else than reading the system and our own modules, writing below ``writable``,
    and (if ``network``) connecting by TCP; root becomes user ``uid`` when one is given. No folder that
    holds one of ``private`` becomes readable for the modules in it. Returns the names of the measures
    that are in force."""
    if sys.platform != "linux":
        return ()
    steps = [("no-core", _no_core), ("no-new-privs", _no_new_privs)]
    if not network:
        steps.append(("no-network", _new_network))
    steps.append(("landlock", lambda: _landlock(writable, network, [*writable, *private])))
    if uid:
        steps.append(("own-uid", lambda: _become(uid)))
    steps += [
        ("no-capabilities", _drop_capabilities),
        ("not-dumpable", _not_dumpable),
    ]
    done: list[str] = []
    for name, step in steps:
        try:
            step()
        except (_NotHere, OSError):
            continue  # the missing name in the answer is the report
        done.append(name)
    return tuple(done)


def own_uid(state: Path) -> int:
    """The user id of the gateways of this state folder; other hubs' are (very likely) others."""
    return _FIRST_UID + zlib.crc32(os.fsencode(state)) % 65536


def _become(uid: int) -> None:
    """Change from root to ``uid`` for good. Open files and sockets stay; what is needed of the file
    system must be loaded, since the program itself may lie where only root can read."""
    if os.geteuid() != 0:
        raise _NotHere("only root can change its user")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _no_core() -> None:
    """One byte: with a limit of 0 the kernel still starts the machine's core_pattern program."""
    none = 0 if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0 else 1
    resource.setrlimit(resource.RLIMIT_CORE, (none, none))


def _no_new_privs() -> None:
    _call("prctl", _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _not_dumpable() -> None:
    _call("prctl", _libc().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def _new_network() -> None:
    """Move into an empty network namespace; sockets handed over later keep the namespace they are of."""
    libc, uid, gid = _libc(), os.geteuid(), os.getegid()
    if uid == 0 and libc.unshare(_CLONE_NEWNET) == 0:
        return
    _call("unshare", libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _drop_capabilities() -> None:
    libc = _libc()
    machine = os.uname().machine
    if machine not in _SYS_CAPSET:
        raise _NotHere("capset's number is not known here")
    if os.geteuid() == 0:
        for capability in range(64):
            if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 and ctypes.get_errno() == 22:
                break  # past the last one
    header = struct.pack("=Ii", 0x20080522, 0)
    _call("capset", libc.syscall(_SYS_CAPSET[machine], header, struct.pack("=6I", 0, 0, 0, 0, 0, 0)))


def _landlock(writable: Sequence[Path], network: bool, private: Sequence[Path]) -> None:
    libc = _libc()
    abi = _call("landlock", libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))
    handled = (1 << _FS_BITS.get(abi, 16)) - 1
    tcp = 0 if abi < 4 else 1 | (0 if network else 2)
    scoped = 3 if abi >= 6 else 0
    attributes = struct.pack("=QQQ", handled, tcp, scoped)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = _call(
        "landlock", libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    )
    try:
        for path in _readable_places(private):
            _allow(libc, ruleset, path, _READ_ONLY & handled)
        _allow(libc, ruleset, Path("/dev/null"), (_READ | _WRITE | _TRUNCATE) & handled)
        for path in writable:
            _allow(libc, ruleset, path, handled & ~_DEVICES_AND_SOCKETS)
        _call("landlock", libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0))
    finally:
        os.close(ruleset)


def _readable_places(private: Sequence[Path]) -> list[Path]:
    """The system and where modules are imported from, also those that a ``.pth`` file names (an editable
    installation); but no folder of modules that holds a ``private`` one, as a home or / would."""
    package = Path(__file__).resolve().parents[1]
    places = [Path(p) for p in _SYSTEM_READ] + [Path(sys.prefix), Path(sys.base_prefix), package]
    places += [Path(p) for p in site.getsitepackages()]
    modules = [Path(os.path.realpath(p)) for p in sys.path if p]
    kept = [Path(os.path.realpath(p)) for p in private]
    places += [m for m in modules if not any(k.is_relative_to(m) for k in kept)]
    places += [Path(os.environ[name]) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
    return [p for p in places if p.exists()]


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not path.is_dir():
            rights &= _FILE_RIGHTS
        rule = struct.pack("=Qi", rights, fd)
        _call("landlock", libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0))
    finally:
        os.close(fd)
