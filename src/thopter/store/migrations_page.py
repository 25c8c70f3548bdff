"""The tables of the page: who is logged in."""

from __future__ import annotations

from thopter.store.db import Conn


def m018_page_sessions(conn: Conn) -> None:
    """Digests only: who reads the database is not logged in by it."""
    conn.run(
        """CREATE TABLE page_sessions (
            id TEXT PRIMARY KEY, digest TEXT NOT NULL UNIQUE, key_digest TEXT NOT NULL, role TEXT NOT NULL,
            device TEXT NOT NULL, agent TEXT NOT NULL, created_ms BIGINT NOT NULL, seen_ms BIGINT NOT NULL,
            expires_ms BIGINT NOT NULL)"""
    )


def m021_push_subscriptions(conn: Conn) -> None:
    """Browsers that get notes. They go with their session."""
    conn.run(
        """CREATE TABLE push_subscriptions (
            id TEXT PRIMARY KEY, session TEXT NOT NULL, endpoint TEXT NOT NULL UNIQUE, p256dh TEXT NOT NULL,
            auth TEXT NOT NULL, kinds TEXT NOT NULL, quiet TEXT NOT NULL, device TEXT NOT NULL,
            role TEXT NOT NULL, created_ms BIGINT NOT NULL)"""
    )
