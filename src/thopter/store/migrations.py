"""The schema, as a list of small migrations: each has a name, runs once, in a transaction.

A database that holds a name unknown here was written by a newer thopter and is refused: an older
one would not know what its columns mean. SQL here is what both SQLite and PostgreSQL take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from thopter.kit.clock import Clock, SystemClock
from thopter.model.errors import Refused
from thopter.store import migrations_talk
from thopter.store.db import Conn
from thopter.store.migrations_approvals import m011_approvals_and_usage
from thopter.store.migrations_audit import m016_audit
from thopter.store.migrations_budgets import m014_budgets
from thopter.store.migrations_egress import m009_egress
from thopter.store.migrations_git import m013_git
from thopter.store.migrations_home import m007_variables
from thopter.store.migrations_leases import m017_leases
from thopter.store.migrations_notes import m008_notes
from thopter.store.migrations_others import m019_others
from thopter.store.migrations_page import m018_page_sessions, m021_push_subscriptions
from thopter.store.migrations_pool import m010_pools
from thopter.store.migrations_snapshots import m005_snapshots
from thopter.store.migrations_tokens import m015_tokens
from thopter.store.migrations_unsent import m012_heard

Migration = Callable[[Conn], None]
MIGRATIONS: list[tuple[str, Migration]] = []


def migration(fn: Migration) -> Migration:
    """Register ``fn``; its name is its identity for ever, its place in the file its order."""
    MIGRATIONS.append((fn.__name__, fn))
    return fn


def migrate(
    conn: Conn, steps: Sequence[tuple[str, Migration]] | None = None, clock: Clock | None = None
) -> list[str]:
    """Bring the schema up to date; return the names applied now. Each is all or nothing."""
    steps = MIGRATIONS if steps is None else steps
    clock = clock or SystemClock()
    conn.run("CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, at_ms BIGINT NOT NULL)")
    applied = {name for (name,) in conn.rows("SELECT name FROM migrations")}
    unknown = sorted(applied - {name for name, _ in steps})
    if unknown:
        raise Refused(
            f"the database was written by a newer thopter (it has {', '.join(unknown)})",
            hint="install that version again, or set THOPTER_STATE_DIR to start with an empty state",
        )
    done: list[str] = []
    for name, fn in steps:
        if name not in applied:
            conn.run("BEGIN IMMEDIATE")
            try:
                fn(conn)
                conn.run("INSERT INTO migrations (name, at_ms) VALUES (?, ?)", (name, clock.now_ms()))
            except BaseException:
                conn.run("ROLLBACK")
                raise
            conn.run("COMMIT")
            done.append(name)
    return done


@migration
def m001_boxes_and_runs(conn: Conn) -> None:
    """A name belongs to at most one box that is not gone."""
    conn.run(
        """CREATE TABLE boxes (
            id TEXT PRIMARY KEY, name TEXT NOT NULL, provider TEXT NOT NULL, state TEXT NOT NULL,
            created_ms BIGINT NOT NULL, changed_ms BIGINT NOT NULL, limits TEXT NOT NULL,
            isolation TEXT, golden TEXT NOT NULL, problem TEXT NOT NULL, memory TEXT NOT NULL)"""
    )
    conn.run("CREATE UNIQUE INDEX boxes_name ON boxes (name) WHERE state <> 'gone'")
    conn.run(
        """CREATE TABLE runs (
            id TEXT PRIMARY KEY, box TEXT NOT NULL REFERENCES boxes (id), agent TEXT NOT NULL,
            prompt TEXT NOT NULL, state TEXT NOT NULL, created_ms BIGINT NOT NULL,
            changed_ms BIGINT NOT NULL, reason TEXT, session TEXT NOT NULL, repo TEXT,
            cwd TEXT NOT NULL, problem TEXT NOT NULL, exit_code BIGINT)"""
    )
    conn.run("CREATE INDEX runs_box ON runs (box, created_ms)")


@migration
def m002_events(conn: Conn) -> None:
    """Numbers come from ``counters``, in the same transaction: contiguous, in order of commit."""
    conn.run("CREATE TABLE counters (name TEXT PRIMARY KEY, value BIGINT NOT NULL)")
    conn.run("INSERT INTO counters (name, value) VALUES ('events', 0)")
    conn.run(
        """CREATE TABLE events (
            seq BIGINT PRIMARY KEY, kind TEXT NOT NULL, at_ms BIGINT NOT NULL, box TEXT NOT NULL,
            run TEXT NOT NULL, flow TEXT NOT NULL, data TEXT NOT NULL)"""
    )
    for column in ("box", "run", "flow"):
        conn.run(f"CREATE INDEX events_{column} ON events ({column}, seq) WHERE {column} <> ''")


@migration
def m003_what_boxes_say(conn: Conn) -> None:
    """Transcript entries, evidence, and how far each box has been read."""
    conn.run(
        """CREATE TABLE entries (
            run TEXT NOT NULL REFERENCES runs (id), ordinal BIGINT NOT NULL, session TEXT NOT NULL,
            key TEXT NOT NULL, at_ms BIGINT NOT NULL, role TEXT NOT NULL, summary TEXT NOT NULL,
            text TEXT NOT NULL, tool TEXT NOT NULL, is_error BOOLEAN NOT NULL,
            sidechain BOOLEAN NOT NULL, PRIMARY KEY (run, ordinal), UNIQUE (run, session, key))"""
    )
    conn.run(
        """CREATE TABLE evidence (
            run TEXT NOT NULL REFERENCES runs (id), ordinal BIGINT NOT NULL, source TEXT NOT NULL,
            fact TEXT NOT NULL, at_ms BIGINT NOT NULL, seen_ms BIGINT NOT NULL,
            detail TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY (run, ordinal))"""
    )
    conn.run(
        """CREATE TABLE cursors (
            box TEXT NOT NULL REFERENCES boxes (id), name TEXT NOT NULL, value BIGINT NOT NULL,
            PRIMARY KEY (box, name))"""
    )


@migration
def m004_requests(conn: Conn) -> None:
    """Answers to repeated calls, and work that somebody wants done."""
    conn.run(
        """CREATE TABLE idempotency (
            key TEXT PRIMARY KEY, body TEXT NOT NULL, token TEXT NOT NULL, boot TEXT NOT NULL,
            created_ms BIGINT NOT NULL, status BIGINT, response TEXT)"""
    )
    conn.run("CREATE INDEX idempotency_created ON idempotency (created_ms)")
    conn.run(
        """CREATE TABLE intents (
            id TEXT PRIMARY KEY, kind TEXT NOT NULL, origin TEXT NOT NULL, trust TEXT NOT NULL,
            request TEXT NOT NULL, state TEXT NOT NULL, created_ms BIGINT NOT NULL,
            flow TEXT NOT NULL, note TEXT NOT NULL, owner TEXT NOT NULL, fence BIGINT NOT NULL,
            lease_ms BIGINT NOT NULL)"""
    )
    conn.run("CREATE INDEX intents_open ON intents (state, created_ms)")


migration(m005_snapshots)
migration(migrations_talk.m006_talk)
migration(m007_variables)
migration(m008_notes)
migration(m009_egress)
migration(m010_pools)
migration(m011_approvals_and_usage)
migration(m012_heard)
migration(m013_git)
migration(m014_budgets)
migration(m015_tokens)
migration(m016_audit)
migration(m017_leases)
migration(m018_page_sessions)
migration(m019_others)
migration(m021_push_subscriptions)
