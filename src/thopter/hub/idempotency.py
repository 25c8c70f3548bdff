"""Idempotency keys, in one place for every mutating route: same key and same request, same answer."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import Struct

from thopter.hub.answers import bad_request, encode, error_body
from thopter.hub.asgi import Scope, headers_named
from thopter.hub.ports import Composition
from thopter.model.errors import HubUnreachable, NotNow, ThopterError, Throttled
from thopter.store.idempotency import Claim, fingerprint

log = logging.getLogger("thopter.hub.idempotency")

_KEY = re.compile(rb"[!-~]{1,200}")
_WAIT_SECONDS = 30.0
BOOT = secrets.token_hex(8)  # this life of the hub
_NOTHING_DONE = (Throttled, NotNow, HubUnreachable)


def read_key(scope: Scope) -> str:
    """The caller's key, or empty when it gave none."""
    given = headers_named(scope, b"idempotency-key")
    if not given:
        return ""
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        raise bad_request(
            "Idempotency-Key must be 1 to 200 visible ASCII characters, once", "use a UUID", status=422
        )
    return given[0].decode("ascii")


class Answer(Struct, frozen=True, kw_only=True):
    """A whole answer: status and JSON."""

    status: int
    body: bytes


async def once(
    inside: Composition,
    scope: Scope,
    key: str,
    body: bytes,
    now_ms: int,
    work: Callable[[], Awaitable[Answer]],
) -> Answer:
    """Do ``work`` unless this key has its answer already; keep the answer, refusals included.

    Not kept: refusals that did nothing and ask for a retry. What an earlier hub left in the middle is
    done again under the same token, marked as such: the use case knows what that means for it.
    """
    offered = secrets.token_hex(16)
    target = scope["path"] + "?" + scope["query_string"].decode("latin-1")
    claim = await _claim(inside, key, fingerprint(scope["method"], target, body), offered, now_ms)
    if claim.answered:
        return Answer(status=claim.status, body=encode(claim.response))
    try:
        with inside.mark(claim.token, claim.token != offered):
            answer = await work()
    except _NOTHING_DONE:
        await inside.idempotency.abandon(key)
        raise
    except ThopterError as error:
        await _keep(inside, key, Answer(status=error.http_status, body=error_body(error)))
        raise
    await _keep(inside, key, answer)
    return answer


async def _keep(inside: Composition, key: str, answer: Answer) -> None:
    try:
        await inside.idempotency.finish(key, answer.status, msgspec.json.decode(answer.body))
    except ThopterError as error:
        # The work is done and its answer is true: the caller gets it. A retry hears that the call is
        # being answered until the hub restarts, and is then done again under the same token.
        log.error("the answer of a request could not be kept: %s", error.message)


async def _claim(inside: Composition, key: str, body: str, token: str, now_ms: int) -> Claim:
    """Claim the key; a call under way with the same key is waited for, so that both get its answer."""
    pause, waited = 0.02, 0.0
    while True:
        try:
            return await inside.idempotency.begin(key, body, token, BOOT, now_ms)
        except NotNow:
            if waited >= _WAIT_SECONDS:
                raise
        await asyncio.sleep(pause)
        waited += pause
        pause = min(1.0, pause * 1.5)
