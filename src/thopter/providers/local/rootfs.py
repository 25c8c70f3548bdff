"""The root of a box, mounted inside its own new mount namespace by its builder process.

Nothing here touches what outlives the box: the hub made the folders, the mounts die with the box.
"""

from __future__ import annotations

import os
import stat

from thopter.kit.linux import calls
from thopter.providers.local.order import Order

_NODES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_LINKS = (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
          ("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx"))  # fmt: skip
_READ_ONLY_PROC = ("sys", "sysrq-trigger", "irq", "bus", "fs", "mtrr", "acpi")
_HIDDEN_PROC = ("kcore", "keys", "key-users", "timer_list", "latency_stats", "kmsg", "kallsyms", "modules")
_GUARDED = calls.MOUNT_ATTR_NOSUID | calls.MOUNT_ATTR_NODEV
_DEVTMP = calls.MS_NOSUID | calls.MS_NOEXEC
_STILL = calls.MS_NOSUID | calls.MS_NODEV


def make_private() -> None:
    """From here on no mount of this namespace is seen outside, nor the reverse."""
    calls.mount("none", "/", "", calls.MS_REC | calls.MS_PRIVATE)


def mount_proc(order: Order) -> None:
    """Mount the new pid namespace's /proc at a staging place (the caller must be in it already)."""
    calls.mount("proc", order.stage("proc"), "proc", _STILL | calls.MS_NOEXEC)


def assemble(order: Order, userns: int) -> str:
    """Mount everything at ``order.stage("root")`` and return that path. ``userns`` is the box's user
    namespace, by which the shared read-only layers are idmapped where the order says so."""
    root = order.stage("root")
    idmap = userns if order.idmapped else -1
    calls.attach_tree(calls.clone_tree(order.goldens, _GUARDED, idmap), order.stage("golden"))
    calls.attach_tree(calls.clone_tree("/usr", _GUARDED, idmap), order.stage("usr"))
    _overlay(order, "root", root, f"{order.stage('golden')}/{order.golden}/root")
    _overlay(order, "usr", root + "/usr", f"{order.stage('golden')}/{order.mask}:{order.stage('usr')}")
    _proc(order, root + "/proc")
    frozen = _GUARDED | calls.MOUNT_ATTR_RDONLY | calls.MOUNT_ATTR_NOEXEC
    calls.attach_tree(calls.clone_tree(root + "/sys", frozen), root + "/sys")
    _dev(order, root + "/dev")
    owner = f"uid={order.base},gid={order.base}"
    calls.mount("tmp", root + "/tmp", "tmpfs", _STILL, f"mode=1777,size={order.tmp_bytes},{owner}")
    calls.mount("run", root + "/run", "tmpfs", _STILL, f"mode=755,size=64m,{owner}")
    for name, mode in (("thopter", 0o700), ("lock", 0o1777)):
        os.mkdir(f"{root}/run/{name}")
        os.chmod(f"{root}/run/{name}", mode)
        os.chown(f"{root}/run/{name}", order.base, order.base)
    return root


def _overlay(order: Order, part: str, target: str, lower: str) -> None:
    at = f"{order.folder}/{part}"
    # volatile: what a box wrote is acknowledged to nobody until it is pulled or pushed, and without
    # it every unmount syncs the whole disk (58-95 ms while others write).
    how = "userxattr" if order.userxattr else "redirect_dir=on,metacopy=off,index=off"
    data = f"lowerdir={lower},upperdir={at}/upper,workdir={at}/work,{how},volatile"
    calls.mount("box", target, "overlay", _STILL, data)


def _proc(order: Order, proc: str) -> None:
    calls.mount(order.stage("proc"), proc, "", calls.MS_MOVE)
    for name in _READ_ONLY_PROC:
        path = f"{proc}/{name}"
        if os.path.lexists(path):
            calls.attach_tree(calls.clone_tree(path, _GUARDED | calls.MOUNT_ATTR_RDONLY), path)
    for name in _HIDDEN_PROC:
        path = f"{proc}/{name}"
        if os.path.lexists(path):
            calls.attach_tree(calls.clone_tree("/dev/null", calls.MOUNT_ATTR_RDONLY), path)


def _dev(order: Order, dev: str) -> None:
    owner = f"uid={order.base},gid={order.base}"
    calls.mount("dev", dev, "tmpfs", _DEVTMP, f"mode=755,size=1m,nr_inodes=256,{owner}")
    for name, major, minor in _NODES:
        path = f"{dev}/{name}"
        if order.idmapped:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
            os.chmod(path, 0o666)
            os.chown(path, order.base, order.base)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            calls.attach_tree(calls.clone_tree(f"/dev/{name}"), path)
    for name, target in _LINKS:
        os.symlink(target, f"{dev}/{name}")
    for name in ("pts", "shm"):
        os.mkdir(f"{dev}/{name}")
    tty = f"gid={order.base + 5},mode=620," if order.count > 5 else ""
    calls.mount("devpts", f"{dev}/pts", "devpts", _DEVTMP, f"newinstance,{tty}ptmxmode=666,max=1024")
    calls.mount("shm", f"{dev}/shm", "tmpfs", _STILL, f"mode=1777,size={order.shm_bytes},{owner}")
