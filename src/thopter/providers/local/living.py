"""The facet ForksLive: the running processes of a box's terminal, saved with the files of the same
instant, and started again in boxes made from that.

Processes are saved by CRIU from the terminal's server down; the box's first process and boxd are
not among them (every box has its own). How it gets into a box and out is in ``entering.py``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from thopter.kit import failpoint
from thopter.kit.linux import procs
from thopter.kit.threads import finish
from thopter.model.errors import Conflict, NotNow, ProviderError, TimedOut, Unsupported
from thopter.model.nouns import BoxState, Isolation
from thopter.model.sockets import LiveHandle
from thopter.providers.local import criu as criu_
from thopter.providers.local import images, saving
from thopter.providers.local.core import Core
from thopter.providers.local.criu import IMAGES, Criu
from thopter.providers.local.maker import Maker, now_ms
from thopter.providers.local.modes import must_be_ours
from thopter.providers.local.record import LIVE, LIVES, Record, check_key, write_json
from thopter.providers.local.saving import SNAP_LOCK
from thopter.providers.local.trees import remove_tree

log = logging.getLogger(__name__)

_SOURCE = Path(__file__).resolve().parents[3]
_ENTER = Path(__file__).with_name("entering.py")
_TITLE = "thopter-enter"
_TRIES = 3
_PATIENCE_S = 180.0
_ORPHAN_S = 90.0
_DUMP = (
    "--unprivileged", "--tcp-close", "--file-locks", "--link-remap", "--ghost-limit", "64M", "--force-irmap",
    "--network-lock", "skip", "--manage-cgroups=ignore", "--timeout", "60", "--leave-stopped", "-v1",
)  # fmt: skip
_RESTORE = ("-d", "--unprivileged", "--tcp-close", "--file-locks", "--manage-cgroups=ignore", "-v1")
_HARMLESS = ("tun:", "RLIMIT_NOFILE", "suspend", "Unexpected error: -1", "stats-", "FAILED", "exited, status")
_ERROR = re.compile(r"Error \([^)]*\): (.*)")
_FOREIGN = ("external", "unix: ", "half of")  # somebody outside holds the other end of a socket


class Live(Struct, frozen=True):
    """What ``live.json`` says: the root of the saved processes, as numbered in the box, and the
    moment when they stood still."""

    root: int
    at_ms: int


class Living(Core):
    """See the module docstring."""

    async def snapshot_live(self, key: str, snap: str, tags: Mapping[str, str], root: int) -> LiveHandle:
        """See :class:`thopter.model.sockets.ForksLive`."""
        check_key(key)
        async with self._lock(SNAP_LOCK + check_key(snap)):
            there = await finish(self._maker.saved.read, snap)
            if there is None or not there.complete:
                async with self._lock(key):
                    record = await finish(self._require, key)
                    _must_be_of_this_kernel(record)
                    if self._maker.state(record) is not BoxState.READY:
                        raise NotNow(f"box {key} does not run", hint="only running processes can be forked")
                    criu = await finish(_criu, self._maker)
                    still = partial(_stopped, criu=criu, snap=snap, root=root)
                    there = await finish(saving.save, self._maker, record, snap, dict(tags), still)
            live = await finish(_read, self._maker, snap)
            return LiveHandle(snapshot=there.handle(), at_ms=live.at_ms)

    async def start_live(self, key: str, snap: str) -> None:
        """See :class:`thopter.model.sockets.ForksLive`."""
        async with self._lock(check_key(key)):
            record = await finish(self._require, key)
            _must_be_of_this_kernel(record)  # a fork is as strong as is asked for now, not as its original
            if record.snapshot != snap:
                raise Conflict(f"box {key} was not made from {snap}")
            criu = await finish(_criu, self._maker)
            await finish(_start, self._maker, record, snap, criu)


def _must_be_of_this_kernel(record: Record) -> None:
    """Its processes are this machine's: else CRIU would reach what is around a stronger box, not into it."""
    must_be_ours(record.isolation, "forked with its processes")
    if record.isolation is Isolation.GVISOR:
        raise Unsupported(f"'fork --live' can't be had of box {record.key}: it is a gVisor box")


def _criu(maker: Maker) -> Criu:
    if not maker.root:
        raise Unsupported("processes can be forked only by a hub that runs as root")
    return _found(str(maker.settings.get("local.criu")), maker.paths.state / "criu")


@cache
def _found(wish: str, folder: Path) -> Criu:
    return criu_.find(wish, folder)  # what is not there now may be there the next time: errors are not kept


