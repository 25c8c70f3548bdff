"""The egress gateway process: ``python -m thopter.gateway.egress --socket PATH --state DIR``."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
import time
from typing import Any

import msgspec

from thopter.gateway.connection import ClientGone, Exchange, Limits
from thopter.gateway.daemon import Options, main
from thopter.gateway.doors import Door
from thopter.gateway.egress.asked import Refused, absolute, check_host_header, parse_authority, tls_problem
from thopter.gateway.egress.authority import Mint, make_authority
from thopter.gateway.egress.dial import CantDial, Dialler
from thopter.gateway.egress.ledger import Ledger, Record, log_request
from thopter.gateway.egress.proxy import Call
from thopter.gateway.egress.route import OverLimit, Route, Traffic, parse_attach
from thopter.gateway.egress.tls import TlsWire, upstream_context
from thopter.gateway.egress.tunnel import tunnel
from thopter.gateway.egress.upstream import Far, Upstream
from thopter.gateway.http1 import BadRequest, Head, parse_head
from thopter.gateway.policy.decide import decide
from thopter.gateway.policy.hosts import BadHost, canonical_host
from thopter.gateway.policy.model import Allow, Request, Rule
from thopter.gateway.service import Service
from thopter.model.errors import BadInput, NotFound

log = logging.getLogger("thopter.gateway")


class EgressGateway(Service[Route]):
    """An HTTP proxy for boxes, by policy. Ops besides the common ones: ``usage {box}``, ``log {after, box,
    limit, wait_ms}``, ``once {box, host, port}``. Secrets and the authority's key live in memory only."""

    name = "egress"

    def __init__(self, confined: tuple[str, ...] = (), idle_exit: float = 0.0) -> None:
        super().__init__(confined, idle_exit)
        self._ledger = Ledger()
        self._dialler = Dialler()
        self._traffic: dict[str, Traffic] = {}
        self._mints: dict[str, Mint] = {}
        self._client_context = upstream_context()

    async def run(self, control: socket.socket) -> None:
        """See Service."""
        async with asyncio.TaskGroup() as group:
            flushing = group.create_task(self._keep_flushing())
            await super().run(control)
            flushing.cancel()
        self._dialler.close()

    async def _keep_flushing(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            for record in self._ledger.flush(time.monotonic()):
                _say(record)

    # ------------------------------------------------------------------------------ attachments

    def parse(self, request: dict[str, Any]) -> tuple[Route, Limits]:
        """See Service."""
        attach, limits = parse_attach({k: v for k, v in request.items() if k != "op"})
        if attach.ca is not None:
            self._mint(attach.ca.cert, attach.ca.key)
        return Route(attach, self._traffic.setdefault(attach.box, Traffic())), limits

    def _mint(self, cert: str, key: str) -> Mint:
        if cert not in self._mints:
            self._mints.clear()
            self._mints[cert] = Mint(cert, key)
        return self._mints[cert]

    def server_context(self, route: Route, host: str) -> ssl.SSLContext:
        """The TLS context with which the gateway is ``host`` towards a box."""
        assert route.attach.ca is not None  # parse_attach refuses a policy that needs one without
        return self._mint(route.attach.ca.cert, route.attach.ca.key).context(host, time.time())

    def describe(self, route: Route) -> dict[str, Any]:
        """See Service."""
        return {"run": route.attach.run, "policy": route.policy.name, "flows": len(route.traffic.flows)}

    async def retire(self, route: Route) -> None:
        """See Service. Connections that the box's policy no longer allows end now."""
        box = route.attach.box
        door = self.doors.by_box.get(box)
        if door is None:
            self._traffic.pop(box, None)
            self._ledger.forget(box)
            return
        route.traffic.limits = door.route.policy.limits
        for flow in list(route.traffic.flows):
            verdict = decide(flow.request, door.route.policy)
            if not isinstance(verdict, Allow):
                flow.cut()
            elif flow.credential and not _has(door.route, verdict.rule, flow.credential):
                flow.cut()  # its secret was taken away while it is in use
        route.traffic.tell()

    async def extra(self, op: str, request: dict[str, Any]) -> dict[str, Any]:
        """See Service."""
        box = str(request.get("box", ""))
        if op == "usage":
            traffic = self._traffic.get(box, Traffic())
            names = ("sent", "received", "allowed", "refused")
            return {"boot": self.boot, **{n: getattr(traffic, n) for n in names}}
        if op == "once":
            return self._once(box, request)
        if op == "log":
            after, _box, limit, seconds = log_request(request)
            page = await self._ledger.page(after, box, limit, seconds)
            return {"boot": self.boot, **msgspec.to_builtins(page)}
        return await super().extra(op, request)

    def _once(self, box: str, request: dict[str, Any]) -> dict[str, Any]:
        traffic, port = self._traffic.get(box), request.get("port")
        if traffic is None:
            raise NotFound(f"{box} is not attached")
        try:
            host = canonical_host(str(request.get("host", "")))
        except BadHost as e:
            raise BadInput(f"host: {e}") from None
        if not isinstance(port, int) or not 0 < port < 65536:
            raise BadInput("port must be a number from 1 to 65535")
        traffic.allow_once(host, port)
        return {"host": host, "port": port}

    # ------------------------------------------------------------------------------ serving

    def parse_head(self, raw: bytes) -> Head:
        """See Service: a proxy is asked with other targets."""
        return parse_head(raw, proxy=True)

    async def serve(self, door: Door[Route], exchange: Exchange) -> None:
        """See Service."""
        door.route.traffic.limits = door.route.policy.limits
        call = Call(self, door, exchange)
        try:
            await self._serve(call)
        except Refused as refused:
            await call.refuse(refused)
        except CantDial as e:
            await call.refuse(Refused(e.status, e.code, e.message, call.allowed.host if call.allowed else ""))
        except OverLimit as e:
            await call.refuse(Refused(429, "limit", str(e)))
        except ClientGone:
            call.problem = (
                call.problem if call.problem[0] else ("gone", "the box closed the connection", "allow")
            )
            raise
        finally:
            call.settle()

    async def _serve(self, call: Call) -> None:
        head = call.exchange.head
        if head.method != "CONNECT":
            request = absolute(head)
            await call.forward(request, request.target, "http")
            return
        if head.has_body:
            raise BadRequest(400, "CONNECT with a body")
        host, port = parse_authority(head.target, 0)
        call.request = Request(scheme="connect", host=host, port=port)
        check_host_header(head, host, port, port)
        await tunnel(self, call, call.request)

    async def refuse(self, door: Door[Route], exchange: Exchange, problem: BadRequest) -> None:
        """See Service."""
        call = Call(self, door, exchange)
        await call.refuse(Refused(problem.status, "bad_request", problem.message))
        call.settle()

    def once(self, host: str, request: Request) -> Allow:
        """The verdict for a host that a person allowed for one connection."""
        port = request.port
        rule = Rule(name="allowed once", hosts=(host,), ports=(port,), plain=True, tls=port == 443)
        return Allow(host=host, port=port, rule=rule)

    async def connect(self, allowed: Allow, far: Far, traffic: Traffic, limits: Limits) -> Upstream:
        """A fresh connection to a place that policy allows; raises CantDial."""
        seconds = limits.connect_seconds
        wire, address = await self._dialler.dial(far.host, far.port, allowed.rule, traffic.turns, seconds)
        if far.scheme == "https":
            tls = TlsWire(wire, self._client_context, server_name=far.host)
            try:
                await tls.handshake(seconds)
            except (ssl.SSLError, TimeoutError, ClientGone, ValueError) as e:
                wire.abort()
                raise CantDial("upstream_tls", 502, f"{far.host}: {tls_problem(e)}") from None
            wire = tls
        return Upstream(far, wire, address, limits.upstream_idle_seconds)

    def note(self, record: Record) -> None:
        """Keep a record, and write a line about a refusal or the use of a secret."""
        traffic = self._traffic.get(record.box)
        if traffic is not None and record.verdict in ("allow", "deny"):
            traffic.allowed += record.verdict == "allow"
            traffic.refused += record.verdict == "deny"
        kept = self._ledger.add(record)
        if kept is not None and record.verdict != "allow":
            _say(kept)


def _has(route: Route, rule: Rule, credential: str) -> bool:
    """Whether what goes by ``rule`` still goes with that credential, and its secret is there."""
    return rule.credential == credential and credential in route.attach.secrets


def _say(record: Record) -> None:
    """One line for each refusal and use; hosts and reasons are printable by construction or escaped."""
    times = f" ({record.count} more)" if record.count > 1 else ""
    if record.verdict == "use":
        log.info(
            "%s uses secret %r on %s port %d%s", record.box, record.secret, record.host, record.port, times
        )
        return
    what = "asked" if record.verdict == "ask" else "denied"
    log.warning(
        "%s %s: %s %r port %d: %s: %s%s",
        what, record.box, record.method, record.host, record.port, record.code, record.reason, times,
    )  # fmt: skip


def _preload() -> None:
    """Load what is imported on use: afterwards the process may not read it any more."""
    import concurrent.futures.thread
    import encodings.idna

    import cryptography.hazmat.primitives.asymmetric.ec
    import cryptography.hazmat.primitives.serialization
    import cryptography.x509

    upstream_context()
    _ = (concurrent.futures.thread, encodings.idna, cryptography.x509)
    own = Mint(*make_authority("preload", time.time()))
    own.context("preload.invalid", time.time())


def _build(options: Options, confined: tuple[str, ...]) -> EgressGateway:
    return EgressGateway(confined, options.idle_exit)


if __name__ == "__main__":
    sys.exit(main("egress", _build, network=True, preload=_preload))
