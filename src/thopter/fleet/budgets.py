"""Budgets as use cases: what may be spent and is, raising it, and telling people when it comes to its end.

The model gateway alone decides about calls; here its account is looked at. What is told is recorded with the
event that tells it, so that a hub that dies tells each thing once.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from thopter.fleet.budget_terms import (
    KINDS,
    account_of,
    budgets_of,
    people,
    policy_name,
    terms_of,
    units,
)
from thopter.fleet.budget_terms import terms as put_together
from thopter.fleet.delivery import event_of
from thopter.fleet.deps import Deps, request_mark
from thopter.fleet.live import LiveBox
from thopter.model.api.budget import BudgetAmount, BudgetLine, BudgetRequest, BudgetView
from thopter.model.budget import Limit, Terms, of_day, shown, words
from thopter.model.errors import BadInput, NotNow, ThopterError
from thopter.model.events import Event
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.ids import new_id
from thopter.model.nouns import Box, BoxState, Run, RunState, WaitReason
from thopter.store.budgets import Budget, Told
from thopter.store.store import Tx
from thopter.store.talk import Letter

log = logging.getLogger(__name__)

NEAR = 0.8
RENEW_S = 2.0  # until a changed policy or setting is in force
_WAIT_MS = 2_000
_PAUSE_S = 1.0
_UP = (BoxState.READY, BoxState.FROZEN)


class Budgets:
    """One per hub."""

    def __init__(self, deps: Deps) -> None:
        self.deps = deps
        self._next_renewal = 0.0
        self._sent: dict[str, Terms] = {}  # what the gateway was last told, by box; only saves calls
        self._said: set[Told] = set()  # of what has no price; only saves writes

    # ------------------------------------------------------------------------------ watching

    async def follow(self) -> None:
        """Look at what is spent whenever a call has ended, and keep the gateway's terms those that are in
        force (a policy or a setting may have changed), for ever."""
        boot, after = "", 0
        while True:
            try:
                page = await self.deps.gateways.model_log(after, _WAIT_MS)
                fresh, again = page.get("boot") != boot, bool(boot)
                boot, after = str(page.get("boot")), int(page.get("next", 0))
                if fresh and again:
                    after = 0  # another process counts from its own beginning
                await self._renew()
                records = page.get("records", [])
                await self._look(None if fresh else {str(r.get("box", "")) for r in records})
                for record in records:
                    await self._unpriced(record)
            except ThopterError as e:
                log.debug("budgets can't be looked at: %s", e.message)
                await self.deps.clock.sleep(_PAUSE_S)

    def _watched(self) -> Iterable[tuple[LiveBox, Run]]:
        for live in list(self.deps.crew.live.values()):
            if live.run is not None and live.box.state in _UP:
                yield live, live.run

    async def _renew(self) -> None:
        """At most every :data:`RENEW_S`, however many calls end."""
        if self.deps.clock.monotonic() < self._next_renewal:
            return
        self._next_renewal = self.deps.clock.monotonic() + RENEW_S
        said, given = await self.deps.store.budgets.all(), {}
        for live, run in self._watched():
            policy = policy_name(self.deps, live.box, run)
            if policy not in given:
                given[policy] = budgets_of(self.deps, policy)
            own = said.get(live.box.id) or Budget(box=live.box.id)
            terms = put_together(
                live.box, run, policy, given[policy], own, self.deps.settings, self.deps.owner
            )
            new = self._sent.get(live.box.id) != terms
            if new and await self.deps.gateways.model_terms(live.box.id, terms):
                self._sent[live.box.id] = terms

    async def _look(self, boxes: set[str] | None) -> None:
        now = self.deps.clock.now_ms()
        watched = [(live, run) for live, run in self._watched() if boxes is None or live.box.id in boxes]
        terms = {live.box.id: self._sent.get(live.box.id, Terms()) for live, _run in watched}
        accounts = {_account(limit, now) for t in terms.values() for limit in t.limits}
        if not accounts:
            return
        spent = (await self.deps.gateways.model_spent(sorted(accounts)))["spent"]
        for live, run in watched:
            for limit in terms[live.box.id].limits:
                told = news_of(limit, spent, now)
                if told is not None:
                    await self._tell(told, limit, int(spent[told.account][limit.what]), live.box, run)

    async def _tell(self, told: Told, limit: Limit, spent: int, box: Box, run: Run) -> None:
        now = self.deps.clock.now_ms()
        if told.level == "spent":
            text = words(limit, spent, box.name)
        else:
            text = f"{limit.whose} has used {shown(limit.what, spent)} of {shown(limit.what, limit.most)}"
            text += " today" if limit.daily else ""
        data = {
            "name": box.name, "level": told.level, "what": limit.what, "whose": limit.whose, "text": text,
            "spent": people(limit.what, spent), "most": people(limit.what, limit.most),
        }  # fmt: skip
        await self._once(told, Event(kind="run.budget", at_ms=now, box=box.id, run=run.id, data=data))

    async def _unpriced(self, record: Mapping[str, Any]) -> None:
        """Tell of a call that was not made as its price is not known: once for each limit, as nothing is
        spent that would tell it."""
        live, most = self.deps.crew.live.get(str(record.get("box", ""))), record.get("unpriced")
        if not isinstance(most, int) or most <= 0:
            return
        if live is None or live.run is None or record.get("run") != live.run.id:
            return
        told = Told(account_of(live.box.id), "usd", "unpriced", most)
        if told in self._said:
            return
        text = str(record.get("error") or "")[:300]
        data = {"name": live.box.name, "level": told.level, "what": told.what, "text": text}
        now = self.deps.clock.now_ms()
        await self._once(
            told, Event(kind="run.budget", at_ms=now, box=live.box.id, run=live.run.id, data=data)
        )
        self._said.add(told)

    async def _once(self, told: Told, event: Event) -> None:
        def both(tx: Tx) -> None:
            if tx.budgets.tell(told, event.at_ms):
                tx.events.append([event])

        await self.deps.store.write(both)

    # ------------------------------------------------------------------------------ use cases

    async def view(self, name: str) -> BudgetView:
        """What it may spend and has spent; NotNow while the gateway is away."""
        box, run = await self._run(name)
        return await self._view(box, await terms_of(self.deps, box, run))

    async def change(self, name: str, req: BudgetRequest) -> BudgetView:
        """Record it, give it to the gateway, and let an agent that was stopped go on."""
        box, run = await self._run(name)
        add, new = units(req.add), units(req.set)
        if not add and not new:
            raise BadInput("nothing is to be changed", hint="--add 5usd, or --set 10usd")
        live, now = self.deps.crew.live.get(box.id), self.deps.clock.now_ms()
        before = await terms_of(self.deps, box, run)
        bound = {li.what for li in before.limits if li.account == account_of(box.id)}
        for kind in add:
            if kind not in bound and kind not in new:
                raise BadInput(
                    f"{box.name} has no budget of {kind} that could be raised", hint="--set sets one"
                )
        raised = Evidence(
            source=Source.HUB, fact=Fact.BUDGET_RAISED, at_ms=now, seen_ms=now, detail="a person raised it"
        )
        said = {"name": box.name, "level": "raised", "text": _said(req)}
        token = request_mark.get().token

        def record(tx: Tx) -> None:
            had = tx.budgets.get(box.id)
            if token and had.token == token:
                return  # an earlier attempt at this very call
            own = had.own | new
            added = {k: v for k, v in had.added.items() if k not in new}
            added |= {k: added.get(k, 0) + v for k, v in add.items()}
            tx.budgets.put(Budget(box=box.id, own=own, added=added, token=token))
            tx.evidence.add(run.id, [raised])
            tx.events.append([Event(kind="run.budget", at_ms=now, box=box.id, run=run.id, data=said)])

        stopped = live is not None and _stopped(live)
        await self.deps.store.write(record)
        terms = await terms_of(self.deps, box, run)
        if await self.deps.gateways.model_terms(box.id, terms):
            self._sent[box.id] = terms
        view = await self._view(box, terms)
        if live is not None:
            live.learn([raised])
            await live.refold()
            has_room = all(line.spent < line.most for line in view.limits)
            if stopped and req.go_on and has_room:
                await self._go_on(live, run, now, token)
                view.told_to_go_on = True
        return view

    async def _go_on(self, live: LiveBox, run: Run, now: int, token: str) -> None:
        stem = hashlib.sha256(b"thopter budget\0" + token.encode()).hexdigest()[:26] if token else ""
        letter = Letter(
            id=f"msg_{stem}" if stem else new_id("msg", now), box=live.box.id, run=run.id, kind="tell",
            state="queued", text=str(self.deps.settings.get("budget.go_on_text")), created_ms=now,
            changed_ms=now,
        )  # fmt: skip
        await self.deps.store.talk.add(letter, event_of(letter, live.box.name, now))
        await live.posted()

    async def _view(self, box: Box, terms: Terms) -> BudgetView:
        now, own = self.deps.clock.now_ms(), account_of(box.id)
        accounts = {own, *(_account(limit, now) for limit in terms.limits)}
        found = await self.deps.gateways.model_spent(sorted(accounts))
        spent: Mapping[str, Mapping[str, Any]] = found["spent"]
        lines = [
            BudgetLine(
                what=li.what, whose=li.whose, most=people(li.what, li.most), daily=li.daily,
                spent=people(li.what, int(spent[_account(li, now)][li.what])),
                text=f"{shown(li.what, int(spent[_account(li, now)][li.what]))} of {shown(li.what, li.most)}",
            )
            for li in terms.limits
        ]  # fmt: skip
        mine = {k: people(k, int(spent[own][k])) for k in KINDS}
        total = BudgetAmount(
            usd=mine["usd"], tokens=int(mine["tokens"]), turns=int(mine["turns"]), hours=mine["hours"]
        )
        return BudgetView(
            name=box.name, box=box.id, limits=lines, spent=total, cut_off=int(spent[own]["cut"]),
            under_way=int(spent[own]["under_way"]), problem=str(found.get("problem") or ""),
        )  # fmt: skip

    async def _run(self, name: str) -> tuple[Box, Run]:
        box = await self.deps.store.boxes.find(name)
        run = await self.deps.crew.run_of(box.id)
        if run is None:
            raise NotNow(f"{box.name} has no run")
        return box, run


def news_of(limit: Limit, spent: Mapping[str, Mapping[str, Any]], now_ms: int) -> Told | None:
    """What there is to tell about a limit, whether or not it was told before; pure."""
    account = _account(limit, now_ms)
    used = int(spent.get(account, {}).get(limit.what, 0))
    if used >= limit.most:
        return Told(account, limit.what, "spent", limit.most)
    return Told(account, limit.what, "near", limit.most) if used >= NEAR * limit.most else None


def _account(limit: Limit, now_ms: int) -> str:
    return of_day(limit.account, now_ms) if limit.daily else limit.account


def _stopped(live: LiveBox) -> bool:
    return (live.verdict.state, live.verdict.reason) == (RunState.WAITING, WaitReason.BUDGET)


def _said(req: BudgetRequest) -> str:
    parts: Sequence[tuple[str, BudgetAmount]] = (("set to", req.set), ("raised by", req.add))
    return "; ".join(
        f"{how} {', '.join(shown(k, v) for k, v in units(a).items())}"  # type: ignore[arg-type]
        for how, a in parts
        if units(a)
    )
