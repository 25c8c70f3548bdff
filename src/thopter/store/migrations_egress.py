"""The tables of egress: what people allowed single boxes, and how far the gateway's log was read."""

from __future__ import annotations

from thopter.store.db import Conn


def m009_egress(conn: Conn) -> None:
    """The cursor has one row; another ``boot`` is another gateway process, read from its beginning."""
    conn.run(
        """CREATE TABLE egress_grants (
            box TEXT NOT NULL REFERENCES boxes (id), host TEXT NOT NULL, port BIGINT NOT NULL,
            at_ms BIGINT NOT NULL, PRIMARY KEY (box, host, port))"""
    )
    conn.run("CREATE TABLE egress_cursor (boot TEXT NOT NULL, seq BIGINT NOT NULL)")
