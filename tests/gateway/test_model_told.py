"""The hub beside a real model gateway: its terms get there whatever happens, what is to be told is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from gateway_support import Home, ask, eventually, in_loop, kill, listener, plain, port_of, request, upstream
from model_rig import BOX_HEADERS
from test_model_budget import BODY, answer

from thopter.fleet.accept import Acceptor
from thopter.fleet.budgets import Budgets
from thopter.fleet.crew import Crew
from thopter.fleet.deps import Deps
from thopter.fleet.live import LiveBox
from thopter.fleet.ports import MODEL_PORT, EgressRoute, ModelRoute
from thopter.flow.engine import FlowEngine
from thopter.gateway.client import GatewayDown
from thopter.hub.gateways import HubGateways
from thopter.hub.shelf import Shelf
from thopter.kit.clock import SystemClock
from thopter.kit.paths import Paths
from thopter.kit.secrets import SecretStore
from thopter.kit.settings import Settings
from thopter.model.api.budget import BudgetAmount, BudgetRequest
from thopter.model.events import Event
from thopter.model.ids import BoxId, RunId
from thopter.model.nouns import Box, BoxState, Run, RunState
from thopter.store.budgets import Budget
from thopter.store.events import EventFilter
from thopter.store.store import Store

DOLLAR = 10**12


class AheadClock(SystemClock):
    """A clock that can be put forward."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class Lab:
    """One thopter, ``heron``, with a real store and a real model gateway before an endpoint whose prices
    nobody knows."""

    def __init__(self, place: Home, store: Store, url: str) -> None:
        self.place, self.store, self.url = place, store, url
        paths = Paths(place.state, place.run, place.root / "config")
        secrets = SecretStore(paths, {}, "file")
        shelf, self.clock = Shelf(paths, secrets), AheadClock()

        async def looked() -> None: ...

        self.gateways = HubGateways(paths, secrets, shelf, looked)
        nothing: Any = cast(Any, None)
        self.deps = Deps(
            paths=paths, settings=Settings({}), clock=self.clock, store=store,
            engine=FlowEngine(place.state / "flows.db"), providers={}, agents={}, gateways=self.gateways,
            mirrors=nothing, upstreams=nothing, policies=shelf, postman=nothing, owner="me",
            identity=("me", "me@x"), credential_problem=lambda _: "",
        )  # fmt: skip
        self.crew = Crew(self.deps, Acceptor(self.deps))
        self.budgets = Budgets(self.deps)
        self.door = listener()

    async def begin(self) -> None:
        now = self.clock.now_ms()
        box = Box(
            id=BoxId("box_heron"), name="heron", provider="local", state=BoxState.READY, created_ms=now,
            changed_ms=now,
        )  # fmt: skip
        run = Run(
            id=RunId("run_heron"), box=box.id, agent="claude", prompt="mend it", state=RunState.WORKING,
            created_ms=now, changed_ms=now,
        )  # fmt: skip
        await self.store.boxes.insert(box)
        await self.store.runs.insert(run)
        self.crew.live[box.id] = LiveBox(self.deps, box, run, None)

    async def attach(self) -> None:
        """Serve it, by terms that have no limit."""
        route, egress = ModelRoute(upstream=self.url), EgressRoute(name="heron", policy="default")
        await self.gateways.attach("box_heron", "run_heron", {MODEL_PORT: self.door}, route, None, egress)

    async def may_spend(self, **own: int) -> None:
        await self.store.write(lambda tx: tx.budgets.put(Budget(box="box_heron", own=own)))

    async def renew(self) -> None:
        self.clock.ahead += 10
        await self.budgets._renew()

    async def call(self) -> int:
        reply = await ask(port_of(self.door), request("POST", "/v1/messages", BODY, BOX_HEADERS))
        return reply.status

    async def told(self) -> list[Event]:
        page = await self.store.events.read(0, 1000, EventFilter(kinds=("run.budget",)))
        return [e for e in page.events if e.data.get("level") == "unpriced"]

    async def restart_gateway(self, *, up: bool = True) -> None:
        pid = self.place.pids[-1]
        await asyncio.to_thread(kill, pid)
        if up:
            self.place.pids.append((await self.gateways.model.ensure()).pid)


@asynccontextmanager
async def lab(place: Home) -> AsyncIterator[Lab]:
    await place.start("model")
    store = await Store.open(place.state / "hub.db")
    try:
        async with upstream(plain(answer())) as (_up, port):
            made = Lab(place, store, f"http://127.0.0.1:{port}")
            await made.begin()
            yield made
            await made.gateways.stop(end_processes=False)
            made.door.close()
    finally:
        await store.close()


@in_loop
async def test_terms_that_no_gateway_took_are_sent_again(place: Home) -> None:
    async with lab(place) as made:
        await made.may_spend(turns=1)
        await made.renew()  # it is not served yet
        await made.attach()
        await made.renew()
        assert [await made.call() for _ in range(2)] == [200, 402]
        await made.restart_gateway(up=False)
        await made.may_spend(turns=2)
        await made.renew()
        await made.restart_gateway()
        await made.renew()
        assert [await made.call() for _ in range(2)] == [200, 402]


@in_loop
async def test_a_budget_that_was_raised_while_the_gateway_was_down_is_in_force_when_it_is_back(
    place: Home,
) -> None:
    async with lab(place) as made:
        await made.attach()
        await made.may_spend(turns=1)
        await made.renew()
        assert [await made.call() for _ in range(2)] == [200, 402]
        await made.restart_gateway(up=False)
        with pytest.raises(GatewayDown):
            await made.budgets.change("heron", BudgetRequest(add=BudgetAmount(turns=1)))
        await made.restart_gateway()
        await made.renew()
        assert [await made.call() for _ in range(2)] == [200, 402]


@in_loop
async def test_a_call_that_was_not_made_for_want_of_a_price_is_told_once_for_each_budget(
    place: Home,
) -> None:
    async with lab(place) as made, asyncio.TaskGroup() as group:
        await made.attach()

        async def refused(dollars: int, times: int) -> None:
            await made.may_spend(usd=dollars * DOLLAR)
            await made.renew()
            assert [await made.call() for _ in range(times)] == [402] * times

        async def count(wanted: int) -> list[Event]:
            async def there() -> list[Event]:
                found = await made.told()
                return found if len(found) >= wanted else []

            found = await eventually(there)
            assert len(found) == wanted, [e.data for e in found]
            return list(found)

        hub = group.create_task(made.budgets.follow())
        await refused(1, times=3)
        (event,) = await count(1)
        assert (event.box, event.run, event.data["name"]) == ("box_heron", "run_heron", "heron")
        text = event.data["text"]
        assert "price of claude-sonnet-4-5" in text and "prices.endpoints" in text
        await refused(2, times=2)
        await count(2)
        hub.cancel()
        made.budgets = Budgets(made.deps)  # the next hub reads from the beginning what the gateway still has
        hub = group.create_task(made.budgets.follow())
        await refused(3, times=1)
        await count(3)
        await made.restart_gateway()
        await made.attach()
        await refused(4, times=1)
        await count(4)
        hub.cancel()
    page = json.dumps([e.data for e in await _all(place)])
    assert '"spent"' not in page, "nothing was spent, and nobody is told that it was"


async def _all(place: Home) -> list[Event]:
    store = await Store.open(place.state / "hub.db")
    try:
        return list((await store.events.read(0, 1000, EventFilter(kinds=("run.budget",)))).events)
    finally:
        await store.close()
