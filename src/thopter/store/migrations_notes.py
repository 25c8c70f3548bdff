"""The tables of notes to people: the notes, their way to each target, and who is muted."""

from __future__ import annotations

from thopter.store.db import Conn


def m008_notes(conn: Conn) -> None:
    """What happened before there were notes rings nobody: the log is read from its present end."""
    conn.run(
        """CREATE TABLE notes (
            id TEXT PRIMARY KEY, key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, box TEXT NOT NULL,
            run TEXT NOT NULL, name TEXT NOT NULL, letter TEXT NOT NULL, held TEXT NOT NULL,
            created_ms BIGINT NOT NULL)"""
    )
    conn.run("CREATE INDEX notes_created ON notes (created_ms)")
    conn.run(
        """CREATE TABLE note_sends (
            note TEXT NOT NULL REFERENCES notes (id), target TEXT NOT NULL, state TEXT NOT NULL,
            attempts BIGINT NOT NULL, next_ms BIGINT NOT NULL, problem TEXT NOT NULL,
            sent_ms BIGINT NOT NULL, PRIMARY KEY (note, target))"""
    )
    conn.run("CREATE INDEX note_sends_due ON note_sends (next_ms) WHERE state = 'queued'")
    conn.run("CREATE TABLE note_mutes (box TEXT PRIMARY KEY, at_ms BIGINT NOT NULL)")
    conn.run("INSERT INTO counters (name, value) SELECT 'notes', value FROM counters WHERE name = 'events'")
