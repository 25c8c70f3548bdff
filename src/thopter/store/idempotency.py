"""Idempotency keys: the same call again gets the same answer, another call under the key a refusal."""

from __future__ import annotations

import hashlib
from typing import Any

from msgspec import Struct

from thopter.model.errors import Conflict, NotNow
from thopter.store import codec
from thopter.store.db import Conn, Database

KEEP_MS = 7 * 86_400_000
KEY_MAX = 255


class Claim(Struct, frozen=True, kw_only=True):
    """What to do with a call. With ``response`` set: answer that. Otherwise do the work, then
    :meth:`Idempotency.finish`. ``token`` is the same for every attempt at this call, also after a
    crash: derive ids of flows and boxes from it, and a second attempt can't do things twice."""

    key: str
    token: str
    status: int = 0
    response: Any = None
    answered: bool = False


def fingerprint(method: str, path: str, body: bytes) -> str:
    """What makes two calls the same: sha256 of method, path and body."""
    digest = hashlib.sha256()
    for part in (method.encode(), path.encode("utf-8", "surrogateescape"), body):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


class IdempotencyTable:
    """Keys inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def begin(self, key: str, body: str, token: str, boot: str, now_ms: int) -> Claim:
        """Claim ``key`` for a call with fingerprint ``body``. ``boot`` names this life of the hub.

        Conflict: the key was used for another call. NotNow: the first call is still being answered
        by this same life. A call that an earlier life left unanswered is claimed anew with the
        token it had. Keys older than 7 days are forgotten.
        """
        self._conn.run("DELETE FROM idempotency WHERE key = ? AND created_ms < ?", (key, now_ms - KEEP_MS))
        added = self._conn.run(
            """INSERT INTO idempotency (key, body, token, boot, created_ms) VALUES (?, ?, ?, ?, ?)
               ON CONFLICT (key) DO NOTHING""",
            (key, body, token, boot, now_ms),
        )
        if added:
            return Claim(key=key, token=token)
        row = self._conn.row(
            "SELECT body, token, boot, status, response FROM idempotency WHERE key = ?", (key,)
        )
        assert row is not None  # it conflicted
        if row[0] != body:
            raise Conflict(
                f"the idempotency key {key!r} was used for another request", hint="use a new key for it"
            )
        if row[3] is not None:
            response = codec.from_json(row[4], object)
            return Claim(key=key, token=row[1], status=row[3], response=response, answered=True)
        if row[2] == boot:
            raise NotNow("the first call with this key is still being answered", hint="ask again in a moment")
        self._conn.run("UPDATE idempotency SET boot = ? WHERE key = ?", (boot, key))
        return Claim(key=key, token=row[1])

    def finish(self, key: str, status: int, response: Any) -> None:
        """Store the answer that every later call with this key gets."""
        self._conn.run(
            "UPDATE idempotency SET status = ?, response = ? WHERE key = ?",
            (status, codec.to_json(response, 16 << 20), key),
        )

    def abandon(self, key: str) -> None:
        """Forget an unanswered claim: nothing was done, the call may be made again."""
        self._conn.run("DELETE FROM idempotency WHERE key = ? AND status IS NULL", (key,))

    def expire(self, now_ms: int) -> int:
        """Forget keys older than 7 days; return how many."""
        return self._conn.run("DELETE FROM idempotency WHERE created_ms < ?", (now_ms - KEEP_MS,))


class Idempotency:
    """Keys for the rest of the hub."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def begin(self, key: str, body: str, token: str, boot: str, now_ms: int) -> Claim:
        """See :meth:`IdempotencyTable.begin`."""
        return await self._db.write(lambda c: IdempotencyTable(c).begin(key, body, token, boot, now_ms))

    async def finish(self, key: str, status: int, response: Any) -> None:
        """See :meth:`IdempotencyTable.finish`."""
        await self._db.write(lambda c: IdempotencyTable(c).finish(key, status, response))

    async def abandon(self, key: str) -> None:
        """See :meth:`IdempotencyTable.abandon`."""
        await self._db.write(lambda c: IdempotencyTable(c).abandon(key))

    async def expire(self, now_ms: int) -> int:
        """See :meth:`IdempotencyTable.expire`."""
        return await self._db.write(lambda c: IdempotencyTable(c).expire(now_ms))
