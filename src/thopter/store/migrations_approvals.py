"""Migration 11: what agents ask people, and what runs used of their models."""

from __future__ import annotations

from thopter.store.db import Conn


def m011_approvals_and_usage(conn: Conn) -> None:
    """A held hook is one approval. ``usage_marks`` says how far each of the model gateway's books has
    been counted, in the transaction that counted it."""
    conn.run(
        """CREATE TABLE approvals (
            id TEXT PRIMARY KEY, box TEXT NOT NULL REFERENCES boxes (id), run TEXT NOT NULL,
            hook TEXT NOT NULL, state TEXT NOT NULL, asked_ms BIGINT NOT NULL,
            changed_ms BIGINT NOT NULL, digest TEXT NOT NULL, call TEXT NOT NULL, body TEXT NOT NULL,
            ask TEXT NOT NULL, whole BIGINT NOT NULL, reply TEXT NOT NULL, detail TEXT NOT NULL,
            side BIGINT NOT NULL, UNIQUE (box, hook))"""
    )
    conn.run("CREATE INDEX approvals_open ON approvals (state, asked_ms)")
    conn.run(
        """CREATE TABLE usage (
            run TEXT NOT NULL, model TEXT NOT NULL, day TEXT NOT NULL, band BIGINT NOT NULL,
            box TEXT NOT NULL, requests BIGINT NOT NULL, failed BIGINT NOT NULL, input BIGINT NOT NULL,
            output BIGINT NOT NULL, cache_read BIGINT NOT NULL, cache_write BIGINT NOT NULL,
            cache_write_1h BIGINT NOT NULL, first_ms BIGINT NOT NULL, last_ms BIGINT NOT NULL,
            PRIMARY KEY (run, model, day, band))"""
    )
    conn.run("CREATE TABLE usage_marks (book TEXT PRIMARY KEY, line BIGINT NOT NULL)")
