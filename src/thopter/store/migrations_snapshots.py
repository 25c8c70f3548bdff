"""Migration 5: saved boxes, what was started from them, and how long boxes may go on."""

from __future__ import annotations

from thopter.store.db import Conn


def m005_snapshots(conn: Conn) -> None:
    """A name belongs to at most one snapshot that is not gone; a box has at most one lease."""
    conn.run(
        """CREATE TABLE snapshots (
            id TEXT PRIMARY KEY, name TEXT NOT NULL, provider TEXT NOT NULL, kind TEXT NOT NULL,
            state TEXT NOT NULL, created_ms BIGINT NOT NULL, box TEXT NOT NULL, box_name TEXT NOT NULL,
            run TEXT NOT NULL, agent TEXT NOT NULL, session TEXT NOT NULL, repo TEXT, cwd TEXT NOT NULL,
            golden TEXT NOT NULL, parent TEXT NOT NULL, label TEXT NOT NULL, size BIGINT NOT NULL,
            turn_ms BIGINT NOT NULL)"""
    )
    conn.run(
        """CREATE UNIQUE INDEX snapshots_name ON snapshots (name)
           WHERE name <> '' AND state NOT IN ('dropping', 'gone')"""
    )
    conn.run("CREATE INDEX snapshots_box ON snapshots (box, created_ms)")
    conn.run(
        """CREATE TABLE leases (
            box TEXT PRIMARY KEY REFERENCES boxes (id), keep_min BIGINT NOT NULL,
            expires_ms BIGINT NOT NULL, idle_min BIGINT NOT NULL, idle_until_ms BIGINT NOT NULL,
            on_idle TEXT NOT NULL, from_ms BIGINT NOT NULL)"""
    )
    conn.run("ALTER TABLE boxes ADD COLUMN snapshot TEXT NOT NULL DEFAULT ''")
    conn.run("ALTER TABLE runs ADD COLUMN parent TEXT NOT NULL DEFAULT ''")
