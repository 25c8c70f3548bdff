"""Boxes that are virtual machines: which machine a box gets, and the saved state it goes on from.

Such a box is made by the zygote like any other, with the same walls, limits and sockets; its first process
is a keeper (vm_keeper.py) that runs QEMU, and the box itself is inside. The first box of a size boots
a machine and saves it as it waits for its orders; every later one goes on from there.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from typing import Any, ClassVar

import msgspec

from thopter.kit.linux import procs
from thopter.kit.threads import finish
from thopter.model.errors import ProviderError, Refused, TimedOut, Unsupported
from thopter.model.nouns import Isolation, Limits
from thopter.model.sockets import BoxSpec, Caps
from thopter.providers.local import goldens, vm_command, vm_disk, vm_keeper, vm_rootfs
from thopter.providers.local.core import Core
from thopter.providers.local.maker import Maker
from thopter.providers.local.modes import Mode
from thopter.providers.local.record import Record
from thopter.providers.local.vm_command import KVM, TCG, Machine
from thopter.providers.local.way import box_python

PROBE_S = 2.0  # in which a machine with KVM has to come up, or it is not used
BOOT_S = 80.0  # an emulated one on a busy host
_HELLO_S = 120.0
_LACKS = {
    "snapshots": "a box of isolation vm can't be saved, forked or started from a saved box: its files are on "
    "a disk of its own",
    "stops": "a box of isolation vm can't be suspended to its files or started again; it can be frozen",
    "swap": "suspended boxes of isolation vm keep their memory",
    "forks live": "'fork --live' can't be had with isolation vm: its processes have a kernel of their own",
}


class Machines:
    """See the module docstring; a kind of :class:`thopter.providers.local.tiers.Stronger`."""

    isolation: ClassVar[Isolation] = Isolation.VM

    def __init__(self, core: Core, maker: Maker) -> None:
        self._core, self._maker = core, maker
        self._booting = asyncio.Lock()

    def check(self) -> None:
        """Raise ProviderError when QEMU, a kernel or a Python for inside is missing."""
        self._maker.kits.check()

    def caps(self, usual: Caps) -> Caps:
        """As usual boxes', without what works on a box's files and processes from outside."""
        missing = {k: v for k, v in usual.missing.items() if k not in ("sharing", "packages")} | _LACKS
        if why := self._maker.kits.why_no_kvm():
            missing["kvm"] = f"virtual machines are emulated, ten times slower or more: {why}"
        facets = usual.facets - {"snapshots", "stops", "forks live"}
        limits = usual.limits | {"pids", "disk_bytes", "memory_bytes"}
        return msgspec.structs.replace(
            usual, isolation=self.isolation, facets=facets, limits=limits, missing=missing
        )

    async def bear(self, spec: BoxSpec, token: str, golden: str) -> Record:
        """Make the box. The first one of its size takes as long as a kernel to boot."""
        if spec.snapshot:
            raise Unsupported("a box of isolation vm can't be started from a saved box", hint="--fresh")
        mode = Mode(isolation=self.isolation, user=(await self._core._decided()).user)
        async with self._booting:
            kit = await finish(self._maker.kits.kit)
            machine = await self._machine(spec.limits, kit, mode)
        orders = _orders(spec, kit, machine, self._maker.kits.state(machine))
        return await self._born(spec, mode, token, golden, orders, _HELLO_S)

    async def revive(self, old: Record, spec: BoxSpec) -> Record:
        """It can't be."""
        raise Unsupported(f"box {old.key} can't be started again", hint=_LACKS["stops"])

    # ------------------------------------------------------------------------------ inside

    async def _machine(self, limits: Limits, kit: str, mode: Mode) -> Machine:
        """The machine for a box with these limits; its saved state is there when this returns."""
        kits = self._maker.kits
        if kits.untried():
            await finish(kits.tried, await self._try_kvm(kit, mode))
        accel = TCG if kits.why_no_kvm() else KVM
        machine = _size(accel, limits, await finish(kits.khz) if accel == TCG else 0)
        if not kits.has(kit, machine):
            await self._save(kit, machine, mode, BOOT_S)
        return machine

    async def _try_kvm(self, kit: str, mode: Mode) -> str:
        """Boot one with KVM; why that can't be."""
        if mode.user:
            return "a hub of an ordinary user does not use KVM"
        if not os.path.exists("/dev/kvm"):
            return "there is no /dev/kvm"
        try:
            await self._save(kit, _size(KVM, Limits(), 0), mode, PROBE_S)
        except ProviderError as e:
            return f"there is a /dev/kvm, but no machine came up with it in {PROBE_S:.0f} s ({e.message})"
        return ""

    async def _save(self, kit: str, machine: Machine, mode: Mode, patience: float) -> None:
        """Boot a machine and keep its state. ProviderError when it does not come up in time."""
        maker, core = self._maker, self._core
        key = "probe-" + secrets.token_hex(6)
        spec = BoxSpec(key=key, name=key, golden=goldens.BASE)
        orders = _orders(spec, kit, machine, "") | {"save": True, "patience": patience}
        core._private.add(key)
        try:
            record = await self._born(spec, mode, secrets.token_urlsafe(24), "", orders, 0)
            await _ended(record, patience + 60)
            saved = maker.pool.folder / key / vm_rootfs.FOLDER / vm_keeper.SAVED
            if not saved.exists():
                raise ProviderError(f"it said {await self._last_words(key)}")
            await finish(maker.kits.keep, kit, machine, saved)
        finally:
            await core.destroy(key)
            core._private.discard(key)

    async def _born(
        self, spec: BoxSpec, mode: Mode, token: str, golden: str, orders: dict[str, Any], patience: float
    ) -> Record:
        birth = await finish(self._maker.prepare, spec, mode, token, golden, orders)
        try:
            return await self._core._bear(msgspec.structs.replace(birth, patience=patience))
        except (ProviderError, TimedOut) as e:
            raise type(e)(f"{e.message}; the machine said {await self._last_words(spec.key)}") from None

    async def _last_words(self, key: str) -> str:
        return await finish(vm_disk.last_words, self._maker.pool.folder / key)


def _size(accel: str, limits: Limits, khz: int) -> Machine:
    try:
        return vm_command.size(accel, limits.memory_bytes, limits.cpus, os.cpu_count() or 1, khz)
    except ValueError as e:
        raise Refused(str(e)) from None


def _orders(spec: BoxSpec, kit: str, machine: Machine, state: str) -> dict[str, Any]:
    return {
        "machine": machine.raw(), "kit": kit, "kvm": machine.accel == KVM, "from": state, "save": False,
        "patience": BOOT_S, "python": box_python(), "ports": list(spec.ports), "processes": spec.limits.pids,
    }  # fmt: skip


async def _ended(record: Record, seconds: float) -> None:
    due = time.monotonic() + seconds
    while procs.alive(record.pid, record.start):
        if time.monotonic() > due:
            raise TimedOut(f"the machine was not saved in {seconds:.0f} s")
        await asyncio.sleep(0.02)
