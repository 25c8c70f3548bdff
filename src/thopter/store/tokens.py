"""Tokens of callers over TCP, as digests."""

from __future__ import annotations

from msgspec import Struct

from thopter.store import codec
from thopter.store.db import Conn, Database


class TokenRow(Struct, frozen=True, kw_only=True):
    """One token. ``digest``: SHA-256 in hex of its 256 random bits; ``expires_ms`` 0: never."""

    name: str
    digest: str
    scopes: tuple[str, ...]
    created_ms: int
    expires_ms: int = 0


class TokenTable:
    """Tokens inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def all(self) -> list[TokenRow]:
        """Every token, by name."""
        rows = self._conn.rows(
            "SELECT name, digest, scopes, created_ms, expires_ms FROM tokens ORDER BY name"
        )
        return [
            TokenRow(name=n, digest=d, scopes=tuple(s.split()), created_ms=at, expires_ms=end)
            for n, d, s, at, end in rows
        ]

    def add(self, row: TokenRow) -> bool:
        """Record it; False when there is one of that name."""
        done = self._conn.run(
            """INSERT INTO tokens (name, digest, scopes, created_ms, expires_ms) VALUES (?, ?, ?, ?, ?)
               ON CONFLICT (name) DO NOTHING""",
            (row.name, row.digest, " ".join(row.scopes), codec.clean_ms(row.created_ms), row.expires_ms),
        )
        return done == 1

    def delete(self, name: str) -> bool:
        """Forget it; False when there was none."""
        return self._conn.run("DELETE FROM tokens WHERE name = ?", (name,)) == 1


class Tokens:
    """Tokens for the rest of the hub; each call is one durable transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def all(self) -> list[TokenRow]:
        """See :meth:`TokenTable.all`."""
        return await self._db.read(lambda c: TokenTable(c).all())
