"""Keeps mirrors near what they mirror: now and then while a box uses them, and when a person asks."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from thopter.fleet.deps import Deps
from thopter.fleet.egress import policy_of
from thopter.fleet.furnish import repos_of
from thopter.fleet.live import LiveBox
from thopter.model.errors import ThopterError
from thopter.model.nouns import RepoRef

log = logging.getLogger(__name__)
_LOOK_S = 15.0


class Refresher:
    """One per hub. A mirror that can't be refreshed serves what it has; the reason is logged once."""

    def __init__(self, deps: Deps, live: Mapping[str, LiveBox]) -> None:
        self._deps = deps
        self._live = live
        self._last_ms: dict[str, int] = {}
        self._problems: dict[str, str] = {}

    async def watch(self) -> None:
        """Refresh, for ever, what boxes use, every ``git.refresh_minutes``."""
        while True:
            await self._deps.clock.sleep(_LOOK_S)
            every_ms = int(self._deps.settings.get("git.refresh_minutes")) * 60_000
            boxes = [(b.box, b.run) for b in list(self._live.values()) if b.run]
            used = {r.slug: (r, policy_of(self._deps, box, run)) for box, run in boxes for r in repos_of(run)}
            now = self._deps.clock.now_ms()
            for slug, (ref, policy) in used.items():
                if every_ms and now - self._last_ms.setdefault(slug, now) >= every_ms:
                    await self._try(ref, policy)

    async def _try(self, ref: RepoRef, policy: str) -> None:
        try:
            await self.now(ref, policy)
        except ThopterError as e:
            if self._problems.get(ref.slug) != e.message:
                log.warning("the mirror of %s serves what it has: %s", ref.source, e.message)
            self._problems[ref.slug] = e.message
        else:
            self._problems.pop(ref.slug, None)

    async def now(self, ref: RepoRef, policy: str) -> None:
        """Bring what is new into the mirror, logged in as ``policy`` says; boxes' own branches stay. Raises
        what the failure means, and nothing has changed then."""
        self._last_ms[ref.slug] = self._deps.clock.now_ms()
        branch = "" if ref.branch == "HEAD" else ref.branch
        await self._deps.mirrors.prepare(ref.source, branch, policy)
