"""The table of variables that new boxes get in their environment."""

from __future__ import annotations

from thopter.store.db import Conn


def m007_variables(conn: Conn) -> None:
    """One row a variable; the values are read by boxes, so they are no secrets."""
    conn.run(
        "CREATE TABLE variables (name TEXT PRIMARY KEY, value TEXT NOT NULL, changed_ms BIGINT NOT NULL)"
    )
