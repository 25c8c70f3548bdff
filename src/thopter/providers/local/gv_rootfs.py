"""The root of a gVisor box's keeper and its runsc, mounted by the builder inside a box's own namespaces.

Where in other boxes the box itself lives, here its root is only a folder, at /tree, that runsc shows to the
sandbox. Beside it: runsc itself, as the machine has it and not as the box could have changed it,
what the sandbox's first process runs, and a /proc. Whoever breaks out of gVisor's kernel is in a box
of ours without a network, in ids of its own, that holds nothing but this.
"""

from __future__ import annotations

import json
import os

from thopter.kit.linux import calls
from thopter.providers.local import gv_command, rootfs, walls
from thopter.providers.local.order import Half, Order

APP = "gv.pyz"  # of the hub's state folder
_GUARDED = calls.MOUNT_ATTR_NOSUID | calls.MOUNT_ATTR_NODEV
_STILL = calls.MS_NOSUID | calls.MS_NODEV
_SHOWN = calls.MOUNT_ATTR_NOSUID | calls.MOUNT_ATTR_NODEV | calls.MOUNT_ATTR_RDONLY


def assemble(half: Half, order: Order, userns: int, files: int) -> None:
    """As :func:`rootfs.assemble`, but the box's root becomes a folder of the keeper's."""
    idmap = userns if half.idmapped else -1
    calls.attach_tree(calls.clone_tree("state/goldens", _GUARDED, idmap), "golden")
    calls.attach_tree(calls.clone_tree(f"state/{order.folder}", 0, files), "files")
    rootfs._overlay(half, order, "root", "root", f"golden/{order.golden}/root")
    if not order.whole:
        calls.attach_tree(calls.clone_tree("usr", _GUARDED, idmap), "lower")
        rootfs._overlay(half, order, "usr", "root/usr", f"golden/{order.mask}:lower")
    orders = order.config.get("sentry")
    assert isinstance(orders, dict)
    _show(half.base, orders, order)


def _show(base: int, orders: dict[str, object], order: Order) -> None:
    """Make the root in the nest (the present folder), where ``root`` is the box's own, and move there.
    ``base``: who owns it."""
    os.mkdir("cell")
    calls.mount("cell", "cell", "tmpfs", _STILL, f"mode=755,size=8m,uid={base},gid={base}")
    for path in ("tmp", "proc", "dev", "run", gv_command.TREE, gv_command.BUNDLE, gv_command.STATE):
        folder = f"cell/{path.lstrip('/')}"
        os.mkdir(folder, 0o700)
        os.chown(folder, base, base)
    for path in (gv_command.PROGRAM, gv_command.APP):
        os.close(os.open(f"cell{path}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o755))
    program = str(orders["program"])  # below what the nest has, usr or state
    calls.attach_tree(calls.clone_tree(program, _SHOWN), f"cell{gv_command.PROGRAM}")
    calls.attach_tree(calls.clone_tree(f"state/{APP}", _SHOWN), f"cell{gv_command.APP}")
    kept = sorted(walls.KEPT_CAPABILITIES)
    told = gv_command.bundle(str(orders["python"]), order.name, kept, order.tmp_bytes, order.shm_bytes)
    with open(f"cell{gv_command.BUNDLE}/config.json", "x", encoding="ascii") as file:
        json.dump(told, file)
    os.chmod(f"cell{gv_command.BUNDLE}/config.json", 0o644)
    calls.attach_tree(calls.clone_tree("root", recursive=True), f"cell{gv_command.TREE}")
    for name in ("proc", "dev", "run"):
        calls.mount(name, f"cell/{name}", "", calls.MS_MOVE)
    calls.pivot_into("cell")
