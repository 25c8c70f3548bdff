"""The schema: from empty, from every earlier one, from a newer one; and the file itself."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest
from store_support import event

from thopter.model.errors import Refused, StorageError
from thopter.store import sqlite
from thopter.store.db import Conn, Database
from thopter.store.migrations import MIGRATIONS, migrate
from thopter.store.store import Store


def _schema(path: Path) -> list[tuple[str, str]]:
    conn = sqlite.connect(path)
    try:
        return [
            (name, " ".join(sql.split()))
            for name, sql in conn.execute("SELECT name, sql FROM sqlite_master WHERE sql <> '' ORDER BY name")
        ]
    finally:
        conn.close()


def _apply(path: Path, count: int) -> list[str]:
    raw = sqlite.connect(path)
    try:
        return migrate(Conn(raw), MIGRATIONS[:count])
    finally:
        raw.close()


@pytest.mark.parametrize("start", range(len(MIGRATIONS) + 1))
def test_the_schema_is_the_same_from_every_earlier_one(tmp_path: Path, start: int) -> None:
    names = [name for name, _ in MIGRATIONS]
    assert _apply(tmp_path / "fresh.db", len(MIGRATIONS)) == names
    assert _apply(tmp_path / "old.db", start) == names[:start]
    assert _apply(tmp_path / "old.db", len(MIGRATIONS)) == names[start:]
    assert _apply(tmp_path / "old.db", len(MIGRATIONS)) == []
    assert _schema(tmp_path / "old.db") == _schema(tmp_path / "fresh.db")
    assert len(_schema(tmp_path / "fresh.db")) > 10


def test_what_was_stored_before_a_migration_is_there_after_it(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    _apply(path, 2)
    raw = sqlite.connect(path)
    raw.execute("INSERT INTO events VALUES (1, 'note', 5, '', '', '', '{\"n\":1}')")
    raw.execute("UPDATE counters SET value = 1")
    raw.close()

    async def go() -> None:
        store = await Store.open(path)
        assert await store.events.append([event(2)]) == [2]
        assert [e.data["n"] for e in (await store.events.read()).events] == [1, 2]
        await store.close()

    asyncio.run(go())


def test_a_database_of_a_newer_thopter_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    raw = sqlite.connect(path)
    migrate(
        Conn(raw), [*MIGRATIONS, ("m999_later", lambda c: c.run("CREATE TABLE later (x INTEGER)") and None)]
    )
    raw.close()
    before = path.read_bytes()
    with pytest.raises(Refused, match="m999_later"):
        asyncio.run(Store.open(path))
    assert path.read_bytes() == before


def test_a_migration_that_dies_in_the_middle_leaves_the_old_schema(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    _apply(path, 2)
    before = _schema(path)

    def dies(conn: Conn) -> None:
        conn.run("CREATE TABLE half (x INTEGER)")
        conn.run("DROP TABLE events")
        raise KeyboardInterrupt

    raw = sqlite.connect(path)
    with pytest.raises(KeyboardInterrupt):
        migrate(Conn(raw), [*MIGRATIONS[:2], ("m777_dies", dies)])
    raw.close()
    assert _schema(path) == before
    assert _apply(path, len(MIGRATIONS)) == [name for name, _ in MIGRATIONS[2:]]


def test_the_database_and_its_side_files_are_for_the_owner_only(tmp_path: Path) -> None:
    async def go() -> None:
        store = await Store.open(tmp_path / "hub.db")
        await store.events.append([event()])
        found = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
        assert found == {"hub.db": 0o600, "hub.db-wal": 0o600, "hub.db-shm": 0o600}
        await store.close()

    asyncio.run(go())


def test_commits_wait_for_the_disk(tmp_path: Path) -> None:
    async def settings() -> list[Any]:
        database = Database(tmp_path / "hub.db")
        await database.open(lambda c: None)
        names = ("journal_mode", "synchronous", "foreign_keys")
        got = await database.write(lambda c: [c.rows(f"PRAGMA {n}")[0][0] for n in names])
        await database.close()
        return got

    assert asyncio.run(settings()) == ["wal", 2, 1]


def test_an_old_library_is_refused_with_what_to_install() -> None:
    sqlite.check_library()
    assert tuple(sqlite.dbapi.sqlite_version_info) >= sqlite.LIBRARY_MIN
    with pytest.raises(Refused, match=r"3\.40\.1") as caught:
        sqlite.check_library((3, 40, 1))
    assert "pysqlite3" in caught.value.hint
    with pytest.raises(Refused):
        sqlite.check_library((3, 51, 2))
    sqlite.check_library((3, 51, 3))
    sqlite.check_library((4, 0, 0))


@pytest.mark.parametrize(
    "content", [b"this is no database, but it is long enough to be one" * 50, b"\x00" * 4096]
)
def test_a_file_that_is_no_database_is_never_written_over(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hub.db"
    path.write_bytes(content)
    with pytest.raises(StorageError):
        asyncio.run(Store.open(path))
    assert path.read_bytes() == content


def test_a_place_where_no_file_can_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/etc/hostname")
    for path in (tmp_path / "folder", tmp_path / "no" / "hub.db", tmp_path / "link"):
        with pytest.raises(StorageError, match="can't be"):
            asyncio.run(Store.open(path))
