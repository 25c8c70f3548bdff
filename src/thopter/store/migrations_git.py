"""The tables of pushes: how far the git gateway's log was read, and what has to go upstream."""

from __future__ import annotations

from thopter.store.db import Conn


def m013_git(conn: Conn) -> None:
    """One row of ``git_outbox`` is the branch of one box in one mirror; see ``store.pushes.PushRow``. What is
    done stays, for the next push's lease."""
    conn.run("CREATE TABLE git_cursor (boot TEXT NOT NULL, seq BIGINT NOT NULL)")
    conn.run(
        """CREATE TABLE git_outbox (
            slug TEXT NOT NULL, name TEXT NOT NULL, box TEXT NOT NULL, run TEXT NOT NULL,
            source TEXT NOT NULL, policy TEXT NOT NULL, wanted TEXT NOT NULL, has TEXT NOT NULL,
            tried TEXT NOT NULL, state TEXT NOT NULL, origin TEXT NOT NULL,
            attempts BIGINT NOT NULL, due_ms BIGINT NOT NULL,
            changed_ms BIGINT NOT NULL, problem TEXT NOT NULL, PRIMARY KEY (slug, box))"""
    )
