"""The root of a machine's keeper and its QEMU, mounted by the builder inside a box's own namespaces.

Where in other boxes the box itself lives, here its root is only shown: at /tree, read-only, with neither
processes, devices nor anything that another process writes. Beside it: the programs of the machine's /usr,
the box's disk, the kernel. Whoever breaks out of the virtual machine and takes over QEMU is in
a box without a network, with the walls of every other box, that holds nothing but this.
"""

from __future__ import annotations

import os
import stat

from thopter.kit.linux import calls
from thopter.providers.local import vm_command

FOLDER = "vm"  # of the box's folder: its disk
STATE = "vm"  # of the hub's state folder: kernels and saved states
_SHOWN = calls.MOUNT_ATTR_NOSUID | calls.MOUNT_ATTR_NODEV | calls.MOUNT_ATTR_RDONLY
_STILL = calls.MS_NOSUID | calls.MS_NODEV
_LINKS = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
_KVM = (10, 232)


def show(base: int, kit: str, kvm: bool) -> None:
    """Make the root in the nest (the present folder), where ``root`` is the box's own, and move there.
    ``base``: who owns it; ``kit``: a name below the hub's folder of kernels."""
    calls.mount("vm", "vm", "tmpfs", _STILL, f"mode=755,size=1m,uid={base},gid={base}")
    shown = (vm_command.TREE, vm_command.DISK, vm_command.KIT)
    for path in ("/usr", "/proc", "/dev", "/run", "/tmp", *shown):
        os.mkdir(f"vm{path}")
        os.chmod(f"vm{path}", 0o755)  # whatever our own mask is
    for name in _LINKS:
        if os.path.islink(f"root/{name}"):
            os.symlink(f"usr/{name}", f"vm/{name}")
    calls.attach_tree(calls.clone_tree("root", _SHOWN, recursive=True), f"vm{vm_command.TREE}")
    calls.attach_tree(calls.clone_tree("root/usr", _SHOWN), "vm/usr")
    calls.attach_tree(calls.clone_tree(f"files/{FOLDER}"), f"vm{vm_command.DISK}")
    calls.attach_tree(calls.clone_tree(f"state/{STATE}/{kit}", _SHOWN), f"vm{vm_command.KIT}")
    if kvm:
        os.mknod("dev/kvm", stat.S_IFCHR | 0o600, os.makedev(*_KVM))
        os.chown("dev/kvm", base, base)
    for name in ("proc", "dev", "run"):
        calls.mount(name, f"vm/{name}", "", calls.MS_MOVE)
    calls.pivot_into("vm")