def _read(maker: Maker, snap: str) -> Live:
    try:
        return msgspec.json.decode((maker.saved.live(snap) / "live.json").read_bytes(), type=Live)
    except (OSError, msgspec.DecodeError):
        raise Conflict(f"snapshot {snap} holds no processes") from None


# -------------------------------------------------------------------------------------- saving


@contextlib.contextmanager
def _stopped(maker: Maker, record: Record, *, criu: Criu, snap: str, root: int) -> Iterator[None]:
    """The processes below ``root`` are saved, and stand still while the block saves the files."""
    folder = maker.saved.live(snap)
    remove_tree(folder)
    _make_open(folder)
    tree = _tree(maker, record, root)
    rested = {pid for pid in tree if procs.stopped(pid)}
    watches = json.loads(_enter(record, {"do": "watches", "root": root}))
    scan = [word for path in watches for word in ("--irmap-scan-path", str(path))]
    maker.records.mark(record.key, LIVE, durable=False)
    try:
        for left in reversed(range(_TRIES)):
            try:
                _run_criu(criu, record, folder, ["dump", "-t", str(root), *_DUMP, *scan], outside=True)
                break
            except ProviderError as e:
                if not left or not any(word in e.message for word in _FOREIGN):
                    raise
                time.sleep(0.2)  # boxd was just asking the terminal something
        at_ms = now_ms()
        failpoint.hit("live.dumped")
        try:
            with saving.standing_still(maker, record):
                _pack(record, folder)
                yield
        finally:
            _go_on([pid for pid in _tree(maker, record, root) if pid not in rested])
        images.same_user_namespace(folder, root)
        _open_up(folder)
        write_json(folder / "live.json", Live(root=root, at_ms=at_ms))
    except ValueError as e:
        raise ProviderError(f"the processes of box {record.key} can't be saved: {e}") from None
    finally:
        maker.records.unmark(record.key, LIVE, durable=False)


def _make_open(folder: Path) -> None:
    """A folder that can be read as the root of any box that gets a descriptor of it; the one above
    it is closed."""
    folder.mkdir()
    folder.chmod(0o755)


def _open_up(folder: Path) -> None:
    for file in folder.iterdir():
        file.chmod(0o644)


def _tree(maker: Maker, record: Record, root: int) -> list[int]:
    """The processes from ``root`` (a number inside) down, as numbered here, parents first."""
    for pid in maker.groups.pids(record.group) or set(procs.tree(record.pid)):
        if procs.inner_pid(pid) == root and procs.command_line(pid) != procs.command_line(record.pid):
            return procs.tree(pid)
    raise NotNow(f"box {record.key} has no process {root}", hint="the terminal of its agent is gone")


