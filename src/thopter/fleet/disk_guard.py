"""The guard of this machine's disk: boxes stand still before it is full, and go on when there is room.

A full disk below the boxes' image makes the kernel give the image up, and what was not written yet is
lost. A box that stands still writes nothing, so nothing of it can be lost.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Awaitable, Callable

from msgspec import structs

from thopter.fleet.deps import Deps
from thopter.fleet.live import LiveBox
from thopter.model.errors import ThopterError
from thopter.model.nouns import BoxState
from thopter.model.sockets import Mends, Suspends

HOLD_BYTES = 384 << 20
GO_BYTES = 768 << 20
HELD = "held: the disk is nearly full; it goes on by itself when there is room"
log = logging.getLogger(__name__)


class DiskGuard:
    """Looks at the disk of the state folder. ``freeze`` and ``thaw`` are the fleet's own.

    Which boxes it holds is in their records, so a restart of the hub forgets none."""

    def __init__(
        self,
        deps: Deps,
        freeze: Callable[[str], Awaitable[object]],
        thaw: Callable[[str], Awaitable[object]],
        free: Callable[[str], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self.deps = deps
        self._freeze = freeze
        self._thaw = thaw
        self._free = free
        self._low = False

    async def look(self) -> None:
        """Hold or let go of the boxes that write on this machine's disk. One box's trouble is logged."""
        free = self._free(str(self.deps.paths.state))
        self._low = free < (GO_BYTES if self._low else HOLD_BYTES)
        stopped = set()
        for live in list(self.deps.crew.live.values()):
            provider = self.deps.providers[live.box.provider]
            if not (isinstance(provider, Mends) and isinstance(provider, Suspends)):
                continue
            held = live.box.state is BoxState.FROZEN and live.box.problem == HELD
            try:
                if self._low and live.box.state is BoxState.READY:
                    await self._hold(live, free)
                    stopped.add(live.box.provider)
                elif not self._low and held:
                    log.info("%s goes on: there is room on the disk again", live.box.name)
                    await self._thaw(live.box.name)
                    await self._say(live, "")
            except ThopterError as e:
                log.error("%s: the guard of the disk: %s", live.box.name, e.message)

        for name in stopped:
            provider = self.deps.providers[name]
            assert isinstance(provider, Mends)  # it was asked above
            await provider.flush()

    async def _hold(self, live: LiveBox, free: int) -> None:
        log.warning("%s stands still: only %d MiB are free", live.box.name, free >> 20)
        await self._freeze(live.box.name)
        await self._say(live, HELD)

    async def _say(self, live: LiveBox, problem: str) -> None:
        box = structs.replace(live.box, problem=problem)
        await self.deps.store.boxes.update(box)
        live.box = box
