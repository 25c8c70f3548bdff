"""What the facets of the local provider need of its core."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from thopter.model.sockets import BoxHandle, BoxSpec
from thopter.providers.local import modes
from thopter.providers.local.maker import Birth, Maker
from thopter.providers.local.nursery import Nursery
from thopter.providers.local.record import Record

if TYPE_CHECKING:
    from thopter.providers.local.tiers import Stronger


class Core:
    """Implemented by LocalProvider; facets are written against it, each in a file of its own."""

    _maker: Maker
    _nursery: Nursery
    _mending: asyncio.Lock
    _private: set[str]  # keys of boxes that are our own business

    def _lock(self, key: str) -> AbstractAsyncContextManager[None]:
        """Nobody else works on ``key`` (and no sweep takes it away) while the block runs."""
        raise NotImplementedError

    def _require(self, key: str) -> Record:
        """Its record, or NotFound. Blocking."""
        raise NotImplementedError

    def _handle(self, record: Record) -> BoxHandle:
        """What the hub is told of it."""
        raise NotImplementedError

    def _cool_down(self) -> None:
        """The next box has to :meth:`_warm_up` again."""
        raise NotImplementedError

    async def mend(self) -> str:
        """See the facet Mends."""
        raise NotImplementedError

    async def _warm_up(self) -> None:
        """Have all that new boxes need."""
        raise NotImplementedError

    async def _decided(self) -> modes.Mode:
        """How boxes are made here; Refused."""
        raise NotImplementedError

    async def _create(self, spec: BoxSpec, how: modes.Mode | Stronger, golden: str = "") -> BoxHandle:
        """Make a box that way, all or nothing."""
        raise NotImplementedError

    async def destroy(self, key: str) -> None:
        """See the socket Provider."""
        raise NotImplementedError

    async def _revived(self, old: Record, spec: BoxSpec) -> Record:
        """Have a box without processes made again on its files, as a kind no weaker than it was."""
        raise NotImplementedError

    async def _bear(self, birth: Birth) -> Record:
        """Have the zygote make a prepared box, and wait until its boxd answers. On an error the
        builder is gone; the rest of the box is the caller's to remove."""
        raise NotImplementedError

    async def _forget(self, key: str) -> None:
        """Have the zygote drop the box's listening sockets."""
        raise NotImplementedError
