"""Carries one request of a box to where policy lets it go, or says why it does not."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import TYPE_CHECKING, Literal

from thopter.gateway.connection import ClientGone, Exchange, Wire
from thopter.gateway.egress.asked import Refused, check_query
from thopter.gateway.egress.dial import CantDial
from thopter.gateway.egress.ledger import Record
from thopter.gateway.egress.mask import Mask
from thopter.gateway.egress.route import Added, Flow, OverLimit, Route
from thopter.gateway.egress.upstream import Answer, BadAnswer, Far, Upstream, answer_headers, request_head
from thopter.gateway.http1 import Head
from thopter.gateway.policy.decide import decide
from thopter.gateway.policy.model import Allow, Ask, Decision, Deny, Request
from thopter.model.errors import BadInput

if TYPE_CHECKING:
    from thopter.gateway.doors import Door
    from thopter.gateway.egress.__main__ import EgressGateway

log = logging.getLogger("thopter.gateway")
_STATUS = {"bad_host": 400, "bad_port": 400, "bad_path": 400, "rate": 429}


class Call:
    """One request or tunnel while it is served, and what will be recorded of it."""

    def __init__(self, gateway: EgressGateway, door: Door[Route], exchange: Exchange) -> None:
        self.gateway = gateway
        self.door = door
        self.exchange = exchange
        self.traffic = door.route.traffic
        self.began = time.monotonic()
        self.at_ms = time.time_ns() // 1_000_000
        self.request: Request | None = None
        self.allowed: Allow | None = None
        self.once = False
        self.status = 0
        self.sent = self.received = 0
        self.address = ""
        self.problem: tuple[str, str, str] = ("", "", "")  # code, reason, verdict
        self.added: Added | None = None  # a header of ours, and what keeps it from coming back
        self.mask = Mask(())
        self.told = False  # that the secret is used

    # ------------------------------------------------------------------------------ deciding

    async def judge(self, request: Request) -> Allow:
        """Decide, asking a person where the policy wants that; raises Refused."""
        self.request = request
        if not self.traffic.may_ask():
            raise Refused(429, "rate", "this box asks too often; its policy limits requests a minute")
        decision = self._decide(request)
        if isinstance(decision, Ask):
            decision = await self._ask(request, decision)
        if isinstance(decision, Deny):
            raise Refused(_STATUS.get(decision.code, 403), decision.code, decision.reason, decision.host)
        assert isinstance(decision, Allow)
        self.allowed = decision
        return decision

    def _decide(self, request: Request) -> Decision:
        decision = decide(request, self.door.route.policy)
        unknown = isinstance(decision, Ask) or (
            isinstance(decision, Deny) and decision.code == "host_unknown"
        )
        if unknown and self.traffic.take_once(decision.host, request.port):
            self.once = True
            return self.gateway.once(decision.host, request)
        return decision

    async def _ask(self, request: Request, asked: Ask) -> Decision:
        """Hold the request until a person allows it or time is over."""
        self.gateway.note(self.record("ask", "asked", asked.reason, asked.host))
        loop = asyncio.get_running_loop()
        end = loop.time() + self.door.route.policy.ask_seconds
        async with self.exchange.connected():
            while True:
                decision = self._decide(request)
                if not isinstance(decision, Ask):
                    return decision
                try:
                    async with asyncio.timeout_at(end):
                        await self.traffic.changed.wait()
                except TimeoutError:
                    return Deny(code="asked", reason=f"{asked.reason}; nobody answered", host=asked.host)

    # ------------------------------------------------------------------------------ plain requests

    async def forward(self, request: Request, target: str, scheme: Literal["http", "https"]) -> None:
        """Send one request that can be seen to where it wants to go, and its answer back."""
        allowed = await self.judge(request)
        far = Far(scheme, allowed.host, allowed.port)
        head = self.exchange.head
        upgrade = _wants_websocket(head)
        added = self._add(allowed, far, target)
        strip = not allowed.rule.client_credentials
        raw = request_head(head, target, far, strip, added, upgrade)
        try:
            async with self.flow(request), self.exchange.connected():
                up, answer = await self._ask_upstream(allowed, far, raw)
            async with self.flow(request):
                await self._answer(up, answer, upgrade)
        except (BadAnswer, TimeoutError, OSError) as e:
            if self.exchange.started:
                self.problem = ("broken", str(e), "allow")
                self.exchange.cut()
                raise ClientGone from None
            late = isinstance(e, TimeoutError)
            said = "it does not answer in time" if late else str(e)
            raise Refused(504 if late else 502, "upstream", f"{far.host}: {said}", far.host) from None

    def _add(self, allowed: Allow, far: Far, target: str) -> tuple[str, str] | None:
        """The header of ours that goes along; from here on nothing may bring its secret back."""
        try:
            added = self.added = self.door.route.added_header(allowed.rule, far)
        except BadInput as e:
            raise Refused(502, "no_secret", e.message, allowed.host) from None
        if added is None:
            return None
        check_query(target, allowed.host)
        self.mask = Mask(added.needles)
        return added.header, added.value

    async def _ask_upstream(self, allowed: Allow, far: Far, raw: bytes) -> tuple[Upstream, Answer]:
        head = self.exchange.head
        while True:
            up = await self.upstream(allowed, far)
            if self.added is not None and not self.told:
                self.told = True
                self.gateway.note(self.record("use", allowed.rule.credential, ""))
            again = up.used and not head.has_body
            try:
                await self._send(up, raw)
                up.used = True
                return up, await up.answer(head.method)
            except (BadAnswer, ClientGone) as e:
                up.close()
                if self.exchange.wire.gone:
                    raise ClientGone from None
                if not again:  # a connection used before may have ended just now: ask on a fresh one
                    raise BadAnswer(str(e) or "it closed the connection") from None

    async def _send(self, up: Upstream, raw: bytes) -> None:
        stall = self.exchange.limits.write_stall_seconds
        chunked = self.exchange.head.length is None
        await self.count(len(raw), 0)
        await up.wire.write(raw, stall)
        async for piece in self.exchange.body():
            await self.count(len(piece), 0)
            try:
                await up.wire.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece, stall)
            except ClientGone:
                break
            if up.wire.buffer or up.wire.gone:  # it answers without wanting the rest
                up.reusable = False
                return
        if chunked:
            await up.wire.write(b"0\r\n\r\n", stall)

    async def upstream(self, allowed: Allow, far: Far) -> Upstream:
        """The connection of this client to that place: the one it has, or a new one."""
        wire = self.exchange.wire
        kept = wire.kept
        if isinstance(kept, Upstream):
            if kept.far == far and kept.fit:
                self.address = kept.address
                return kept
            kept.close()
        up = await self.gateway.connect(allowed, far, self.traffic, self.exchange.limits)
        self.address = up.address
        wire.kept, wire.on_end = up, up.close
        return up

    async def _answer(self, up: Upstream, answer: Answer, upgrade: bool) -> None:
        self.status = answer.status
        if self.added is not None and answer.coded:
            up.close()
            raise BadAnswer(
                "it encodes its answer unasked, so it can't be seen whether it repeats the secret"
            )
        if answer.status == 101:
            if not upgrade:
                raise BadAnswer("it switches protocols unasked")
            await self._upgraded(up, answer)
            return
        headers = [(n, self.mask.text(v)) for n, v in answer_headers(answer)]
        length: int | None = answer.length if answer.length >= 0 else None
        if self.exchange.head.method == "HEAD":
            told = [v for n, v in answer.headers if n == "content-length"]
            length = int(told[0]) if told else None
        await self.exchange.start(answer.status, headers, length)
        async for piece in up.body(answer):
            await self.count(0, len(piece))
            await self.exchange.write(self.mask.feed(piece))
        await self.exchange.write(self.mask.end())
        await self.exchange.finish()
        if not up.reusable:
            up.close()

    async def _upgraded(self, up: Upstream, answer: Answer) -> None:
        lines = ["HTTP/1.1 101 Switching Protocols", "upgrade: websocket", "connection: Upgrade"]
        lines += [f"{n}: {self.mask.text(v)}" for n, v in answer_headers(answer)]
        wire = await self.exchange.take_over(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
        up.reusable = False
        await self.join(wire, up.wire)

    # ------------------------------------------------------------------------------ bytes

    async def count(self, sent: int, received: int) -> None:
        """Count bytes of this call and its box."""
        self.sent += sent
        self.received += received
        await self.traffic.count(sent, received)

    async def join(self, client: Wire, far: Wire) -> None:
        """Pass bytes both ways until both directions have ended or nothing moves for too long."""
        idle = self.exchange.limits.upstream_idle_seconds
        clock = [time.monotonic()]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(client, far, True, clock, idle))
                group.create_task(self._pass(far, client, False, clock, idle))
        except* (OverLimit, TimeoutError) as e:
            over = next((x for x in e.exceptions if isinstance(x, OverLimit)), None)
            self.problem = (
                ("limit", str(over), "deny") if over else ("idle", "nothing moved for long", "allow")
            )
            client.abort()
        finally:
            far.abort()

    async def _pass(self, source: Wire, sink: Wire, out: bool, clock: list[float], idle: float) -> None:
        stall = self.exchange.limits.write_stall_seconds
        try:
            while True:
                if not source.buffer:
                    left = clock[0] + idle - time.monotonic()
                    try:
                        await source.more(max(left, 0.0))
                    except TimeoutError:
                        if time.monotonic() - clock[0] < idle:
                            continue  # the other direction moved meanwhile
                        raise
                    except ClientGone:
                        if not source.buffer:
                            break
                data = bytes(source.buffer)
                source.buffer.clear()
                clock[0] = time.monotonic()
                await self.count(len(data) if out else 0, 0 if out else len(data))
                await sink.write(data if out else self.mask.feed(data), stall)
            if not out:
                await sink.write(self.mask.end(), stall)
            await sink.end_writing()
        except ClientGone:
            source.abort()  # nobody takes its bytes any more

    def flow(self, request: Request) -> _Under:
        """While inside, a change of policy that no longer allows ``request`` ends this call."""
        return _Under(self, request)

    # ------------------------------------------------------------------------------ the end

    def record(self, verdict: str, code: str, reason: str, host: str = "") -> Record:
        """What the ledger keeps of this call."""
        request, allowed = self.request, self.allowed
        path = request.target.partition("?")[0] if request and request.scheme != "connect" else ""
        return Record(
            at_ms=self.at_ms,
            box=self.door.box,
            run=self.door.route.attach.run,
            verdict=verdict,
            code=code,
            reason=reason[:300],
            scheme=request.scheme if request else "",
            method=request.method if request else self.exchange.head.method,
            host=(allowed.host if allowed else host or (request.host if request else ""))[:260],
            port=request.port if request else 0,
            path=path[:200],
            rule=allowed.rule.name if allowed else "",
            address=self.address,
            status=self.status,
            sent=self.sent,
            received=self.received,
            ms=round((time.monotonic() - self.began) * 1000, 2),
            once=self.once,
            secret=self.added.secret if self.added is not None else "",
        )

    async def refuse(self, refused: Refused) -> None:
        """Tell the client why, in words, and record it."""
        self.status = refused.status
        verdict = "allow" if refused.status >= 500 and refused.code != "address" else "deny"
        self.problem = (refused.code, refused.reason, verdict)
        if self.exchange.started:
            self.exchange.cut()
            return
        name = self.door.route.attach.name
        hint = ""
        if refused.code in ("host_unknown", "asked", "port") and name:
            hint = f"\nA person can allow it: thopter egress allow {name} {refused.host}"
        body = f"thopter: {refused.reason}{hint}\n".encode("ascii", "replace")
        if self.exchange.head.method == "CONNECT":
            # Tools show the reason phrase of a refused tunnel and nothing else.
            phrase = re.sub(r"[^ -~]", "?", f"thopter: {refused.reason}")[:200]
            lines = [f"HTTP/1.1 {refused.status} {phrase}", "content-type: text/plain; charset=utf-8"]
            lines += [f"content-length: {len(body)}", f"thopter-refused: {refused.code}", "connection: close"]
            await self.exchange.take_over("\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body)
            return
        headers = [("content-type", "text/plain; charset=utf-8"), ("thopter-refused", refused.code)]
        await self.exchange.answer(refused.status, headers, body)

    def settle(self) -> None:
        """Record how it went."""
        code, reason, verdict = self.problem
        if self.allowed is None and not code:
            return
        self.gateway.note(self.record(verdict or "allow", code, reason))


class _Under:
    """See :meth:`Call.flow`."""

    def __init__(self, call: Call, request: Request) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._call = call
        rule = call.allowed.rule if call.added is not None and call.allowed is not None else None
        self._flow = Flow(request, lambda: self._cut(task), rule.credential if rule else "")

    def _cut(self, task: asyncio.Task[object]) -> None:
        self._call.problem = ("policy_changed", "the policy no longer allows it", "deny")
        task.cancel()

    async def __aenter__(self) -> None:
        self._call.traffic.flows.add(self._flow)

    async def __aexit__(self, *exc: object) -> None:
        self._call.traffic.flows.discard(self._flow)


def _wants_websocket(head: Head) -> bool:
    tokens = {t.strip().lower() for n, v in head.headers if n == "connection" for t in v.split(",")}
    upgrade = (head.header("upgrade") or "").lower()
    if not upgrade or "upgrade" not in tokens:
        return False
    return upgrade == "websocket" and head.method == "GET" and not head.has_body


__all__ = ["Call", "CantDial", "Refused"]
