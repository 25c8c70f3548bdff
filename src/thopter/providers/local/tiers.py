"""The facet Tiers: boxes stronger than the usual ones, each kind in a file of its own.

The ladder is climbed from below: a box gets the first kind that is strong enough and can be had here.
Whether one can be had is found by making a box of it, once, when somebody first wants to know. What
could not be had is tried again a minute later, and by ``thopter doctor`` at once.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from typing import ClassVar, Protocol

import msgspec

from thopter.kit.threads import finish
from thopter.model.errors import ProviderError, Refused, ThopterError, Unsupported
from thopter.model.nouns import Isolation
from thopter.model.sockets import BoxSpec, Caps
from thopter.model.tiers import stronger, weaker
from thopter.providers.local import goldens, modes
from thopter.providers.local.core import Core
from thopter.providers.local.record import Record

PROBE_S = 300.0  # the first virtual machine boots a kernel, by emulation perhaps
_AGAIN_S = 60.0
ASKED_FOR = frozenset({"gvisor", "vm"})  # values of local.isolation that mean: every box at least so


class Stronger(Protocol):
    """A kind of box that is stronger than the usual one. A box of it has a record, a control group, a
    socket and a first process as every box has (so that it is frozen, found and removed like one).
    Errors are ProviderError in a person's words, its hint saying how to get what is missing."""

    isolation: ClassVar[Isolation]

    def check(self) -> None:
        """Raise at once when what it takes is not installed. Blocking, some ms."""

    def caps(self, usual: Caps) -> Caps:
        """What its boxes can, told from what usual boxes here can; ``missing`` says why they can't more."""

    async def bear(self, spec: BoxSpec, token: str, golden: str) -> Record:
        """Make the box and wait until its boxd answers; see ``Ways.bear``. The caller removes what an
        error leaves."""

    async def revive(self, old: Record, spec: BoxSpec) -> Record:
        """Start it again on its files (facet ``stops``); Unsupported where that can't be."""


class Tiering(Core):
    """See the module docstring. ``_ladder``: weakest first; ``_had``: what is known of each kind, and
    when (monotonic seconds) it was found."""

    _ladder: tuple[Stronger, ...]
    _had: dict[Isolation, tuple[str, float]]
    _climbing: dict[Isolation, asyncio.Lock]
    _private: set[str]

    async def tiers(self, again: bool = False) -> Mapping[Isolation, str]:
        """See :class:`thopter.model.tiers.Tiers`."""
        async with asyncio.TaskGroup() as every:
            found = {w.isolation: every.create_task(self._why_not(w, again)) for w in self._ladder}
        return {kind: task.result() for kind, task in found.items()}

    def _least(self, spec: BoxSpec | None) -> str:
        """The least tier for that box: what it asks for, and the setting for all."""
        asked = str(self._maker.settings.get("local.isolation"))
        return stronger(spec.isolation if spec else "", asked if asked in ASKED_FOR else "")

    async def _suited(self, spec: BoxSpec) -> modes.Mode | Stronger:
        """How that box is to be made; Refused, with the reasons, when it can't be made strong enough."""
        least = self._least(spec)
        if not weaker(Isolation.CONTAINER, least):
            mode = await self._decided()
            if not weaker(mode.isolation, least):
                return mode
        reasons = []
        for way in self._ladder:
            if not weaker(way.isolation, least):
                if not (why := await self._why_not(way)):
                    return way
                reasons.append(f"{way.isolation}: {why}")
        raise Refused(
            f"no box of isolation {least!r} can be made on this machine: {'; '.join(reasons) or 'not known'}",
            hint="'thopter doctor' tries again and says what can be had here",
        )

    async def _tier_caps(self, least: str, usual: Caps) -> Caps:
        """Caps of the cheapest kind that is at least ``least``, or the usual ones and why there is none."""
        if not weaker(usual.isolation, least):
            return usual
        reasons: dict[str, str] = {}
        for way in self._ladder:
            if not weaker(way.isolation, least):
                if not (why := await self._why_not(way)):
                    return way.caps(usual)
                reasons[way.isolation.value] = why
        why = "; or ".join(reasons.values()) or f"no isolation {least!r} is known here"
        return msgspec.structs.replace(usual, missing={**usual.missing, **reasons, least: why})

    async def _why_not(self, way: Stronger, again: bool = False) -> str:
        """Empty when a box of that kind was made here."""
        async with self._climbing.setdefault(way.isolation, asyncio.Lock()):
            known = self._had.get(way.isolation)
            if known is not None:
                why, at = known
                fresh = not again and (not why or time.monotonic() - at < _AGAIN_S)
                if fresh or (not why and not await self._broken(way)):
                    return why
            why = await self._broken(way) or await self._try(way)
            self._had[way.isolation] = (why, time.monotonic())
            return why

    async def _broken(self, way: Stronger) -> str:
        try:
            await finish(way.check)
        except ProviderError as e:
            return _words(e)
        return ""

    async def _try(self, way: Stronger) -> str:
        """Make one and remove it."""
        key = "probe-" + secrets.token_hex(6)
        self._private.add(key)
        try:
            await self._warm_up()
            async with asyncio.timeout(PROBE_S):
                await self._create(BoxSpec(key=key, name=key, golden=goldens.BASE), way)
        except TimeoutError:
            return f"a box of it did not come up within {PROBE_S:.0f} s"
        except ThopterError as e:
            return _words(e)
        finally:
            await self.destroy(key)
            self._private.discard(key)
        return ""

    def _way_of(self, record: Record) -> Stronger | None:
        """The kind that made a box; None for the usual ones."""
        return next((w for w in self._ladder if w.isolation is record.isolation), None)

    async def _revived(self, old: Record, spec: BoxSpec) -> Record:
        """Start a box again, never as a weaker kind than it was, nor weaker than is asked for now."""
        if weaker(old.isolation, self._least(spec)):
            raise Unsupported(f"box {old.key} was made as {old.isolation}, weaker than is asked for now")
        if (way := self._way_of(old)) is not None:
            return await way.revive(old, spec)
        modes.must_be_ours(old.isolation, "started again")
        mode = await self._decided()
        modes.must_be_ours(mode.isolation, "started again")
        return await self._bear(await finish(self._maker.prepare_again, old, spec, mode))


def _words(e: ThopterError) -> str:
    return f"{e.message}: {e.hint}" if e.hint else e.message
