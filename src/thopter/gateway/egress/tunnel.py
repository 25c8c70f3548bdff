"""CONNECT: a tunnel to a vetted place, in which the first words must be about that place."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from typing import TYPE_CHECKING

from thopter.gateway.connection import ClientGone, Exchange, Wire, serve_connection
from thopter.gateway.egress.asked import Refused, check_host_header
from thopter.gateway.egress.dial import CantDial
from thopter.gateway.egress.hello import Hello, NotTls, read_hello
from thopter.gateway.egress.proxy import Call
from thopter.gateway.egress.route import OverLimit
from thopter.gateway.egress.tls import TlsWire
from thopter.gateway.egress.upstream import Far
from thopter.gateway.http1 import BadRequest
from thopter.gateway.policy.hosts import BadHost, canonical_host, is_address
from thopter.gateway.policy.model import Allow, Request

if TYPE_CHECKING:
    from thopter.gateway.egress.__main__ import EgressGateway

log = logging.getLogger("thopter.gateway")
_HELLO_SECONDS = 20.0
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


async def tunnel(gateway: EgressGateway, call: Call, request: Request) -> None:
    """Serve one CONNECT, to its end. Raises Refused and CantDial before the tunnel stands."""
    allowed = await call.judge(request)
    if allowed.inspect:
        async with call.flow(request):
            wire = await call.exchange.take_over(_ESTABLISHED)
            call.status = 200
            if await _hello(call, wire, allowed):
                await _inspect(gateway, call, wire, allowed)
        return
    async with call.flow(request):
        far = Far("http", allowed.host, allowed.port)  # opaque: whatever is spoken, we add nothing
        async with call.exchange.connected():
            up = await gateway.connect(allowed, far, call.traffic, call.exchange.limits)
        call.address = up.address
        try:
            wire = await call.exchange.take_over(_ESTABLISHED)
            call.status = 200
            if not allowed.rule.tls or await _hello(call, wire, allowed):
                await call.join(wire, up.wire)
        finally:
            up.close()


async def _hello(call: Call, wire: Wire, allowed: Allow) -> bool:
    """Look at the client's first words, leaving them where they are; False (and the connection broken)
    when they are not what the tunnel was opened for."""
    try:
        async with asyncio.timeout(_HELLO_SECONDS):
            while True:
                hello = read_hello(bytes(wire.buffer))
                if hello is not None:
                    break
                await wire.more(_HELLO_SECONDS)
        problem = _judge(hello, allowed)
    except NotTls as e:
        problem = ("not_tls", str(e))
    except TimeoutError:
        problem = ("not_tls", "no TLS hello came in time")
    if problem is None:
        return True
    call.problem = (*problem, "deny")
    wire.abort()
    return False


def _judge(hello: Hello, allowed: Allow) -> tuple[str, str] | None:
    if hello.ech and not allowed.rule.ech:
        return "ech", "the TLS hello hides its real name (encrypted client hello)"
    if hello.name is None:
        return None if is_address(allowed.host) else ("no_sni", "the TLS hello names no server")
    try:
        same = canonical_host(hello.name) == allowed.host
    except BadHost:
        same = False
    return None if same else ("sni_mismatch", "the TLS hello names another server than the tunnel")


async def _inspect(gateway: EgressGateway, call: Call, wire: Wire, allowed: Allow) -> None:
    """Be the server towards the client, and judge every request of it."""
    limits = call.exchange.limits
    tls = TlsWire(wire, gateway.server_context(call.door.route, allowed.host))
    try:
        await tls.handshake(_HELLO_SECONDS)
    except ssl.SSLError as e:
        said = "the tool does not trust the hub's certificate" if "UNKNOWN_CA" in str(e) else "TLS failed"
        call.problem = ("client_tls", said, "allow")
        wire.abort()
        return
    except TimeoutError:
        wire.abort()
        return

    async def handle(exchange: Exchange) -> None:
        inner = Call(gateway, call.door, exchange)
        try:
            await _inner(inner, allowed)
        except Refused as refused:
            await inner.refuse(refused)
        except CantDial as e:
            await inner.refuse(Refused(e.status, e.code, e.message, allowed.host))
        except OverLimit as e:
            await inner.refuse(Refused(429, "limit", str(e), allowed.host))
        except ClientGone:
            inner.problem = inner.problem if inner.problem[0] else ("gone", "the box closed it", "allow")
            raise
        finally:
            inner.settle()

    async def refuse(exchange: Exchange, problem: BadRequest) -> None:
        inner = Call(gateway, call.door, exchange)
        await inner.refuse(Refused(problem.status, "bad_request", problem.message, allowed.host))
        inner.settle()

    began = time.monotonic()
    await serve_connection(tls, lambda: limits, handle, refuse)
    log.debug("inspected tunnel to %s: %.1f s", allowed.host, time.monotonic() - began)


async def _inner(call: Call, allowed: Allow) -> None:
    head = call.exchange.head
    request = Request(
        scheme="https",
        host=allowed.host if ":" not in allowed.host else f"[{allowed.host}]",
        port=allowed.port,
        method=head.method,
        target=head.target,
        has_body=head.has_body,
    )
    call.request = request
    check_host_header(head, request.host, allowed.port, 443)
    await call.forward(request, head.target, "https")
