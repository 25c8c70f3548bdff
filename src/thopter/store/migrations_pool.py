"""Migration 10: pools of warm boxes, and which boxes wait in them."""

from __future__ import annotations

from thopter.store.db import Conn


def m010_pools(conn: Conn) -> None:
    """A row of ``pool_boxes`` is there exactly as long as the box belongs to its pool: who deletes the
    row has the box. A pool may go while its boxes are still being destroyed."""
    conn.run(
        """CREATE TABLE pools (
            id TEXT PRIMARY KEY, snapshot TEXT NOT NULL, repo TEXT NOT NULL, agent TEXT NOT NULL,
            wish TEXT NOT NULL, want BIGINT NOT NULL, created_ms BIGINT NOT NULL,
            taken BIGINT NOT NULL, problem TEXT NOT NULL, failures BIGINT NOT NULL,
            retry_ms BIGINT NOT NULL, UNIQUE (snapshot, repo, agent))"""
    )
    conn.run(
        """CREATE TABLE pool_boxes (
            box TEXT PRIMARY KEY REFERENCES boxes (id), pool TEXT NOT NULL, flow TEXT NOT NULL,
            recipe TEXT NOT NULL, state TEXT NOT NULL)"""
    )
