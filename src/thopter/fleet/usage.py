"""Tokens and money: reads the model gateway's books into the store, each call once, and tells totals."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from thopter.fleet import prices
from thopter.fleet.deps import Deps
from thopter.model.api import ThopterView
from thopter.model.api.usage import ModelUse, RunUsage, Usage, UsageReport
from thopter.model.errors import ThopterError
from thopter.model.nouns import BoxState
from thopter.store.usage import Used

log = logging.getLogger(__name__)

_WAIT_MS = 10_000
_PAUSE_S = 1.0
_INT_MAX = 1 << 40
_LOST = "lost"  # the mark under which lines are counted that nobody could read


class Usages:
    """The use cases of ``hub/api/usage.py``. What is told is what is in the store: after kill -9 of hub
    or gateway the books are read on from where they were counted to."""

    def __init__(self, deps: Deps) -> None:
        self.deps = deps

    async def follow(self) -> None:
        """Count whenever the gateway has answered calls, for ever."""
        boot, after = "", 0
        while True:
            try:
                await self.drain()
                page = await self.deps.gateways.model_log(after, _WAIT_MS)
            except ThopterError as e:
                log.debug("the model gateway's books can't be read: %s", e.message)
                await self.deps.clock.sleep(_PAUSE_S)
                continue
            after = int(page.get("next", 0)) if page.get("boot") == boot else 0
            boot = str(page.get("boot"))

    async def drain(self) -> None:
        """Count every line of every book that has not been counted; let go of full books."""
        gateways, store = self.deps.gateways, self.deps.store.usage
        for name in await gateways.model_books():
            after, current = await store.mark(name), True
            while True:
                page = await gateways.model_book(name, after)
                current = bool(page.get("current"))
                if after == 0 and page.get("lost"):
                    await self._lost(name, int(page["lost"]))
                lines = page.get("lines") or []
                if not lines:
                    break
                line = after + len(lines)
                if not await store.count(name, after, line, _added(lines, self._prices())):
                    break  # somebody else counts: look again next time
                after = line
            if not current:
                await gateways.forget_book(name)
                await store.forget(name)

    def _prices(self) -> prices.Prices:
        return prices.table(str(self.deps.settings.get("prices.endpoints")))

    async def _lost(self, book: str, lines: int) -> None:
        """Remember once, by the book that says so, that lines were thrown away unread."""
        store = self.deps.store.usage
        if await store.mark(f"{_LOST}:{book}") == 0:
            await store.count(f"{_LOST}:{book}", 0, lines, [])
            before = await store.mark(_LOST)
            await store.count(_LOST, before, before + lines, [])

    async def shown(self, views: list[ThopterView]) -> list[ThopterView]:
        """Say on each line what its run used."""
        by_run = _by_run(await self.deps.store.usage.of())
        for view in views:
            if view.run in by_run:
                view.usage = total(by_run[view.run], models=len(views) == 1)
        return views

    async def report(self, name: str = "", everything: bool = False) -> UsageReport:
        """By run: of one thopter, or of all (``everything``: also of those that are gone)."""
        store = self.deps.store
        if name:
            found = await store.boxes.find(name)
            boxes = {str(found.id): found}
        else:
            boxes = {str(b.id): b for b in await store.boxes.list(gone=everything)}
        used = [u for u in await store.usage.of(next(iter(boxes)) if name else "") if u.box in boxes]
        runs = [
            RunUsage(
                name=boxes[part[0].box].name, box=part[0].box, run=run, usage=total(part),
                gone=boxes[part[0].box].state is BoxState.GONE,
            )
            for run, part in sorted(_by_run(used).items())
        ]  # fmt: skip
        lost = await store.usage.mark(_LOST)
        return UsageReport(runs=runs, total=total(used), prices=prices.table().checked, lost=lost)


def _added(lines: Sequence[dict[str, Any]], table: prices.Prices) -> list[Used]:
    """What the lines say; one that makes no sense counts nothing."""
    found = []
    for line in lines:
        run, at, status = line.get("run"), line.get("at_ms"), line.get("status")
        if not isinstance(run, str) or not run or not isinstance(at, int) or not isinstance(status, int):
            log.warning("a line of the model gateway's book makes no sense")
            continue
        given = line.get("tokens")
        tokens = given if isinstance(given, dict) else {}
        n = {k: v for k, v in tokens.items() if isinstance(v, int) and 0 <= v < _INT_MAX}
        read, written = n.get("cache_read_input_tokens", 0), n.get("cache_creation_input_tokens", 0)
        good = 200 <= status < 300
        told, where = str(line.get("model") or ""), str(line.get("endpoint") or "")
        model = prices.at_endpoint(told, where, table)
        found.append(
            Used(
                run=run, model=model, box=str(line.get("box") or ""),
                day=time.strftime("%Y-%m-%d", time.gmtime(min(max(at, 0), 1 << 43) / 1000)),
                band=prices.band(n.get("input_tokens", 0) + read + written),
                requests=int(good), failed=int(not good), input=n.get("input_tokens", 0),
                output=n.get("output_tokens", 0), cache_read=read, cache_write=written,
                cache_write_1h=min(n.get("cache_1h_input_tokens", 0), written), first_ms=at, last_ms=at,
            )
        )  # fmt: skip
    return found


def _by_run(used: Iterable[Used]) -> dict[str, list[Used]]:
    found: dict[str, list[Used]] = {}
    for u in used:
        found.setdefault(u.run, []).append(u)
    return found


def total(used: Sequence[Used], models: bool = True) -> Usage:
    """Added up; ``models``: also by model."""
    sums = Usage(
        requests=sum(u.requests for u in used),
        failed=sum(u.failed for u in used),
        input_tokens=sum(u.input for u in used),
        output_tokens=sum(u.output for u in used),
        cache_read_tokens=sum(u.cache_read for u in used),
        cache_write_tokens=sum(u.cache_write for u in used),
        cache_write_1h_tokens=sum(u.cache_write_1h for u in used),
        first_ms=min((u.first_ms for u in used), default=0),
        last_ms=max((u.last_ms for u in used), default=0),
    )
    costs = [prices.cost(u, prices.table()) for u in used]
    known = sum((c for c in costs if c is not None), Decimal(0))
    sums.known_usd = float(known)
    sums.cost_usd = float(known) if None not in costs else None
    if models:
        names = dict.fromkeys(u.model for u in used if u.model)
        sums.models = [_of_model(name, [u for u in used if u.model == name]) for name in names]
    return sums


def _of_model(name: str, used: Sequence[Used]) -> ModelUse:
    all_of_it = total(used, models=False)
    return ModelUse(
        model=name, requests=all_of_it.requests, failed=all_of_it.failed,
        input_tokens=all_of_it.input_tokens, output_tokens=all_of_it.output_tokens,
        cache_read_tokens=all_of_it.cache_read_tokens, cache_write_tokens=all_of_it.cache_write_tokens,
        cache_write_1h_tokens=all_of_it.cache_write_1h_tokens, cost_usd=all_of_it.cost_usd,
    )  # fmt: skip
