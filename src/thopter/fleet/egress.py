"""Policies and egress as use cases: what is in force, what was refused, and a person's word about it.

The gateway's log becomes events, each exactly once: the place in the log and the events are recorded
together. What a gateway that died had not told yet is in its own log file only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from thopter.fleet.boxnet import chosen
from thopter.fleet.deps import Deps
from thopter.fleet.live import LiveBox
from thopter.fleet.ports import EgressRoute
from thopter.model.api.egress import (
    Allowed,
    AllowRequest,
    EgressLine,
    EgressView,
    Findings,
    Grant,
    PolicyBook,
    PolicyText,
    TryRequest,
    Verdict,
)
from thopter.model.errors import NotNow, Refused, ThopterError
from thopter.model.events import Event
from thopter.model.nouns import Box, BoxState, Run
from thopter.store.egress import GrantRow
from thopter.store.events import EventFilter
from thopter.store.store import Tx

log = logging.getLogger(__name__)
KINDS = {"deny": "egress.denied", "ask": "egress.asked"}
USED = {"use": "secret.used"}
_PAUSE_S = 1.0
_WAIT_MS = 10_000
_UP = (BoxState.READY, BoxState.FROZEN)
_KEPT = (
    "verdict",
    "code",
    "reason",
    "scheme",
    "method",
    "host",
    "port",
    "path",
    "rule",
    "status",
    "count",
    "secret",
)
Spawn = Callable[[str, Coroutine[Any, Any, Any]], object]


def policy_of(deps: Deps, box: Box, run: Run | None) -> str:
    """The name of the policy chosen for a box."""
    policy = str(chosen(box).get("name") or "")
    if not policy:  # made before there were policies, or ahead of its run
        source = run.repo.source if run is not None and run.repo is not None else ""
        policy = str(deps.policies.choose("", source)["name"])
    return policy


async def route_of(deps: Deps, box: Box, run: Run | None) -> EgressRoute:
    """How a box may go out: the policy chosen for it and what it was allowed besides."""
    policy = policy_of(deps, box, run)
    grants = tuple((g.host, g.port) for g in await deps.store.egress.grants(box.id))
    return EgressRoute(name=box.name, policy=policy, grants=grants)


class Egress:
    """One per hub."""

    def __init__(self, deps: Deps, live: Mapping[str, LiveBox]) -> None:
        self._deps = deps
        self._live = live

    async def start(self, spawn: Spawn) -> None:
        """Begin to read the gateway's log, until the fleet stops."""
        spawn("egress log", self._follow())

    # ------------------------------------------------------------------------------ the log

    async def _follow(self) -> None:
        boot, after = await self._deps.store.egress.cursor()
        while True:
            try:
                page = await self._deps.gateways.egress_log(after, _WAIT_MS)
                if page.get("boot") != boot:
                    boot, after = str(page.get("boot")), 0
                    page = await self._deps.gateways.egress_log(0, 0)
                if page.get("boot") == boot and int(page["next"]) > after:
                    after = int(page["next"])
                    await self._keep(boot, after, page)
            except ThopterError as e:
                log.debug("the egress gateway's log can't be read: %s", e.message)
                await self._deps.clock.sleep(_PAUSE_S)

    async def _keep(self, boot: str, after: int, page: Mapping[str, Any]) -> None:
        events = [self._event(r) for r in page.get("records", []) if r.get("verdict") in KINDS | USED]
        if page.get("dropped"):
            log.warning("%d records of the egress gateway were lost", page["dropped"])
        if not events:
            return  # a place without news need not be kept: reading again costs nothing

        def record(tx: Tx) -> None:
            tx.egress.set_cursor(boot, after)
            tx.events.append(events)

        await self._deps.store.write(record)

    def _event(self, record: Mapping[str, Any]) -> Event:
        box = str(record.get("box", ""))
        live = self._live.get(box)
        data = {k: record[k] for k in _KEPT if record.get(k)} | {"name": live.box.name if live else ""}
        kind = (KINDS | USED)[record["verdict"]]
        if kind in USED.values():
            data["credential"] = data.pop("code", "")
        return Event(
            kind=kind,
            at_ms=int(record.get("at_ms") or self._deps.clock.now_ms()),
            box=box,
            run=str(record.get("run", "")),
            data=data,
        )

    # ------------------------------------------------------------------------------ looking

    async def policies(self) -> PolicyBook:
        """Every policy, and whether the file is in force."""
        return self._deps.policies.view()

    async def check(self, req: PolicyText) -> Findings:
        """Look at a text as if it were the policy file."""
        return self._deps.policies.check(req.text)

    async def test(self, req: TryRequest) -> Verdict:
        """Would that go out?"""
        if not req.name:
            policy = str(self._deps.policies.choose(req.policy, "")["name"])
            return self._deps.policies.test(policy, req.url, req.method, ())
        box = await self._deps.store.boxes.find(req.name)
        route = await route_of(self._deps, box, await self._deps.crew.run_of(box.id))
        return self._deps.policies.test(req.policy or route.policy, req.url, req.method, route.grants)

    async def view(self, name: str, limit: int, everything: bool) -> EgressView:
        """What a thopter may, what it was refused, and with ``everything`` what went out lately."""
        box = await self._deps.store.boxes.find(name)
        route = await route_of(self._deps, box, await self._deps.crew.run_of(box.id))
        usage: dict[str, Any] = {}
        recent: list[dict[str, Any]] = []
        up = False
        try:
            usage = await self._deps.gateways.egress_usage(box.id)
            up = box.id in await self._deps.gateways.attached()
            if everything:
                page = await self._deps.gateways.egress_log(0, 0, box.id)
                recent = [r for r in page["records"] if r.get("verdict") == "allow"]
        except ThopterError as e:
            log.debug("the egress gateway can't be asked: %s", e.message)
        wanted = EventFilter(box=box.id, kinds=(*KINDS.values(), "git.refused"))
        events = (await self._deps.store.events.newest(limit, wanted)).events
        lines = [_line(e.at_ms, e.data) for e in events] + [_line(int(r["at_ms"]), r) for r in recent]
        lines.sort(key=lambda x: x.at_ms)
        return EgressView(
            name=box.name,
            policy=route.policy,
            why=str(chosen(box).get("why") or "the default"),
            up=up,
            **{k: int(usage.get(k, 0)) for k in ("sent", "received", "allowed", "refused")},
            grants=[
                Grant(host=g.host, port=g.port, at_ms=g.at_ms)
                for g in await self._deps.store.egress.grants(box.id)
            ],
            lines=lines[-limit:],
            info=self._deps.policies.info(route.policy),
            isolation=box.isolation or "",
            least=str(chosen(box).get("isolation", "any")).removeprefix("any"),
        )

    # ------------------------------------------------------------------------------ allowing

    async def allow(self, name: str, req: AllowRequest) -> Allowed:
        """A person's word: for one connection, for this thopter, or for good."""
        box = await self._deps.store.boxes.find(name)
        if box.state not in _UP and req.scope != "always":
            raise NotNow(f"{box.name} is {box.state}", hint=f"see 'thopter status {box.name}'")
        run = await self._deps.crew.run_of(box.id)
        route = await route_of(self._deps, box, run)
        host = self._deps.policies.canonical(req.host)
        self._check(route, host, req.port)
        if req.scope == "once":
            await self._deps.gateways.allow_once(box.id, host, req.port)
        elif req.scope == "always":
            await self._deps.policies.allow_always(route.policy, host, req.port)
        now = self._deps.clock.now_ms()
        data = {"name": box.name, "host": host, "port": req.port, "scope": req.scope, "policy": route.policy}
        event = Event(kind="egress.allowed", at_ms=now, box=box.id, run=run.id if run else "", data=data)

        def record(tx: Tx) -> None:
            if req.scope == "run":
                tx.egress.grant(box.id, GrantRow(host=host, port=req.port, at_ms=now))
            tx.events.append([event])

        await self._deps.store.write(record)
        if req.scope == "run":
            await self._deps.gateways.reroute(box.id, await route_of(self._deps, box, run))
        elif req.scope == "always":
            await self._deps.gateways.policies_changed()
        return Allowed(host=host, port=req.port, scope=req.scope, policy=route.policy)

    def _check(self, route: EgressRoute, host: str, port: int) -> None:
        """A host that the policy speaks about already is the policy's affair."""
        spelt = f"[{host}]" if ":" in host else host
        verdict = self._deps.policies.test(route.policy, f"{spelt}:{port}", "CONNECT", ())
        if verdict.code == "host_denied":
            raise Refused(verdict.reason, hint="'deny' in the policy is for good; change the policy itself")
        if verdict.verdict == "allow" and verdict.inspect:
            raise Refused(
                f"policy {route.policy} allows {host} by {verdict.rule}, and looks at each request",
                hint="to allow more of it, change that rule in the policy file",
            )


def _line(at_ms: int, data: Mapping[str, Any]) -> EgressLine:
    texts = ("verdict", "code", "reason", "method", "host", "path", "rule")
    numbers = ("port", "status", "sent", "received")
    fields: dict[str, Any] = {k: str(data.get(k) or "") for k in texts}
    fields |= {k: int(data.get(k) or 0) for k in numbers}
    return EgressLine(at_ms=at_ms, count=int(data.get("count") or 1), **fields)
