"""The tables of the audit: a chain of records, and where it ends."""

from __future__ import annotations

from thopter.store.db import Conn


def m016_audit(conn: Conn) -> None:
    """``record`` is the text that was hashed; the other columns of ``audit`` only help to find it.
    ``audit_head`` has one row."""
    conn.run(
        """CREATE TABLE audit (
            seq BIGINT PRIMARY KEY, at_ms BIGINT NOT NULL, kind TEXT NOT NULL, box TEXT NOT NULL,
            name TEXT NOT NULL, record TEXT NOT NULL, hash TEXT NOT NULL)"""
    )
    conn.run("CREATE INDEX audit_box ON audit (box, seq) WHERE box <> ''")
    conn.run("CREATE INDEX audit_name ON audit (name, seq) WHERE name <> ''")
    conn.run("CREATE TABLE audit_head (seq BIGINT NOT NULL, hash TEXT NOT NULL)")
    conn.run("INSERT INTO audit_head (seq, hash) VALUES (0, ?)", ("0" * 64,))
