"""Leases count in minutes and parts of minutes."""

from __future__ import annotations

from thopter.store.db import Conn


def m017_leases(conn: Conn) -> None:
    """``keep_min`` and ``idle_min`` take fractions. Made anew: a column's type can't be changed in SQLite."""
    conn.run(
        """CREATE TABLE leases_in_parts (
            box TEXT PRIMARY KEY REFERENCES boxes (id), keep_min DOUBLE PRECISION NOT NULL,
            expires_ms BIGINT NOT NULL, idle_min DOUBLE PRECISION NOT NULL, idle_until_ms BIGINT NOT NULL,
            on_idle TEXT NOT NULL, from_ms BIGINT NOT NULL)"""
    )
    columns = "box, keep_min, expires_ms, idle_min, idle_until_ms, on_idle, from_ms"
    conn.run(f"INSERT INTO leases_in_parts ({columns}) SELECT {columns} FROM leases")
    conn.run("DROP TABLE leases")
    conn.run("ALTER TABLE leases_in_parts RENAME TO leases")
