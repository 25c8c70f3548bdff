"""The blocking half of the provider: folders, records, cgroups and sockets of boxes.

Everything that outlives a process is made here, in the hub, after it was recorded; the zygote only
makes what dies with the box. That is what lets :meth:`Maker.remove` undo any half of a creation.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from thopter.boxd.config import DEFAULT_PATH
from thopter.kit import failpoint
from thopter.kit.linux import cgroups, procs
from thopter.kit.paths import Paths, private_dir
from thopter.kit.settings import Settings
from thopter.model.errors import BadInput, ProviderError, Unsupported
from thopter.model.nouns import BoxState, Isolation
from thopter.model.sockets import BoxSpec, GoldenPart, Places
from thopter.providers.local import (
    curated,
    flatten,
    fresh,
    goldens,
    vm_disk,
    vm_rootfs,
    way_container,
    way_none,
)  # fmt: skip
from thopter.providers.local.birth import LOG
from thopter.providers.local.modes import Mode
from thopter.providers.local.nursery import listen_unix
from thopter.providers.local.pool import Pool
from thopter.providers.local.record import Record, Records, check_spec
from thopter.providers.local.saved import Saved
from thopter.providers.local.spares import Spare, Spares
from thopter.providers.local.trees import remove_tree
from thopter.providers.local.uids import STORED, Ranges
from thopter.providers.local.vm_kits import Kits
from thopter.providers.local.way import OWN_BIN

_GIB = 1 << 30


class Birth(Struct, frozen=True):
    """A box about to be made: what to ask of the zygote, with boxd's listening socket; ``after`` is
    the spare builder that the same request orders; ``patience``: how long boxd may take, in seconds
    (0: none will answer)."""

    record: Record
    ask: dict[str, Any]
    boxd: socket.socket
    after: Spare | None
    maker: Maker
    patience: float = 30.0

    def close(self) -> None:
        """Nobody will ask the zygote for it (the box itself: :meth:`Maker.remove`)."""
        self.boxd.close()
        self.maker.abandon(self.after)


class Maker:
    """See the module docstring. Thread-safe as long as one key is worked on by one caller."""

    def __init__(self, paths: Paths, settings: Settings) -> None:
        self.paths = paths
        self.settings = settings
        self.root = os.geteuid() == 0
        self.hub = hashlib.sha256(os.fsencode(paths.state)).hexdigest()[:8]
        self.family = f"thopter-{self.hub}"
        self.records = Records(paths.state / "boxes")
        self.shelf = goldens.Shelf(paths.state / "goldens")
        self.nest = paths.state / "zygote" / "nest"
        self.pool = Pool(paths.state, settings.get("local.pool"), self.root)
        self.saved = Saved(paths.state / "snapshots", self.pool)
        self.ranges = Ranges(paths.state)
        self.spares = Spares(self.ranges)
        self.kits = Kits(paths.state / vm_rootfs.STATE, str(settings.get("local.vm_kernel")))
        self._groups: cgroups.Cgroups | None = None
        self._mask: str | None = None
        self._once = threading.Lock()
        self._warming = threading.Lock()

    @property
    def groups(self) -> cgroups.Cgroups:
        """The control groups of this hub's boxes (detected on first use)."""
        with self._once:
            if self._groups is None:
                self._groups = cgroups.find(self.family, self.root)
            return self._groups

    def start(self) -> None:
        """Make the folders and find what an earlier hub left. Idempotent, quick: what only a new box
        needs waits for :meth:`warm`."""
        if any(c in str(self.paths.state) for c in ",:\\"):
            raise BadInput(f"the state folder {self.paths.state} may not contain ',', ':' or '\\'")
        private_dir(self.paths.state)
        private_dir(self.paths.runtime)
        private_dir(self.paths.runtime / "b")
        for folder in (
            self.records.folder,
            self.shelf.folder,
            self.saved.folder,
            self.nest.parent,
            self.nest,
        ):
            folder.mkdir(mode=0o711, exist_ok=True)
        self.pool.start(new=False)
        self.ranges.know(r.base for r in self.records.all())

    def warm(self) -> None:
        """Have all that a new box needs: a place to write, the base golden, the mask. Idempotent;
        up to 3 s the first time."""
        with self._warming:
            if self._mask is not None:
                return
            self.pool.start(new=True)
            if self.shelf.read(goldens.BASE) is None:
                self.build_base()
            self._mask = self.shelf.current_mask()

    def build_base(self) -> None:
        """Build the golden without parts."""
        building = self.shelf.new()
        try:
            curated.make_root(building / "root")
            digest = flatten.content_digest(building / "root")
            found = goldens.Golden(layout=goldens.LAYOUT, created_ms=now_ms())
            self.shelf.keep(building, goldens.BASE, digest, found)
        finally:
            remove_tree(building)

    def golden_ready(self, name: str, parts: Sequence[GoldenPart]) -> bool:
        """True when it exists in the present layout with exactly these parts."""
        found = self.shelf.read(name)
        return (
            found is not None and found.layout == goldens.LAYOUT and found.parts == goldens.check_parts(parts)
        )

    # -------------------------------------------------------------------------------- birth

    def socket_path(self, key: str) -> Path:
        """The unix socket of the box's boxd."""
        return self.paths.runtime / "b" / f"{key}.sock"

    def door_path(self, key: str) -> Path:
        """Where the first process of a box reports that another program made."""
        return self.paths.runtime / "b" / f".{key}.door"

    def prepare(
        self, spec: BoxSpec, mode: Mode, token: str, golden: str = "", machine: dict[str, Any] | None = None
    ) -> Birth:
        """Record the box, then make all that the zygote needs. On an error call :meth:`remove`.

        ``golden``: the folder of a golden that has no name yet, instead of the one of ``spec``;
        ``machine``: it is a virtual machine (see way_vm.py).
        """
        check_spec(spec)
        saved = self.saved.require(spec.snapshot) if spec.snapshot else None
        golden = golden or (saved.golden if saved else self.shelf.resolve(spec.golden))
        stored = STORED if mode.idmapped else 0
        if saved and saved.stored != stored:
            raise Unsupported(f"snapshot {saved.id} was saved by another kind of user and can't be used here")
        spare, after = self.spares.take(mode)
        record = Record(
            key=spec.key, name=spec.name, isolation=mode.isolation, golden=golden, stored=stored,
            created_ms=now_ms(), group=spare.group, base=spare.base, count=mode.count, ports=spec.ports,
            tags=dict(spec.tags), limits=spec.limits, hook_token=token, snapshot=spec.snapshot,
            places=Places() if mode.idmapped else Places(bin=OWN_BIN),  # /usr is of ids it does not have
        )  # fmt: skip
        return self._furnish(record, spec, mode, spare, after, self._new_folder, machine)

    def prepare_again(self, old: Record, spec: BoxSpec, mode: Mode) -> Birth:
        """The same for a box that has its files but no processes. On an error call :meth:`end`."""
        check_spec(spec)
        if old.stored != (STORED if mode.idmapped else 0):
            raise Unsupported(f"the files of box {old.key} were stored in a way that can't be used any more")
        spare, after = self.spares.take(mode)
        record = msgspec.structs.replace(
            old, group=spare.group, base=spare.base, count=mode.count, limits=spec.limits, ports=spec.ports,
            isolation=mode.isolation,
        )  # fmt: skip

        def old_folder(record: Record) -> Path:
            if old.base:  # the record names other ids now
                self.ranges.give_back(old.base)
            folder = self.pool.folder / record.key
            fresh.clear_work(folder, record.stored)
            return folder

        return self._furnish(record, spec, mode, spare, after, old_folder)

    def _new_folder(self, record: Record) -> Path:
        self.pool.remove(record.key)  # a power cut can leave a folder without its record
        if record.snapshot:
            folder = self.pool.start_from(record.snapshot, record.key, record.limits)
            self.saved.require(record.snapshot)  # dropped meanwhile: what was copied may not be all
            fresh.clear_work(folder, record.stored)
            fresh.forget_boxd(folder)
        else:
            folder = self.pool.make(record.key, record.stored, record.limits)
        fresh.write_names(folder, record.name, record.stored)
        return folder

    def _furnish(
        self, record: Record, spec: BoxSpec, mode: Mode, spare: Spare, after: Spare | None,
        make_folder: Callable[[Record], Path], machine: dict[str, Any] | None = None,
    ) -> Birth:  # fmt: skip
        try:
            self.records.write(record)
            self.spares.bound(spare)
            failpoint.hit("ensure.recorded")
            folder = make_folder(record)
            failpoint.hit("ensure.folder")
            if machine:
                vm_disk.make(folder, spec.limits, record.stored)
            limits = vm_disk.outside(machine, spec.limits) if machine else spec.limits
            joined = self.groups.make(spare.group, limits.memory_bytes, limits.pids, limits.cpus)
            failpoint.hit("ensure.cgroup")
            next_joined = self.groups.make(after.group) if after else []
            boxd = listen_unix(self.socket_path(spec.key))
        except BaseException as e:
            self.spares.bound(spare)
            self.abandon(after)
            if isinstance(e, OSError):
                raise ProviderError(f"the box's folders can't be made: {e}") from None
            raise
        ask = {
            "op": "create", "key": record.key,
            "order": self._order(
                msgspec.structs.replace(record, limits=limits), folder, dict(spec.native), machine
            ),
            "half": self._half(spare, joined, mode),
            "next": self._half(after, next_joined, mode) if after else None,
        }  # fmt: skip
        return Birth(record=record, ask=ask, boxd=boxd, after=after, maker=self)

    def abandon(self, spare: Spare | None) -> None:
        """That spare will not be made, or is not wanted any more."""
        if spare is not None:
            self.groups.destroy(spare.group)
            self.spares.spoil(spare)

    def _half(self, spare: Spare, joined: list[str], mode: Mode) -> dict[str, Any]:
        return {
            "family": self.family, "group": spare.group, "base": spare.base, "count": mode.count,
            "stored": STORED if mode.idmapped else 0,
            "cgroups": joined, "user": mode.user, "state": str(self.paths.state), "nest": str(self.nest),
            "sentry": mode.isolation is Isolation.GVISOR,
        }  # fmt: skip

    def _order(
        self, record: Record, folder: Path, native: dict[str, Any], machine: dict[str, Any] | None
    ) -> dict[str, Any]:
        extra = native.get("boxd")
        config = {
            "name": record.name, "key": record.key, "hook_token": record.hook_token,
            **(extra if isinstance(extra, dict) else {}),  # the hub's own hook token, where it gives one
        }  # fmt: skip
        if machine:
            config["machine"] = machine
        config["env"] = {**config.get("env", {}), **config.pop("net_env", {})}
        if record.places.bin == OWN_BIN:
            config["path"] = f"{OWN_BIN}:{DEFAULT_PATH}"
        memory = record.limits.memory_bytes or 4 * _GIB
        return {
            "name": record.name, "key": record.key, "golden": record.golden, "mask": f".masks/{self._mask}",
            "folder": str(folder.relative_to(self.paths.state)),
            "tmp_bytes": max(memory // 2, 64 << 20), "shm_bytes": max(min(memory // 4, _GIB), 16 << 20),
            "processes": 0 if "pids" in self.groups.limits else record.limits.pids,
            "ports": list(record.ports), "config": config, "whole": self.whole(record.golden),
        }  # fmt: skip

    def whole(self, golden: str) -> bool:
        """True when that golden (by digest) has its own /usr."""
        found = self.shelf.read_digest(golden)
        return found is not None and found.whole

    def confirm(self, record: Record, pid: int, start: int) -> Record:
        """The box lives: say so in its record (the caller makes it durable)."""
        return self.records.made(record, pid, start, procs.boot_id())

    def last_log_line(self, record: Record) -> str:
        """What boxd logged last, in a box in which nothing but boxd has run yet."""
        own = record.isolation is Isolation.NONE
        log = way_none.log(self.paths.runtime, record.key) if own else LOG
        try:
            fd = os.open(
                f"/proc/{record.pid}/root{log}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            )
        except OSError:
            return ""
        with open(fd, "rb") as f:
            lines = f.read(65536).decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:500] if lines else ""

    # --------------------------------------------------------------------------------- life

    def alive(self, record: Record) -> bool:
        """True when the box's first process still runs."""
        return record.pid > 0 and record.boot == procs.boot_id() and procs.alive(record.pid, record.start)

    def state(self, record: Record) -> BoxState:
        """What the box is now, as the kernel says."""
        if not record.complete:
            return BoxState.CREATING
        if not self.alive(record):
            return BoxState.STOPPED if record.stopped else BoxState.LOST
        return BoxState.FROZEN if self.frozen(record) else BoxState.READY

    def set_frozen(self, record: Record, frozen: bool) -> None:
        """Freeze or thaw. Raises TimeoutError."""
        if record.group and self.groups.can_freeze:
            (self.groups.freeze if frozen else self.groups.thaw)(record.group)
        else:
            procs.stop_tree(record.pid, frozen)

    def frozen(self, record: Record) -> bool:
        """True when it stands still now."""
        if record.group and self.groups.can_freeze:
            return self.groups.frozen(record.group)
        return procs.stopped(record.pid)

    # --------------------------------------------------------------------------------- death

    def remove(self, key: str) -> None:
        """End and remove everything of ``key``, made or half-made. Idempotent; the record goes last,
        so that a removal cut short is finished by the next one."""
        record = self.records.read(key)
        failpoint.hit("destroy.begun")
        if record is not None:
            self._end_processes(record)
            failpoint.hit("destroy.killed")
        self.socket_path(key).unlink(missing_ok=True)
        self.door_path(key).unlink(missing_ok=True)
        remove_tree(way_none.run_dir(self.paths.runtime, key))
        self.pool.remove(key)
        failpoint.hit("destroy.folder")
        if record is not None and record.base:
            self.ranges.give_back(record.base)
        self.records.remove(key)

    def end_processes(self, key: str) -> Path:
        """Kill everything in the box, leaving what it wrote; returns the folder of that."""
        record = self.records.read(key)
        if record is not None:
            self._end_processes(record)
        return self.pool.folder / key

    def end(self, record: Record) -> None:
        """Kill everything in the box; its files stay."""
        self._end_processes(record)
        self.socket_path(record.key).unlink(missing_ok=True)

    def _end_processes(self, record: Record) -> None:
        try:
            if record.group:
                self.groups.destroy(record.group)
            if self.alive(record):
                # All others go with the first process; without a pid namespace they have to be found.
                kill = procs.kill_tree if record.isolation is Isolation.NONE else procs.kill
                kill(record.pid, record.start)
            if not self.groups.hierarchies:  # no group tells of one that is not in the record yet
                for pid in procs.first_titled([self.family, "box", record.key]):
                    with contextlib.suppress(OSError):  # gone meanwhile
                        procs.kill(pid, procs.start_time(pid))
            way_container.end(record)
        except TimeoutError as e:
            raise ProviderError(f"box {record.key} can't be ended: {e}") from None

    def dismantle(self) -> None:
        """Give back what no box needs any more."""
        for group in self.groups.names():
            self.groups.destroy(group)
        way_container.dismantle(self.family, self.paths.state)
        self.pool.close()
        self.groups.remove_family()
        if self.root:
            self.ranges.release()


def now_ms() -> int:
    """Wall time in ms."""
    return time.time_ns() // 1_000_000
