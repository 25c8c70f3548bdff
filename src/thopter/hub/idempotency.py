"""Idempotency keys, in one place for every mutating route: same key and same request, same answer."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable

from thopter.hub.answers import bad_request, error_body
from thopter.hub.asgi import Scope, headers_named
from thopter.hub.ports import IdempotencyPort, StoredAnswer
from thopter.model.errors import Ambiguous, Conflict, HubUnreachable, NotNow, ThopterError, Throttled

log = logging.getLogger("thopter.hub.idempotency")

_KEY = re.compile(rb"[!-~]{1,200}")
_WAIT_SECONDS = 30.0
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


def request_hash(scope: Scope, body: bytes) -> str:
    """What makes two requests the same: method, path, query, body."""
    digest = hashlib.sha256()
    for part in (scope["method"].encode(), scope["path"].encode(), scope["query_string"], body):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


async def once(
    keys: IdempotencyPort, key: str, body_hash: str, work: Callable[[], Awaitable[StoredAnswer]]
) -> StoredAnswer:
    """Do ``work`` unless this key has its answer already; keep the answer, refusals included.

    Not kept: refusals that did nothing and ask for a retry. A key that an earlier hub left in the
    middle is never done again, since it may have happened: the caller is told to look.
    """
    kept = await _claim(keys, key, body_hash)
    if kept is not None:
        return kept
    try:
        answer = await work()
    except _NOTHING_DONE:
        await keys.forget(key)
        raise
    except ThopterError as error:
        await _keep(keys, key, StoredAnswer(status=error.http_status, body=error_body(error)))
        raise
    await _keep(keys, key, answer)
    return answer


async def _keep(keys: IdempotencyPort, key: str, answer: StoredAnswer) -> None:
    try:
        await keys.finish(key, answer)
    except ThopterError as error:
        # The work is done and its answer is true: the caller gets it. A retry will be told to look.
        log.error("the answer of a request could not be kept: %s", error.message)


async def _claim(keys: IdempotencyPort, key: str, body_hash: str) -> StoredAnswer | None:
    pause = 0.02
    waited = 0.0
    while True:
        begun = await keys.begin(key, body_hash)
        if begun.outcome == "new":
            return None
        if begun.outcome == "stored" and begun.answer is not None:
            return begun.answer
        if begun.outcome == "conflict":
            raise Conflict("this Idempotency-Key was used for another request", hint="use a new key", key=key)
        if begun.outcome == "unknown":
            raise Ambiguous(
                "the hub ended in the middle of this request; it may have happened",
                hint="look at 'thopter status' before doing it again with a new key",
                key=key,
            )
        if waited >= _WAIT_SECONDS:
            raise Conflict("the same request is still under way", hint="ask again later", key=key)
        await asyncio.sleep(pause)
        waited += pause
        pause = min(1.0, pause * 1.5)
