"""Migration 14: what thopters may spend, and which budgets people were told of."""

from __future__ import annotations

from thopter.store.db import Conn


def m014_budgets(conn: Conn) -> None:
    """``own`` and ``added`` are amounts by kind; ``token`` is the call that changed it last, so that a
    repeated one adds nothing. A row of ``budget_told`` is one thing that was told once."""
    conn.run(
        """CREATE TABLE budgets (
            box TEXT PRIMARY KEY REFERENCES boxes (id), own TEXT NOT NULL, added TEXT NOT NULL,
            token TEXT NOT NULL)"""
    )
    conn.run(
        """CREATE TABLE budget_told (
            account TEXT NOT NULL, what TEXT NOT NULL, level TEXT NOT NULL, most BIGINT NOT NULL,
            at_ms BIGINT NOT NULL, PRIMARY KEY (account, what, level, most))"""
    )
