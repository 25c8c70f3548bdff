"""The table of tokens for callers over TCP."""

from __future__ import annotations

from thopter.store.db import Conn


def m015_tokens(conn: Conn) -> None:
    """Digests only: who reads the database can't call the hub with it."""
    conn.run(
        """CREATE TABLE tokens (
            name TEXT PRIMARY KEY, digest TEXT NOT NULL UNIQUE, scopes TEXT NOT NULL,
            created_ms BIGINT NOT NULL, expires_ms BIGINT NOT NULL)"""
    )