def _go_on(pids: list[int]) -> None:
    """Children first: a shell must not find a child of its stopped."""
    for pid in reversed(pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _pack(record: Record, folder: Path) -> None:
    with open(folder / "memory.tar", "wb") as out:
        _enter(record, {"do": "pack"}, {IMAGES: out.fileno()})


# ------------------------------------------------------------------------------------ starting


def _start(maker: Maker, record: Record, snap: str, criu: Criu) -> None:
    _read(maker, snap)
    if maker.records.marked(record.key, LIVES):
        return
    if not maker.alive(record):
        raise NotNow(f"box {record.key} has no processes left")
    groups = [h.group(record.group) for h in maker.groups.hierarchies]
    folder = maker.saved.live(snap)
    for left in reversed(range(_TRIES)):
        _clear(maker, record)
        with open(folder / "memory.tar", "rb") as packed:
            _enter(record, {"do": "unpack", "cgroups": groups}, {IMAGES: packed.fileno()})
        try:
            _run_criu(criu, record, folder, ["restore", *_RESTORE], groups=groups)
            break
        except ProviderError:
            if not left:  # a number was taken by a short-lived process of the box: it goes by itself
                raise
    failpoint.hit("live.started")
    maker.records.mark(record.key, LIVES, durable=False)


def _clear(maker: Maker, record: Record) -> None:
    """End what an earlier attempt left: everything but the box's first process and its boxd."""
    _await_orphans(record)
    deadline = time.monotonic() + 10
    ours = procs.command_line(record.pid)
    while True:
        every = maker.groups.pids(record.group) or set(procs.tree(record.pid))
        others = (p for p in every - {record.pid} if procs.command_line(p) != ours)
        left = [p for p in others if procs.stat_state(p) not in ("Z", "X", "")]
        if not left:
            return
        if time.monotonic() > deadline:
            raise TimedOut(f"processes of box {record.key} do not end")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


# ------------------------------------------------------------------------------------ entering


def _enter(record: Record, order: dict[str, Any], fds: Mapping[int, int] | None = None) -> str:
    """Do one thing inside the box; what it printed. ProviderError with what it complained of."""
    given = fds or {}
    body = {"pid": record.pid, "cgroups": [], "fds": given, **order}
    argv = [sys.executable, "-S", "-E", "-I", str(_ENTER), str(_SOURCE), json.dumps(body), _title(record)]
    try:
        done = subprocess.run(
            argv, pass_fds=tuple(given.values()), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=_PATIENCE_S, start_new_session=True, env={}, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise TimedOut(f"box {record.key} could not be entered in {_PATIENCE_S:.0f} s") from None
    if done.returncode:
        said = done.stderr.strip()[-300:] or f"exit {done.returncode}"
        raise ProviderError(f"{order['do']} in box {record.key} failed: {said}")
    return done.stdout


def _run_criu(
    criu: Criu, record: Record, folder: Path, words: list[str], groups: list[str] | None = None,
    outside: bool = False,
) -> None:  # fmt: skip
    log = os.open(folder / f"{words[0]}.log", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    order = {"do": "become", "argv": criu.argv(*words), "outside": outside, "cgroups": groups or []}
    try:
        with criu.opened() as parts:
            _enter(record, order, {IMAGES: here, 1: log, 2: log, **parts})
    except ProviderError as e:
        if isinstance(e, TimedOut):
            raise
        verb = "saved" if words[0] == "dump" else "started again"
        raise ProviderError(f"the processes can't be {verb}: {_why(log) or e.message}") from None
    finally:
        os.close(here)
        os.close(log)


def _why(log: int) -> str:
    """The first complaint of CRIU that is not about what it can do without."""
    text = os.pread(log, 1 << 16, 0).decode("utf-8", "replace")
    found = (m.group(1) for m in _ERROR.finditer(text))
    return next((line[:300] for line in found if not any(w in line for w in _HARMLESS)), "")


def _title(record: Record) -> str:
    return f"{_TITLE} {record.key}"


def _await_orphans(record: Record) -> None:
    """Wait until nobody whom a killed hub sent into the box is there any more: to end them could end
    the processes that they are saving."""
    deadline = time.monotonic() + _ORPHAN_S
    while any(_title(record) in procs.command_line(pid) for pid in procs.all_pids()):
        if time.monotonic() > deadline:
            raise TimedOut(f"somebody has been at work in box {record.key} for {_ORPHAN_S:.0f} s")
        time.sleep(0.02)


def reconcile(maker: Maker) -> None:
    """Let go on what stands still because a hub was killed while it saved it. Blocking."""
    for record in maker.records.all():
        if record.complete and maker.records.marked(record.key, LIVE):
            if maker.alive(record):
                try:
                    _await_orphans(record)
                except TimedOut as e:  # or a program of the box took that name: no start is held up by it
                    log.warning("%s; its processes go on", e.message)
                every = maker.groups.pids(record.group) or set(procs.tree(record.pid))
                _go_on([pid for pid in procs.tree(record.pid) if pid in every])
            maker.records.unmark(record.key, LIVE, durable=False)


# ------------------------------------------------------------------------------------- probing


def probe_live(maker: Maker, one: Record, other: Record) -> None:
    """Fork a program of one box into another one, which both are for that only. Raises ProviderError."""
    criu = _criu(maker)
    groups = {r.key: [h.group(r.group) for h in maker.groups.hierarchies] for r in (one, other)}
    root = int(_enter(one, {"do": "start", "argv": ["/bin/sleep", "600"], "cgroups": groups[one.key]}))
    for old in (maker.paths.state / "criu").glob("probe-*"):  # of a hub that was killed meanwhile
        remove_tree(old)
    folder = maker.paths.state / "criu" / one.key
    _make_open(folder)
    try:
        _run_criu(criu, one, folder, ["dump", "-t", str(root), *_DUMP], outside=True)
        try:
            images.same_user_namespace(folder, root)
        except ValueError as e:
            raise ProviderError(f"CRIU {criu.version} writes images that are not understood: {e}") from None
        _open_up(folder)
        _run_criu(criu, other, folder, ["restore", *_RESTORE], groups[other.key])
        _tree(maker, other, root)
    finally:
        remove_tree(folder)


__all__ = ["Living", "probe_live", "reconcile"]
