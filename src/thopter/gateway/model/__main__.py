"""The model gateway process: ``python -m thopter.gateway.model --socket PATH --state DIR``."""

from __future__ import annotations

import ssl
import sys
from typing import Any

import msgspec

from thopter.gateway.connection import Exchange, Limits
from thopter.gateway.daemon import Options, main
from thopter.gateway.doors import Door
from thopter.gateway.http1 import BadRequest
from thopter.gateway.model.book import Books, bury
from thopter.gateway.model.ledger import Ledger
from thopter.gateway.model.logins import Logins
from thopter.gateway.model.policy import ERROR_TYPES
from thopter.gateway.model.proxy import Call, Route
from thopter.gateway.model.spending import Spending
from thopter.gateway.model.upstream import parse_attach, parse_endpoint, tls_context
from thopter.gateway.service import Service
from thopter.model.errors import BadInput


class ModelGateway(Service[Route]):
    """Serves HTTP/1.1 to boxes and dials each box's one endpoint. Ops besides the common ones:
    ``usage {box}``, ``log {after, box, limit, wait_ms}``, ``spent {accounts}``, and of the durable account
    ``books {}``, ``book {name, after, limit}`` and ``forget_book {name}``."""

    name = "model"

    def __init__(
        self,
        confined: tuple[str, ...] = (),
        idle_exit: float = 0.0,
        books: Books | None = None,
        spending: Spending | None = None,
    ) -> None:
        super().__init__(confined, idle_exit)
        self._ledger = Ledger(books)
        self._spending = spending or Spending(None)
        self._logins = Logins()
        self._contexts: dict[str, ssl.SSLContext] = {}

    def parse(self, request: dict[str, Any]) -> tuple[Route, Limits]:
        """See Service."""
        attach = parse_attach({k: v for k, v in request.items() if k != "op"})
        endpoint = parse_endpoint(attach.upstream)
        return Route(attach, endpoint, self._context(endpoint.scheme, attach.ca_pem)), attach.limits

    def _context(self, scheme: str, ca_pem: str) -> ssl.SSLContext:
        """One TLS context for all boxes with the same trust: loading one takes 50 ms and 0.5 MB."""
        key = ca_pem if scheme == "https" else "none"
        if key not in self._contexts:
            trusts_nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._contexts[key] = tls_context(ca_pem) if scheme == "https" else trusts_nobody
        return self._contexts[key]

    def describe(self, route: Route) -> dict[str, Any]:
        """See Service."""
        auth = route.attach.auth
        return {
            "run": route.attach.run,
            "upstream": route.endpoint.url,
            "auth": auth.kind if auth else "",
            "in_flight": route.in_flight,
        }

    def attached(self, route: Route) -> None:
        """See Service."""
        self._spending.bind(route.attach.box, route.attach.terms)

    def detached(self, box: str) -> None:
        """See Service."""
        self._spending.free(box)

    async def retire(self, route: Route) -> None:
        """See Service."""
        await route.retire()

    async def serve(self, door: Door[Route], exchange: Exchange) -> None:
        """See Service."""
        await Call(door.route, exchange, self._ledger, self._spending, self._logins).run()

    async def refuse(self, door: Door[Route], exchange: Exchange, problem: BadRequest) -> None:
        """See Service."""
        call = Call(door.route, exchange, self._ledger, self._spending, self._logins)
        call.route.in_flight += 1
        call.refused = True
        try:
            kind = ERROR_TYPES.get(problem.status, "invalid_request_error")
            await call.fail(problem.status, kind, problem.message)
        finally:
            call.record()
            await call.route.release()

    async def extra(self, op: str, request: dict[str, Any]) -> dict[str, Any]:
        """See Service."""
        if op == "usage":
            usage = self._ledger.usage(str(request.get("box", "")))
            return {"boot": self.boot, **msgspec.to_builtins(usage)}
        if op == "log":
            after, limit, wait_ms = _numbers(request)
            page = await self._ledger.page(
                after, str(request.get("box", "")), min(max(limit, 1), 2000), min(wait_ms, 30_000) / 1000
            )
            return {"boot": self.boot, **msgspec.to_builtins(page)}
        if op == "spent":
            accounts = request.get("accounts")
            if not isinstance(accounts, list) or not all(isinstance(a, str) for a in accounts):
                raise BadInput("accounts must be a list of names")
            return {"spent": self._spending.spent(accounts), "problem": self._spending.problem}
        books = self._ledger.books
        if books is not None and op in ("books", "book", "forget_book"):
            name = str(request.get("name", ""))
            if op == "books":
                return {"books": books.names()}
            if op == "forget_book":
                return {"forgotten": books.forget(name)}
            after, limit, _wait = _numbers(request)
            return dict(msgspec.to_builtins(books.read(name, after, min(max(limit, 1), 2000))))
        return await super().extra(op, request)


def _numbers(request: dict[str, Any]) -> tuple[int, int, int]:
    """``after``, ``limit`` and ``wait_ms`` of a request; BadInput."""
    numbers = [request.get(name, least) for name, least in (("after", 0), ("limit", 500), ("wait_ms", 0))]
    if not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise BadInput("after, limit and wait_ms are whole numbers from 0")
    after, limit, wait_ms = (int(n) for n in numbers if isinstance(n, int))
    return after, limit, wait_ms


def _build(options: Options, confined: tuple[str, ...]) -> ModelGateway:
    folder = options.state / "gateway"
    books, spending = Books(folder / "model-calls"), Spending(folder / "model-spent.ndjson")
    bury(spending, books)
    return ModelGateway(confined, options.idle_exit, books, spending)


if __name__ == "__main__":
    sys.exit(main("model", _build, network=True))
