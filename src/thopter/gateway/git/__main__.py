"""The git gateway process: ``python -m thopter.gateway.git --socket PATH --state DIR``."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from thopter.gateway.connection import ClientGone, Exchange, Limits
from thopter.gateway.daemon import Options, main
from thopter.gateway.doors import Door
from thopter.gateway.egress.ledger import Ledger, Record, log_request
from thopter.gateway.git.backend import BackendFailed, git_core, run_backend
from thopter.gateway.git.hooks import write_hooks
from thopter.gateway.git.inflate import begun, plain_body
from thopter.gateway.git.routes import (
    LFS_TYPE,
    NO_LFS,
    Attach,
    Wish,
    body_limit,
    cgi_env,
    decide,
    hook_env,
    narrowed,
    parse_attach,
)
from thopter.gateway.git.sweep import end_orphans, sweep
from thopter.gateway.git.told import Told, refused
from thopter.gateway.http1 import BadRequest
from thopter.gateway.service import Service
from thopter.model.errors import NotFound

log = logging.getLogger("thopter.gateway")

_SECONDS = 1800.0
_AT_ONCE = 48
_AT_ONCE_PER_BOX = 4


class GitGateway(Service[Attach]):
    """Serves smart HTTP to boxes. Holds no secret and, where the system allows it, has no network but
    the boxes' own connections."""

    name = "git"

    def __init__(
        self, mirrors: Path, hooks: Path, confined: tuple[str, ...] = (), idle_exit: float = 0.0
    ) -> None:
        super().__init__(confined, idle_exit)
        self._mirrors = mirrors
        self._hooks = write_hooks(hooks)
        self._program = ""
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._rooms: dict[str, asyncio.Semaphore] = {}
        self._pushes: Counter[str] = Counter()
        self._outbox = str(mirrors.parent / "gateway" / "git-outbox")
        self.ledger = Ledger()

    def parse(self, request: dict[str, Any]) -> tuple[Attach, Limits]:
        """See Service."""
        attach = parse_attach({k: v for k, v in request.items() if k != "op"})
        for one in attach.every:
            if not (self._mirrors / f"{one.repo}.git" / "config").is_file():
                raise NotFound(f"there is no mirror {one.repo}")
        return attach, attach.limits

    def describe(self, route: Attach) -> dict[str, Any]:
        """See Service."""
        return {"repo": route.repo, "branch": route.branch, "base": route.base, "run": route.run} | (
            {"beside": [one.repo for one in route.beside]} if route.beside else {}
        )

    async def retire(self, route: Attach) -> None:
        """See Service."""
        if route.box not in self.doors.by_box:
            self._rooms.pop(route.box, None)
            self.ledger.forget(route.box)

    async def extra(self, op: str, request: dict[str, Any]) -> dict[str, Any]:
        """``log``: pushes taken and refused, as the egress gateway's."""
        if op != "log":
            return await super().extra(op, request)
        after, box, limit, seconds = log_request(request)
        self.ledger.flush(time.monotonic())
        page = await self.ledger.page(after, box, limit, seconds)
        return {"boot": self.boot, **to_builtins(page)}

    async def serve(self, door: Door[Attach], exchange: Exchange) -> None:
        """See Service."""
        attach = narrowed(door.route, exchange.head.target)
        wish = decide(exchange.head, attach)
        if isinstance(wish, BadRequest):
            log.info("%s: refused %s %s", attach.box, exchange.head.method, exchange.head.target[:200])
            self.ledger.add(refused(attach, "request", wish.message, exchange.head.method))
            raise wish
        own_room = self._rooms.setdefault(attach.box, asyncio.Semaphore(_AT_ONCE_PER_BOX))
        async with exchange.connected():
            await own_room.acquire()
        try:
            async with exchange.connected():
                await self._room.acquire()
            try:
                await self._run(attach, wish, exchange)
            finally:
                self._room.release()
        finally:
            own_room.release()

    async def _run(self, attach: Attach, wish: Wish, exchange: Exchange) -> None:
        if not self._program:
            self._program = await git_core()
        pushing = wish.service == "git-receive-pack" and not wish.advertisement
        began = time.monotonic()
        body = None
        if not wish.advertisement:
            gzipped = exchange.head.header("content-encoding") is not None
            async with exchange.connected():
                # A body that is bad from its first byte, or never comes, costs no process of git.
                body = await begun(plain_body(exchange.body(), gzipped, body_limit(wish)))
        env = cgi_env(exchange.head, attach, wish, str(self._mirrors), str(self._hooks))
        env |= hook_env(attach, self._outbox)
        self._pushes[attach.repo] += pushing
        whole = False
        told = Told(attach, self._keep) if pushing else None
        body = told.counted(body) if told is not None and body is not None else body
        try:
            async with exchange.connected():
                status = await run_backend(
                    self._program, exchange, env | (told.env if told else {}), body, _SECONDS,
                    told.fds if told else (),
                )  # fmt: skip
            whole = True
            took = (time.monotonic() - began) * 1000
            log.info("%s: %s %s %d in %.0f ms", attach.box, wish.service, attach.repo, status, took)
        except BackendFailed as e:
            log.warning("%s: %s on %s failed: %s", attach.box, wish.service, attach.repo, e)
            if not exchange.started:
                raise BadRequest(500, "git failed on this request") from None
            raise ClientGone from None
        finally:
            self._pushes[attach.repo] -= pushing
            if pushing and not whole:
                mirror = self._mirrors / f"{attach.repo}.git"
                sweep(mirror, pushes_under_way=self._pushes[attach.repo] > 0)
            if told is not None:
                told.close(whole)

    def _keep(self, record: Record) -> None:
        log.info("%s: push %s: %s %s", record.box, record.verdict, record.code, record.reason)
        self.ledger.add(record)

    async def refuse(self, door: Door[Attach], exchange: Exchange, problem: BadRequest) -> None:
        """See Service. Plain text, which git shows; never 401, which would make git ask for a password."""
        text = f"thopter: {problem.message}\n".encode()
        if problem.message == NO_LFS:  # git-lfs shows what it is told in its own form alone
            body = json.dumps({"message": text.decode().strip()}).encode()
            return await exchange.answer(problem.status, [("content-type", LFS_TYPE)], body)
        await exchange.answer(problem.status, [("content-type", "text/plain")], text)


def _clear_up(options: Options) -> None:
    mirrors = options.state / "mirrors"
    ended = end_orphans(mirrors)
    if ended:
        log.warning("ended %d processes that an earlier gateway had left", ended)
    for mirror in mirrors.glob("*.git"):
        sweep(mirror, pushes_under_way=False)


def _build(options: Options, confined: tuple[str, ...]) -> GitGateway:
    return GitGateway(
        options.state / "mirrors", options.state / "gateway" / "hooks", confined, options.idle_exit
    )


if __name__ == "__main__":
    sys.exit(main("git", _build, network=False, before=_clear_up))
