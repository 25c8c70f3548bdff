"""The facet Mends: the boxes' btrfs image, which the kernel makes read-only when the disk below it was full.

Nothing can be written in such a box any more, and only mounting the image anew cures it. So all boxes
on it are ended (what they had on the disk stays), and it is mounted again as soon as there is room.
"""

from __future__ import annotations

import logging

from thopter.kit.threads import finish
from thopter.model.errors import NotFound, ProviderError
from thopter.providers.local.core import Core

log = logging.getLogger(__name__)


class Mending(Core):
    """See the module docstring."""

    async def mend(self) -> str:
        """Repair what can be repaired; the sentence for people about what can't be yet, else empty."""
        pool = self._maker.pool
        if not await finish(pool.broken):
            return ""
        async with self._mending:
            if not await finish(pool.broken):
                return ""
            await self._end_all()
            try:
                await finish(pool.remount)
            except (OSError, ProviderError) as e:
                return (
                    f"the boxes' disk {pool.folder} went read-only, as the disk below it was full or failed;"
                    f" their processes were ended, their files are there ({e})"
                )
            log.warning("the boxes' disk %s was read-only and is mounted again", pool.folder)
            return ""

    async def flush(self) -> None:
        """Boxes write through volatile overlays, in which fsync does nothing: this is theirs."""
        await finish(self._maker.pool.flush)

    async def _end_all(self) -> None:
        """End every box, and with the zygote the spare builders: each holds the old mount."""
        for record in await finish(self._maker.records.all):
            async with self._lock(record.key):
                try:
                    now = await finish(self._require, record.key)
                except NotFound:
                    continue
                await finish(self._maker.end, now)
        await self._nursery.stop()
        for spare in self._maker.spares.forget():
            await finish(self._maker.abandon, spare)
        self._cool_down()
