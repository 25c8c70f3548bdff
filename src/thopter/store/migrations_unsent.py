"""What was acknowledged stays recorded until the agent's own conversation holds it."""

from __future__ import annotations

from thopter.store.db import Conn


def m012_heard(conn: Conn) -> None:
    """``heard_ms``: when a message was seen in the conversation, 0 not yet. Earlier ones count as heard:
    of those nobody kept what would be needed to tell."""
    conn.run("ALTER TABLE messages ADD COLUMN heard_ms BIGINT NOT NULL DEFAULT 0")
    conn.run("UPDATE messages SET heard_ms = changed_ms")
