"""Further agents in a box, and which entries are theirs and not the run's own."""

from __future__ import annotations

from thopter.store.db import Conn


def m019_others(conn: Conn) -> None:
    """``body`` is the agent as recorded (JSON). ``aside``: an entry of another agent of the same box."""
    conn.run(
        """CREATE TABLE other_agents (
            box TEXT NOT NULL REFERENCES boxes (id), number BIGINT NOT NULL, body TEXT NOT NULL,
            PRIMARY KEY (box, number))"""
    )
    conn.run("ALTER TABLE entries ADD COLUMN aside BIGINT NOT NULL DEFAULT 0")
