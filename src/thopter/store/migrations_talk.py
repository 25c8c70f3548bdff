"""Tables of talking: messages that the hub keeps for agents, and labels on thopters."""

from __future__ import annotations

from thopter.store.db import Conn


def m006_talk(conn: Conn) -> None:
    """``ordinal`` orders the messages of a box; ``marks`` is how far the box had been read when a
    message was begun to be typed, so that after a crash what came later tells whether it arrived."""
    conn.run(
        """CREATE TABLE messages (
            id TEXT PRIMARY KEY, box TEXT NOT NULL REFERENCES boxes (id), run TEXT NOT NULL,
            ordinal BIGINT NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL, text TEXT NOT NULL,
            created_ms BIGINT NOT NULL, changed_ms BIGINT NOT NULL, sent_ms BIGINT NOT NULL,
            entries BIGINT NOT NULL, marks TEXT NOT NULL, outcome TEXT NOT NULL,
            UNIQUE (box, ordinal))"""
    )
    conn.run("CREATE INDEX messages_state ON messages (state, box)")
    conn.run(
        """CREATE TABLE labels (
            box TEXT NOT NULL REFERENCES boxes (id), kind TEXT NOT NULL, author TEXT NOT NULL,
            run TEXT NOT NULL, at_ms BIGINT NOT NULL, text TEXT NOT NULL,
            PRIMARY KEY (box, kind, author))"""
    )
