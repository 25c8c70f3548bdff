"""Carries one call of a box to its model endpoint and the answer back, byte by byte as they come."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2
import msgspec

from thopter.gateway.connection import ClientGone, Exchange
from thopter.gateway.http1 import BadRequest
from thopter.gateway.model.budget import Over
from thopter.gateway.model.ledger import Ledger
from thopter.gateway.model.logins import Logins
from thopter.gateway.model.meter import Meter
from thopter.gateway.model.policy import ERROR_TYPES, Refusal, decide, request_headers, response_headers
from thopter.gateway.model.spending import Spending
from thopter.gateway.model.upstream import Attach, Endpoint
from thopter.gateway.model.usage import LastLimit, Reader, Tokens, read_limit, reader_for
from thopter.kit.prices import table

log = logging.getLogger("thopter.gateway")
_BODIES_MAX = 128 << 20  # of one box
PAID = "/v1/messages"  # counting tokens, or listing models, costs nothing


class Route:
    """One attachment's way out: its own connections to its endpoint, shared with no other box.

    A retired route finishes the calls under way and then closes its connections.
    """

    def __init__(self, attach: Attach, endpoint: Endpoint, context: ssl.SSLContext) -> None:
        limits = attach.limits
        self.attach = attach
        self.endpoint = endpoint
        self.in_flight = 0
        self.bodies = 0  # bytes of bodies that are kept whole
        self.prices = table(attach.terms.endpoints)
        self._retired = False
        self.timeouts = {
            "connect": limits.connect_seconds,
            "read": limits.upstream_idle_seconds,
            "write": limits.write_stall_seconds,
            "pool": limits.connect_seconds + limits.upstream_idle_seconds,
        }
        pool = httpx2.Limits(max_connections=None, max_keepalive_connections=16, keepalive_expiry=30.0)
        # The transport alone: no cookies, no redirects, no proxies or passwords from the environment.
        self.transport = httpx2.AsyncHTTPTransport(verify=context, trust_env=False, limits=pool)

    async def release(self) -> None:
        """One call less; closes the connections when it was the last of a retired route."""
        self.in_flight -= 1
        if self._retired and self.in_flight == 0:
            await self.transport.aclose()

    async def retire(self) -> None:
        """No new calls come."""
        self._retired = True
        if self.in_flight == 0:
            await self.transport.aclose()


class Call:
    """One request of a box while it is being served, and what will be recorded of it."""

    def __init__(
        self, route: Route, exchange: Exchange, ledger: Ledger, spending: Spending, logins: Logins
    ) -> None:
        self.route = route
        self.exchange = exchange
        self.ledger = ledger
        self.began_ms = time.time_ns() // 1_000_000
        self.began = time.monotonic()
        self.status = 0
        self.ttfb_ms = 0.0
        self.sent = 0
        self.refused = False
        self.error = ""
        self.limit: LastLimit | None = None
        self.reader: Reader | None = None
        self.login = logins.of(route.attach, route.endpoint.authority)
        self.went = 0.0
        self.kept = 0
        self.entered = False  # the login let it out, and waits for word of it
        self.asked = False  # it went out, and nothing came back yet
        self.answered = False  # a success came back
        self.budget = ""
        self.unpriced = 0
        attach, endpoint = route.attach, route.endpoint.authority
        self.meter = Meter(spending, route.prices, attach.box, attach.run, endpoint, self.began_ms)

    async def run(self) -> None:
        """Serve the call and record it, however it ends."""
        self.route.in_flight += 1
        try:
            await self._serve()
        except BadRequest as problem:
            self.asked = False  # half a request is answered by nobody
            if self.exchange.started:
                raise
            await self.fail(
                problem.status, ERROR_TYPES.get(problem.status, "invalid_request_error"), problem.message
            )
            self.refused = True
        except ClientGone:
            self.error = self.error or "the agent closed the connection"
            raise
        except asyncio.CancelledError:
            self.error = self.error or "the box was detached"
            raise
        finally:
            if self.entered:  # it may be the one that was to look
                self.login.heard(0, None, 0, self.went)
            self.route.bodies -= self.kept
            self.meter.settle(self)
            self.record()
            await self.route.release()

    async def _serve(self) -> None:
        decision = decide(self.exchange.head)
        if isinstance(decision, Refusal):
            self.refused = True
            await self.fail(decision.status, decision.type, decision.message)
            return
        body: bytes | None = None
        if self.path == PAID:
            async with self.exchange.connected():
                limit = await self.login.enter(self._parked)
                self.entered = limit is None
                body = await self._whole_body() if limit is None and self.meter.needs_body else None
                over = await self.meter.admit(body) if limit is None else None
            if limit is not None:
                await self._limited(limit)
                return
            if over is not None:
                await self._over(over)
                return
        try:
            async with self.exchange.connected():
                self.asked, self.went = True, time.monotonic()
                answer = await self._ask(decision, body)
        except (httpx2.HTTPError, OSError) as e:
            self.asked = isinstance(e, httpx2.ReadTimeout)  # an answer may be on its way, and billed
            await self._unreachable(e)
            return
        self.asked, self.answered = False, 200 <= answer.status_code < 300
        try:
            await self._pass_on(answer)
        finally:
            await answer.aclose()

    def _parked(self, limit: LastLimit) -> None:
        """It begins to wait for the login's limit to end: said now, not when it is over."""
        self.status, self.error, self.limit = limit.status, "parked until the rate limit is over", limit
        self.ledger.say(self.fields())
        self.status, self.error, self.limit = 0, "", None

    async def _limited(self, limit: LastLimit) -> None:
        """Answer as the endpoint did to another call of this login, with the time that is left."""
        self.refused, self.limit = True, limit
        left = max(limit.reset_ms - time.time_ns() // 1_000_000, 1000) / 1000
        text = "the rate limit of this login is not over yet"
        kind = ERROR_TYPES.get(limit.status, "rate_limit_error")
        await self.fail(limit.status, kind, text, more=[("retry-after", f"{left:.0f}")])

    async def _over(self, over: Over) -> None:
        self.refused, self.budget = True, over.limit.what if over.limit else "account"
        self.unpriced = over.limit.most if over.unpriced and over.limit else 0
        again = over.refusal.status != 402
        await self.fail(over.refusal.status, over.refusal.type, over.refusal.message, again=again)

    @property
    def path(self) -> str:
        """What is called, without its query."""
        return self.exchange.head.target.partition("?")[0]

    async def _whole_body(self) -> bytes:
        body = bytearray()
        async for piece in self.exchange.body():
            self.kept += len(piece)
            self.route.bodies += len(piece)
            if self.route.bodies > _BODIES_MAX:
                self.route.bodies -= self.kept  # at once: the others are not to be refused for this one
                self.kept = 0
                raise BadRequest(529, "this box has too many long calls at once")
            body += piece
        return bytes(body)

    async def _ask(self, target: str, body: bytes | None) -> httpx2.Response:
        exchange, endpoint = self.exchange, self.route.endpoint
        request = httpx2.Request(
            exchange.head.method,
            httpx2.URL(
                scheme=endpoint.scheme,
                host=endpoint.host,
                port=endpoint.port,
                raw_path=(endpoint.prefix + target).encode("ascii"),
            ),
            headers=request_headers(exchange.head, self.route.attach, endpoint),
            content=body if body is not None else self._body() if exchange.head.has_body else None,
            extensions={"timeout": self.route.timeouts},
        )
        return await self.route.transport.handle_async_request(request)

    async def _body(self) -> AsyncIterator[bytes]:
        async for piece in self.exchange.body():
            yield piece

    async def _pass_on(self, answer: httpx2.Response) -> None:
        self.status = answer.status_code
        headers = response_headers(answer.headers.raw)
        now_ms = time.time_ns() // 1_000_000
        if 300 <= answer.status_code < 400 and answer.status_code != 304:
            text = "the model endpoint answered with a redirect, which is not followed: set its final address"
            await self.fail(502, "api_error", text)
            return
        if answer.status_code in (429, 529):
            self.limit = read_limit(answer.status_code, headers, now_ms)
        if self.path == PAID:
            self.entered = False
            self.login.heard(answer.status_code, self.limit, now_ms, self.went)
        length = answer.headers.get("content-length", "")
        encoding = answer.headers.get("content-encoding", "")
        path = self.path
        self.reader = reader_for(path, answer.headers.get("content-type", ""), encoding)
        known = int(length) if length.isdecimal() and len(length) < 16 else None
        try:
            async with self.exchange.connected():
                await self._stream(answer, headers, known)
        except (httpx2.HTTPError, OSError) as e:
            self.error = f"the model endpoint's answer broke off: {_reason(e)}"
            if not self.exchange.started:
                await self.fail(502, "api_error", f"{self._named()} broke off its answer: {_reason(e)}")
            else:
                self.exchange.cut()
            return
        if not self.error and answer.status_code >= 400:
            self.error = self.reader.error or f"the model endpoint answered {answer.status_code}"
        elif self.reader.error:
            self.error = self.reader.error
        elif not self.reader.complete and path == "/v1/messages":
            self.error = "the model endpoint ended its stream early"

    async def _stream(
        self, answer: httpx2.Response, headers: list[tuple[str, str]], known: int | None
    ) -> None:
        exchange, reader = self.exchange, self.reader
        assert reader is not None and isinstance(answer.stream, httpx2.AsyncByteStream)
        self.ttfb_ms = (time.monotonic() - self.began) * 1000
        bodiless = exchange.head.method == "HEAD" or answer.status_code in (204, 304)
        # The head goes out at once: an agent's patience is measured from it, not from the first byte.
        await exchange.start(answer.status_code, headers, known)
        async for data in answer.stream:
            if bodiless:
                continue
            self.sent += len(data)
            # First: what was told counts, also when the agent hangs up on it or this process ends now.
            reader.feed(data)
            if self.sent == known:
                reader.end()
            self.meter.note(reader)
            await exchange.write(data)
        reader.end()
        self.meter.note(reader)
        await exchange.finish()

    async def _unreachable(self, error: Exception) -> None:
        timed_out = isinstance(error, httpx2.TimeoutException)
        text = f"{self._named()} can't be reached: {_reason(error)}"
        await self.fail(504 if timed_out else 502, "timeout_error" if timed_out else "api_error", text)

    def _named(self) -> str:
        return f"the model endpoint {self.route.endpoint.url}"

    async def fail(
        self, status: int, kind: str, message: str, again: bool = True, more: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Answer with an error of ours, in the shape that clients of the Messages API understand. Not
        ``again``: trying it again is no use."""
        self.status, self.error = status, message
        body = msgspec.json.encode(
            {"type": "error", "error": {"type": kind, "message": "thopter: " + message}}
        )
        async with self.exchange.connected():
            headers = [("content-type", "application/json"), *more]
            headers += [] if again else [("x-should-retry", "false")]
            await self.exchange.answer(status, headers, body if self.exchange.head.method != "HEAD" else b"")

    def record(self) -> None:
        """Put the call into the ledger."""
        self.ledger.add(self.fields(), self.limit)

    def fields(self) -> dict[str, Any]:
        """What is recorded of the call as it stands."""
        attach, head = self.route.attach, self.exchange.head
        return {
            "at_ms": self.began_ms,
            "box": attach.box,
            "run": attach.run,
            "method": head.method[:16],
            "path": self.path[:200],
            "status": self.status,
            "ms": round((time.monotonic() - self.began) * 1000, 2),
            "ttfb_ms": round(self.ttfb_ms, 2),
            "bytes_in": self.exchange.received,
            "bytes_out": self.sent,
            "refused": self.refused,
            "error": self.error[:300],
            "model": self.reader.model if self.reader else "",
            "endpoint": self.route.endpoint.authority,
            "tokens": self.reader.tokens if self.reader else Tokens(),
            "reset_ms": self.limit.reset_ms if self.limit else 0,
            "budget": self.budget,
            "unpriced": self.unpriced,
        }


def _reason(error: BaseException) -> str:
    """Say in plain words why a connection to the endpoint failed; never what was sent on it."""
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    for link in chain:
        if isinstance(link, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({link.verify_message})"
        if isinstance(link, ssl.SSLError):
            return "TLS failed; is it really an https address?"
        if isinstance(link, socket.gaierror):
            return "its name can't be resolved"
        if isinstance(link, ConnectionRefusedError):
            return "connection refused"
    if isinstance(error, httpx2.ConnectTimeout):
        return "no answer to the connection attempt"
    if isinstance(error, httpx2.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx2.RemoteProtocolError):
        return "it closed the connection or does not speak HTTP"
    return "the connection failed" if isinstance(error, httpx2.ConnectError) else "the connection broke"
