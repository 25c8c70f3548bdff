"""The root of a box, mounted inside its own new mount namespace by its builder process.

Nothing here touches what outlives the box: the hub made the folders, the mounts die with the box.

First a *nest* is built, a small tmpfs with all that the box will need from the machine (/usr, the
hub's state folder), and the builder moves into it: a spare that waits must not hold on to every
mount of the machine. Later the box's root is mounted in the nest, and the nest is left in turn.
"""

from __future__ import annotations

import os
import stat

from thopter.kit.linux import calls
from thopter.providers.local import vm_rootfs
from thopter.providers.local.order import Half, Order

_NODES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_LINKS = (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
          ("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx"))  # fmt: skip
READ_ONLY_PROC = ("sys", "sysrq-trigger", "irq", "bus", "fs", "mtrr", "acpi")
HIDDEN_PROC = ("kcore", "keys", "key-users", "timer_list", "latency_stats", "kmsg", "kallsyms", "modules")
_PLACES = ("root", "golden", "lower", "usr", "state", "files", "proc", "dev", "run", "vm")
_GUARDED = calls.MOUNT_ATTR_NOSUID | calls.MOUNT_ATTR_NODEV
_DEVTMP = calls.MS_NOSUID | calls.MS_NOEXEC
_STILL = calls.MS_NOSUID | calls.MS_NODEV


def build_nest(half: Half) -> None:
    """Mount the nest, with /dev and /run of the box to be. Nothing mounted here is seen outside."""
    calls.mount("none", "/", "", calls.MS_REC | calls.MS_PRIVATE)
    calls.mount("nest", half.nest, "tmpfs", _STILL, "mode=755,size=1m")
    os.chdir(half.nest)
    for name in _PLACES:
        os.mkdir(name)
    os.close(os.open("empty", os.O_CREAT | os.O_WRONLY, 0o444))  # shown instead of what is hidden
    calls.attach_tree(calls.clone_tree("/usr"), "usr")
    calls.attach_tree(calls.clone_tree(half.state, recursive=True), "state")
    _dev(half)
    owner = f"uid={half.base},gid={half.base}"
    calls.mount("run", "run", "tmpfs", _STILL, f"mode=755,size=64m,{owner}")
    for name, mode in (("thopter", 0o700), ("lock", 0o1777)):
        os.mkdir(f"run/{name}")
        os.chmod(f"run/{name}", mode)
        os.chown(f"run/{name}", half.base, half.base)


def mount_proc(whole: bool) -> None:
    """Mount the new pid namespace's /proc in the nest (the present folder); the caller must be in
    that namespace. What tells of or turns the machine is read-only or hidden, but for a ``whole`` one, which
    no program of a box ever sees: without, the kernel lets nobody in there mount another."""
    calls.mount("proc", "proc", "proc", _STILL | calls.MS_NOEXEC)
    if whole:
        return
    for name in READ_ONLY_PROC:
        if os.path.lexists(path := f"proc/{name}"):
            calls.attach_tree(calls.clone_tree(path, _GUARDED | calls.MOUNT_ATTR_RDONLY), path)
    for name in HIDDEN_PROC:
        if os.path.lexists(path := f"proc/{name}"):
            calls.attach_tree(calls.clone_tree("empty", calls.MOUNT_ATTR_RDONLY), path)


def move_in(half: Half) -> None:
    """Make the nest the root of this mount namespace; the machine's own mounts are let go."""
    calls.pivot_into(half.nest)


def _dev(half: Half) -> None:
    """The six harmless devices, terminals of its own."""
    owner = f"uid={half.base},gid={half.base}"
    calls.mount("dev", "dev", "tmpfs", _DEVTMP, f"mode=755,size=1m,nr_inodes=256,{owner}")
    for name, major, minor in _NODES:
        path = f"dev/{name}"
        if half.idmapped:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
            os.chmod(path, 0o666)
            os.chown(path, half.base, half.base)
        else:  # an ordinary user can't make devices, only show those there are
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            calls.attach_tree(calls.clone_tree(f"/dev/{name}"), path)
    for name, target in _LINKS:
        os.symlink(target, f"dev/{name}")
        os.lchown(f"dev/{name}", half.base, half.base)
    for name in ("pts", "shm"):
        os.mkdir(f"dev/{name}")
    tty = f"gid={half.base + 5},mode=620," if half.count > 5 else ""
    calls.mount("devpts", "dev/pts", "devpts", _DEVTMP, f"newinstance,{tty}ptmxmode=666,max=1024")


def assemble(half: Half, order: Order, userns: int, files: int) -> None:
    """Mount the box's root in the nest and make it the root. ``userns`` is the box's user
    namespace, by which the shared read-only layers are idmapped; ``files`` does it for its own."""
    idmap = userns if half.idmapped else -1
    calls.attach_tree(calls.clone_tree("state/goldens", _GUARDED, idmap), "golden")
    calls.attach_tree(calls.clone_tree(f"state/{order.folder}", 0, files), "files")
    _overlay(half, order, "root", "root", f"golden/{order.golden}/root")
    if not order.whole:
        calls.attach_tree(calls.clone_tree("usr", _GUARDED, idmap), "lower")
        _overlay(half, order, "usr", "root/usr", f"golden/{order.mask}:lower")
    if order.machine:
        kvm = half.idmapped and order.machine.get("kvm") is True
        return vm_rootfs.show(half.base, str(order.machine["kit"]), kvm)
    frozen = _GUARDED | calls.MOUNT_ATTR_RDONLY | calls.MOUNT_ATTR_NOEXEC
    calls.attach_tree(calls.clone_tree("root/sys", frozen), "root/sys")
    for name in ("proc", "dev", "run"):
        calls.mount(name, f"root/{name}", "", calls.MS_MOVE)
    owner = f"uid={half.base},gid={half.base}"
    calls.mount("shm", "root/dev/shm", "tmpfs", _STILL, f"mode=1777,size={order.shm_bytes},{owner}")
    calls.mount("tmp", "root/tmp", "tmpfs", _STILL, f"mode=1777,size={order.tmp_bytes},{owner}")
    calls.pivot_into("root")


def _overlay(half: Half, order: Order, part: str, target: str, lower: str) -> None:
    at = f"files/{part}"
    # volatile: what a box wrote is acknowledged to nobody until it is pulled or pushed, and without
    # it every unmount syncs the whole disk (58-95 ms while others write).
    # xino: a file's numbers are the same to stat(2) and in /proc, or its watches can't be forked live.
    how = "redirect_dir=on,metacopy=off,index=off,xino=on" if half.idmapped else "userxattr"
    data = f"lowerdir={lower},upperdir={at}/upper,workdir={at}/work,{how},volatile"
    calls.mount(f"{half.family}:{order.key}", target, "overlay", _STILL, data)
