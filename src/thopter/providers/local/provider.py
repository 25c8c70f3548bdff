"""LocalProvider: the sockets Provider, Confines, Suspends and Goldens (and by its
facets' files Snapshots and Stops) on this machine's own kernel.

State lives outside this object: records, folders, cgroups, sockets and the zygote. A new object
(after a hub restart) finds all of it; what an interrupted call left half-done is removed or redone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar

from thopter.kit import failpoint
from thopter.kit.paths import Paths, find_paths
from thopter.kit.settings import Settings
from thopter.kit.threads import finish
from thopter.model.errors import Ambiguous, NotFound, NotNow, ProviderError, Refused, TimedOut
from thopter.model.nouns import Isolation
from thopter.model.sockets import BoxHandle, BoxSpec, Caps, GoldenPart, Leak, Places, Stream
from thopter.providers.local import abilities, building, goldens, hello, modes, workshop
from thopter.providers.local.ladder import ladder
from thopter.providers.local.living import Living, probe_live
from thopter.providers.local.living import reconcile as let_go_on
from thopter.providers.local.maker import Birth, Maker
from thopter.providers.local.mending import Mending
from thopter.providers.local.nursery import Nursery
from thopter.providers.local.record import Record, check_key
from thopter.providers.local.resting import Resting, reconcile
from thopter.providers.local.saving import SNAP_LOCK, Saving
from thopter.providers.local.sweep import Found
from thopter.providers.local.sweep import find as find_leaks
from thopter.providers.local.tiers import ASKED_FOR, Stronger, Tiering
from thopter.providers.local.way_bubblewrap import Bubblewrap
from thopter.providers.local.way_container import Container
from thopter.providers.local.way_gvisor import Gvisor
from thopter.providers.local.way_none import PlainFolder
from thopter.providers.local.ways import Ways

_HELLO_S = 30.0
_NO_WAY = "see 'thopter doctor'; local.isolation = none runs agents as you, with no isolation at all"
log = logging.getLogger(__name__)


class LocalProvider(Saving, Resting, Living, Mending, Tiering):
    """See the module docstring. All methods may be called concurrently."""

    name: ClassVar[str] = "local"

    def __init__(self, paths: Paths | None = None, settings: Settings | None = None) -> None:
        paths = find_paths() if paths is None else paths
        settings = Settings({}) if settings is None else settings
        self._maker = Maker(paths, settings)
        self._nursery = Nursery(paths.runtime / "zygote.sock", self._maker.nest, self._maker.family)
        self._ways = Ways(
            self._maker,
            self._nursery,
            (
                Bubblewrap(),
                Container(self._maker.family, paths.state),
                PlainFolder(paths.runtime, self._maker.pool.folder),
            ),
        )
        self._ladder = (Gvisor(self, self._maker), *ladder(self, self._maker, self._nursery))
        self._had: dict[Isolation, tuple[str, float]] = {}
        self._climbing: dict[Isolation, asyncio.Lock] = {}
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._mode: modes.Mode | None = None
        self._problems: dict[str, str] = {}
        self._probed = False
        self._probing = asyncio.Lock()
        self._mending = asyncio.Lock()
        self._no_live = ""
        self._warm = False
        self._deciding = asyncio.Lock()
        self._building = asyncio.Lock()
        self._private: set[str] = set()  # keys of boxes that are our own business

    # ------------------------------------------------------------------ life of the provider

    async def start(self) -> None:
        """Make the folders; adopt what an earlier hub left (its zygote of other code is replaced).
        What only new boxes need is made when the first is wanted. Idempotent."""
        trouble = await self.mend()
        try:
            await finish(self._maker.start)
        except ProviderError as e:  # boxes can't be used now, but they are there and must be told of
            log.error("%s", trouble or e.message)
        await finish(reconcile, self._maker)
        await finish(let_go_on, self._maker)
        self._maker.spares.know((await self._nursery.adopt()).get("spares", ()))

    def _cool_down(self) -> None:
        self._warm = False

    async def _warm_up(self) -> None:
        if await finish(self._maker.pool.broken):  # not mended here: the caller holds a box
            raise NotNow("the boxes' disk is read-only", hint="free some disk space, then do it again")
        async with self._probing:
            if not self._warm:
                await finish(self._maker.start)
                await finish(self._maker.warm)
                self._maker.spares.know(await self._nursery.ready())
                self._warm = True

    async def close(self) -> None:
        """Nothing is held between calls; boxes and the zygote go on."""

    async def dismantle(self) -> None:
        """Destroy every box, end the zygote, give back what the machine lent (cgroups, id ranges).

        For tests and for removing thopter from a machine; the state folder itself stays.
        """
        for _ in range(2):  # goldens are held by boxes and snapshots
            await self.sweep(frozenset())
        await self._nursery.stop()
        await finish(self._maker.dismantle)

    async def caps(self, spec: BoxSpec | None = None) -> Caps:
        """What boxes here can do, found by making one (once). With nothing that works, no facets. For a
        ``spec`` that asks for more than the usual isolation: what such boxes can."""
        if trouble := await self.mend():
            raise ProviderError(trouble, hint="free some disk space")
        await self._warm_up()
        async with self._deciding:
            if not self._probed:
                await self._probe()
                self._no_live = await self._probe_live()
            usual = abilities.caps(self._maker, self._mode, self._problems, self._no_live)
        return await self._tier_caps(self._least(spec), usual)

    async def _decided(self) -> modes.Mode:
        """How boxes are made here. Refused, with the reasons, when they can't be."""
        async with self._deciding:
            if self._mode is None:
                possible = self._choices()
                if len(possible) == 1:
                    return possible[0]  # making the box is the probe
                await self._probe()
            if self._mode is None:
                reasons = "; ".join(f"{k}: {abilities.advice(v)}" for k, v in self._problems.items())
                raise Refused(f"no box can be made on this machine: {reasons}", hint=_NO_WAY)
            return self._mode

    def _choices(self) -> list[modes.Mode]:
        asked = str(self._maker.settings.get("local.isolation"))
        return modes.choices(os.geteuid(), os.getegid(), "auto" if asked in ASKED_FOR else asked)

    async def _probe(self) -> None:
        """Really make a box, each way in turn, until one works."""
        self._problems = {}
        for mode in self._choices():
            key = "probe-" + secrets.token_hex(6)
            self._private.add(key)
            try:
                await self._create(BoxSpec(key=key, name=key, golden=goldens.BASE), mode)
                self._mode = mode
                break
            except ProviderError as e:
                self._problems[mode.isolation.value] = e.message
            finally:
                await self.destroy(key)
                self._private.discard(key)
        self._probed = True

    async def _probe_live(self) -> str:
        """Why processes can't be forked here; empty when they can: it was done."""
        if self._mode is None or not self._mode.ours:
            return "boxes of this isolation can't be forked with their processes"
        keys = ["probe-" + secrets.token_hex(6) for _ in range(2)]
        self._private.update(keys)
        try:
            for key in keys:
                await self._create(BoxSpec(key=key, name=key, golden=goldens.BASE), self._mode)
            await finish(probe_live, self._maker, *(self._require(key) for key in keys))
        except ProviderError as e:
            return f"{e.message}: {e.hint}" if e.hint else e.message
        finally:
            for key in keys:
                await self.destroy(key)
            self._private.difference_update(keys)
        return ""

    # ------------------------------------------------------------------------------- boxes

    async def ensure(self, spec: BoxSpec) -> BoxHandle:
        """Make the box and wait until its boxd answers, or return the one there is."""
        check_key(spec.key)
        await self.mend()
        async with self._lock(spec.key):
            record = self._maker.records.read(spec.key)
            if record is not None and record.complete:
                return self._handle(record)
            if record is not None:
                await finish(self._maker.remove, spec.key)
            await self._warm_up()
            return await self._create(spec, await self._suited(spec))

    async def _create(self, spec: BoxSpec, how: modes.Mode | Stronger, golden: str = "") -> BoxHandle:
        try:
            token = secrets.token_urlsafe(24)
            if not isinstance(how, modes.Mode):
                return self._handle(await how.bear(spec, token, golden))
            if not how.ours:
                record = await self._ways.bear(spec, how, token, golden)
                await self._first_words(record)
                return self._handle(record)
            birth = await finish(self._maker.prepare, spec, how, token, golden)
            return self._handle(await self._bear(birth))
        except BaseException as e:
            await finish(self._maker.remove, spec.key)
            await self._forget(spec.key)
            if isinstance(e, ExceptionGroup):
                raise e.exceptions[0] from None
            raise

    async def _bear(self, birth: Birth) -> Record:
        key = birth.record.key
        try:
            with birth.boxd:
                born, _ = await self._nursery.ask(birth.ask, (birth.boxd.fileno(),))
            self._maker.spares.came(birth.after)
        except BaseException:
            with contextlib.suppress(NotNow, Ambiguous):
                await self._nursery.tell({"op": "drop", "group": birth.ask["half"]["group"]})
                if birth.after is not None:
                    await self._nursery.tell({"op": "drop", "group": birth.after.group})
            await finish(self._maker.abandon, birth.after)
            raise
        failpoint.hit("ensure.asked")
        record = self._maker.confirm(birth.record, int(born["pid"]), int(born["start"]))
        failpoint.hit("ensure.confirmed")
        async with asyncio.TaskGroup() as both:
            both.create_task(self._first_words(record, birth.patience))
            both.create_task(finish(self._maker.records.sync, key))
            both.create_task(finish(self._maker.pool.settle))
        return record

    async def _forget(self, key: str) -> None:
        """Have the zygote drop the box's listening sockets; without a zygote there are none."""
        with contextlib.suppress(NotNow, Ambiguous):
            await self._nursery.tell({"op": "forget", "key": key})

    async def _first_words(self, record: Record, seconds: float = _HELLO_S) -> None:
        """Wait for boxd's hello; where it does not come, say what boxd logged."""
        try:
            if seconds:
                await hello.hello(self._maker.socket_path(record.key), seconds)
        except (ProviderError, TimedOut) as e:
            e.message = f"{e.message}; it said: {self._maker.last_log_line(record) or 'nothing'}"
            e.args = (e.message,)
            raise

    async def get(self, key: str) -> BoxHandle:
        """The box's present state."""
        return self._handle(await finish(self._require, key))

    async def list(self, tags: Mapping[str, str] | None = None) -> Sequence[BoxHandle]:
        """Every box with all ``tags``, those that were being created included."""
        wanted = (tags or {}).items()

        def look() -> Sequence[BoxHandle]:
            return [self._handle(r) for r in self._maker.records.all() if wanted <= r.tags.items()]

        return await finish(look)

    async def channel(self, key: str) -> Stream:
        """A stream to the box's boxd."""
        record = await finish(self._require, key)
        if not record.complete:
            raise NotNow(f"box {key} is still being created")
        try:
            return await hello.connect(self._maker.socket_path(key))
        except OSError as e:
            raise NotNow(f"the boxd of box {key} can't be reached: {e.strerror or e}") from None

    async def destroy(self, key: str) -> None:
        """Kill everything in the box and remove all it had. Gone already = success."""
        check_key(key)
        async with self._lock(key):
            record = await finish(self._maker.records.read, key)
            await finish(self._maker.remove, key)
            await self._forget(key)
            if record is not None:
                await finish(building.let_go, self._maker, record.golden)

    # ------------------------------------------------------------------------------ facets

    async def listeners(self, key: str) -> Mapping[int, socket.socket]:
        """New descriptors of the gateways' listening sockets inside the box."""
        record = await finish(self._require, key)
        if not record.ports:
            return {}
        ports = [record.places.port(p) for p in record.ports]
        ask = {"op": "listen", "key": key, "ports": ports, "pid": record.pid, "start": record.start}
        answer, sockets = await self._nursery.ask(ask)
        found = dict(zip((int(p) for p in answer["ports"]), sockets, strict=True))
        return {wanted: found[real] for wanted, real in zip(record.ports, ports, strict=True)}

    async def freeze(self, key: str) -> None:
        """Stop every process of the box at once. Idempotent."""
        await self._set_frozen(key, True)

    async def thaw(self, key: str) -> None:
        """Let them go on. Idempotent."""
        await self._set_frozen(key, False)

    async def _set_frozen(self, key: str, frozen: bool) -> None:
        async with self._lock(key):
            record = await finish(self._require, key)
            if not self._maker.alive(record):
                raise NotNow(f"box {key} has no processes left")
            try:
                await finish(self._maker.set_frozen, record, frozen)
            except TimeoutError as e:
                raise TimedOut(str(e)) from None

    async def golden_ready(self, golden: str, want: Sequence[GoldenPart]) -> bool:
        """True when ``golden`` exists and holds exactly these parts."""
        return await finish(self._maker.golden_ready, golden, want)

    async def build_golden(self, golden: str, want: Sequence[GoldenPart]) -> AsyncIterator[str]:
        """Build it beside the old one and swap; yields progress. One at a time."""
        async with (
            self._building,
            contextlib.aclosing(workshop.build(self._maker, self, golden, want)) as lines,
        ):
            async for line in lines:
                yield line

    async def open_bench(self, key: str, golden: str) -> tuple[Stream, Places]:
        """A box of the workshop (see ``workshop.Bench``); unknown to the hub, spared by sweeps."""
        self._private.add(key)
        handle = await self._create(BoxSpec(key=key, name=key), await self._decided(), golden)
        return await self.channel(key), handle.places

    async def close_bench(self, key: str) -> None:
        """See ``workshop.Bench``."""
        await self.destroy(key)
        self._private.discard(key)

    async def leaks(self, known: frozenset[str]) -> Sequence[Leak]:
        """What of this state folder is on this machine and belongs to no key in ``known``."""
        return [found.leak for found in await self._find(known)]

    async def sweep(self, known: frozenset[str]) -> Sequence[Leak]:
        """Remove it. One that can't be removed is not in the answer (and is found again)."""
        removed = []
        for found in await self._find(known):
            try:
                if found.remove is None:
                    await self._forget(found.leak.key)
                else:
                    await finish(found.remove)
                removed.append(found.leak)
            except (OSError, ProviderError) as e:
                log.warning("%s %s can't be removed: %s", found.leak.kind, found.leak.what, e)
        return removed

    async def _find(self, known: frozenset[str]) -> Sequence[Found]:
        mine = known | self._private | {key.removeprefix(SNAP_LOCK) for key in self._locks}
        zygote = await self._nursery.ping()
        return await finish(find_leaks, self._maker, mine, zygote, self._building.locked())

    # ----------------------------------------------------------------------------- inside

    def _require(self, key: str) -> Record:
        record = self._maker.records.read(check_key(key))
        if record is None:
            raise NotFound(f"there is no box {key}")
        return record

    def _handle(self, record: Record) -> BoxHandle:
        state = self._maker.state(record)
        memory: dict[str, Any] = {"golden": record.golden, "pid": record.pid, "hook_token": record.hook_token}
        return BoxHandle(
            key=record.key, state=state, isolation=record.isolation, tags=record.tags, memory=memory,
            places=record.places,
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def _lock(self, key: str) -> AsyncIterator[None]:
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)
