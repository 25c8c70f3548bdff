"""Boxes that another program makes, or nobody: what is the same for all such ways of birth.

Folders, record, control group and sockets are made and recorded here, as for the zygote's own
boxes. A :class:`Way` then gets ``first.py`` to run inside whatever it makes. That process comes to the
door, a socket that only this box is shown, and is told what it is (see ``first.py``).
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from msgspec import Struct

from thopter.kit import boxd_bundle, failpoint
from thopter.kit.linux import calls, caps, procs, seccomp
from thopter.kit.threads import finish
from thopter.model.errors import NotNow, ProviderError, TimedOut
from thopter.model.nouns import Isolation
from thopter.model.sockets import BoxSpec
from thopter.providers.local import fdline, first, goldens, opening, walls, way_none
from thopter.providers.local.birth import LOG
from thopter.providers.local.fdline import Line, send
from thopter.providers.local.maker import Maker, now_ms
from thopter.providers.local.modes import Mode, must_be_ours
from thopter.providers.local.nursery import Nursery, listen_unix
from thopter.providers.local.record import Record, check_spec
from thopter.providers.local.way import Job, Way

_BIRTH_S = 60.0
_TALK_S = 30.0


class Ways:
    """Makes boxes in the ways handed in. As :class:`Maker`: one key is worked on by one caller."""

    def __init__(self, maker: Maker, nursery: Nursery, ways: Iterable[Way]) -> None:
        self._maker = maker
        self._nursery = nursery
        self._once = threading.Lock()
        self._built: Path | None = None
        self._ways = {way.isolation: way for way in ways}

    async def bear(self, spec: BoxSpec, mode: Mode, token: str, golden: str) -> Record:
        """Make the box and let it run; boxd has yet to answer. On any error the caller removes it."""
        way = self._ways[mode.isolation]
        await finish(way.check)
        job, boxd, door = await finish(self._prepare, way, spec, mode, token, golden)
        with boxd, door:
            with open(job.log, "ab") as log:
                ask = {"op": "start", "argv": way.argv(job), "cgroups": job.groups, "env": way.env()}
                begun, _ = await self._nursery.ask(ask, (log.fileno(),))
            failpoint.hit("ensure.asked")
            pid, start = int(begun["pid"]), int(begun["start"])
            try:
                arrived = await finish(self._meet, way, spec, job, boxd, door, (pid, start))
            except BaseException:
                if procs.alive(pid, start):
                    await finish(procs.kill_tree, pid, start)
                raise
        with arrived.line:
            try:
                record = self._confirm(job, arrived)
                await finish(self._maker.records.sync, spec.key)
                failpoint.hit("ensure.confirmed")
                if arrived.fds:
                    adopt = {"op": "adopt", "key": spec.key, "ports": [*arrived.fds]}
                    await self._nursery.ask(adopt, [*arrived.fds.values()])
                send(arrived.line, {"go": True})
            finally:
                for fd in arrived.fds.values():
                    os.close(fd)
        return record

    # ------------------------------------------------------------------------------ inside

    def _prepare(
        self, way: Way, spec: BoxSpec, mode: Mode, token: str, golden: str
    ) -> tuple[Job, socket.socket, socket.socket]:
        check_spec(spec)
        if spec.snapshot:
            must_be_ours(mode.isolation, "started from a snapshot")
        maker, key = self._maker, spec.key
        bench, golden = bool(golden), golden or maker.shelf.resolve(spec.golden)
        base = maker.ranges.take() if mode.idmapped else 0
        # A container of an ordinary user can't be brought into a group of ours.
        group = "" if way.ends() and not maker.root else "w-" + key
        record = Record(
            key=key, name=spec.name, isolation=mode.isolation, golden=golden, created_ms=now_ms(),
            group=group, base=base, count=mode.count, ports=spec.ports, tags=dict(spec.tags),
            limits=spec.limits, hook_token=token, engine=way.engine(), places=way.places(key),
        )  # fmt: skip
        try:
            maker.records.write(record)
            failpoint.hit("ensure.recorded")
            maker.pool.remove(key)
            folder = maker.pool.make(key, 0, spec.limits)
            failpoint.hit("ensure.folder")
            limits = spec.limits
            joined = maker.groups.make(group, limits.memory_bytes, limits.pids, limits.cpus) if group else []
            failpoint.hit("ensure.cgroup")
            door_path = maker.door_path(key)
            job = Job(
                record=record, folder=folder, golden=maker.shelf.folder / golden / "root", bench=bench,
                door=door_path, app=self._app(), title=f"{maker.family} box {key}", groups=joined,
                log=folder / "birth.log", memory_bytes=limits.memory_bytes,
                base=maker.shelf.folder / maker.shelf.resolve(goldens.BASE),
            )  # fmt: skip
            way.furnish(job)
            boxd = listen_unix(maker.socket_path(key))
            try:
                door = listen_unix(door_path, 1)
                os.chown(door_path, base or -1, -1)
            except BaseException:
                boxd.close()
                raise
        except OSError as e:
            raise ProviderError(f"the box's folders can't be made: {e}") from None
        return job, boxd, door

    def _app(self) -> Path:
        """The file that first processes run; made anew by each hub, as its code may be new."""
        with self._once:
            if self._built is None:
                path = self._maker.paths.state / "first.pyz"
                self._built = Path(boxd_bundle.build_zipapp(str(path), _content()))
            return self._built

    def _meet(
        self, way: Way, spec: BoxSpec, job: Job, boxd: socket.socket, door: socket.socket,
        launcher: tuple[int, int],
    ) -> _Arrived:  # fmt: skip
        """Wait for the first process and give it its orders, up to the point where it waits."""
        line = _accept(door, lambda said: procs.alive(*launcher) or (way.ends() and way.came(said)), job.log)
        job.door.unlink(missing_ok=True)
        try:
            line.settimeout(_TALK_S)
            pid = struct.unpack("iii", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            start = procs.start_time(pid)
            if way.ends():  # by a daemon, perhaps, and so outside of our groups
                for path in job.groups:
                    Path(path, "cgroup.procs").write_text(str(pid))
            send(line, self._orders(way, spec, job), [boxd.fileno()])
            talk = Line(line)
            said = talk.wait()
            if said is None or "ready" not in said:
                why = (said or {}).get("error", "it ended")
                raise ProviderError(f"the box's first process failed: {why}")
            names, ports = said["names"], said["ports"]
            assert isinstance(names, list) and isinstance(ports, dict)
            fds = dict(zip((int(ports[n]) for n in names), talk.take_fds(), strict=True))
            return _Arrived(line=line, pid=pid, start=start, fds=fds, ports=ports)
        except TimeoutError:
            line.close()
            raise TimedOut("the box's first process did not answer") from None
        except BaseException as e:
            line.close()
            if isinstance(e, OSError):
                raise ProviderError(f"the box's first process broke off: {e}") from None
            raise

    def _orders(self, way: Way, spec: BoxSpec, job: Job) -> dict[str, Any]:
        record = job.record
        extra = spec.native.get("boxd")
        config = {
            "name": record.name, "key": record.key, "hook_token": record.hook_token,
            **(extra if isinstance(extra, dict) else {}),
        }  # fmt: skip
        own = way.config(record)
        shared = way.isolation is Isolation.NONE  # one network for all: each gets ports of its own
        net = config.pop("net_env", {})  # how to find the way out: such a box has the machine's network
        env = {**config.get("env", {}), **({} if shared else net), **own.pop("env", {})}
        config = {**config, **own, "env": env}
        hook = str(config.get("hook_port", 8400)) if shared else ""
        ports = {str(p): 0 if shared else p for p in record.ports} | ({hook: 0} if hook else {})
        pids = 0 if shared or (record.group and "pids" in self._maker.groups.limits) else record.limits.pids
        return {
            "config": config, "ports": ports, "hook": hook, "processes": pids,
            "log": way_none.log(self._maker.paths.runtime, record.key) if shared else LOG,
        }  # fmt: skip

    def _confirm(self, job: Job, arrived: _Arrived) -> Record:
        moved = {name: port for name, port in arrived.ports.items() if name != str(port)}
        return self._maker.records.made(job.record, arrived.pid, arrived.start, procs.boot_id(), moved)


class _Arrived(Struct, frozen=True, kw_only=True):
    """The first process as it stands at the door; ``fds``: listeners by the port they really have."""

    line: socket.socket
    pid: int
    start: int
    fds: dict[int, int]
    ports: dict[str, int]


def _accept(door: socket.socket, alive: Callable[[str], bool], log: Path) -> socket.socket:
    deadline = time.monotonic() + _BIRTH_S
    door.settimeout(0.1)
    while True:
        try:
            return door.accept()[0]
        except TimeoutError:
            text = log.read_text(errors="replace").strip() if log.exists() else ""
            last = text.splitlines()[-1][-400:] if text else "it said nothing"
            if not alive(text):
                raise ProviderError(f"no box came of it: {last}") from None
            if time.monotonic() > deadline:
                raise NotNow(f"the box did not come up within {_BIRTH_S:.0f} s: {last}") from None


@cache
def _content() -> tuple[tuple[str, bytes], ...]:
    """What first.pyz holds besides boxd."""
    packages = ("kit", "kit/linux", "providers", "providers/local")
    files = [(f"thopter/{name}/__init__.py", b"") for name in packages]
    for module in (calls, caps, seccomp, procs, walls, fdline, opening, first):
        path = module.__name__.replace(".", "/") + ".py"
        files.append((path, Path(module.__file__ or "").read_bytes()))
    start = b"import sys\nfrom thopter.providers.local.first import main\nmain(sys.argv[1], sys.argv[2])\n"
    return (*files, ("__main__.py", start))
