"""The SQLite driver: which library, how a connection is set up, and its errors in our words."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sqlite3
from pathlib import Path
from typing import Any

from thopter.model.errors import Refused, StorageError, StorageFull, ThopterError, TimedOut

LIBRARY_MIN = (3, 51, 3)  # older ones can corrupt a database in WAL mode (the WAL-reset race)
BUSY_MS = 10_000
_WAL_LIMIT_BYTES = 64 << 20  # what a write-ahead log that once grew is cut back to
_ROOM_BYTES = 1 << 20  # an I/O error with less than this free is a full disk
_FULL, _IOERR, _BUSY, _LOCKED, _CORRUPT, _NOTADB, _READONLY, _CANTOPEN = 13, 10, 5, 6, 11, 26, 8, 14


def _find_driver() -> Any:
    """The newest of the packaged library and Python's own; both speak DB-API 2."""
    found: list[Any] = [sqlite3]
    with contextlib.suppress(ImportError):  # there is no wheel for every platform
        found.append(importlib.import_module("pysqlite3.dbapi2"))
    return max(found, key=lambda module: module.sqlite_version_info)


dbapi: Any = _find_driver()


def check_library(version: tuple[int, ...] | None = None) -> None:
    """Raise :class:`Refused` when the SQLite library is too old to be trusted with WAL."""
    have = tuple(dbapi.sqlite_version_info) if version is None else version
    if have < LIBRARY_MIN:
        raise Refused(
            f"the SQLite library is {_dotted(have)}; below {_dotted(LIBRARY_MIN)} it can corrupt a database",
            hint="install the package pysqlite3 0.6.1 or newer into thopter's environment",
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def create_private(path: Path) -> None:
    """Make sure the file exists with mode 0600 (SQLite gives its side files the same mode)."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"there is no room to make {path}") from e
        raise StorageError(f"{path} can't be opened: {e.strerror}") from e


def connect(path: Path, *, read_only: bool = False) -> Any:
    """Open ``path`` in autocommit mode with the house's settings; errors are ours."""
    check_library()
    conn = None
    try:
        conn = dbapi.connect(
            os.fspath(path), isolation_level=None, check_same_thread=False, cached_statements=256
        )
        set_up(conn)
        if read_only:
            conn.execute("PRAGMA query_only = 1")
    except dbapi.Error as e:
        if conn is not None:
            conn.close()
        raise explain(e, path) from e
    return conn


def set_up(conn: Any) -> None:
    """Give a raw connection write-ahead logging with an fsync at every commit, and foreign keys.

    Used by the hub's database and by the flow engine's. Raises :class:`StorageError` when the
    file system can't do write-ahead logging (some network mounts)."""
    conn.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    mode = conn.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode not in ("wal", "memory"):
        raise StorageError(
            f"the database can't use write-ahead logging (journal mode {mode})",
            hint="put the state folder on a local disk: set THOPTER_STATE_DIR",
        )
    conn.execute("PRAGMA synchronous = FULL")
    conn.execute("PRAGMA foreign_keys = ON")
    conn.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")


def is_full(error: BaseException, folder: Path) -> bool:
    """True when a driver's error means that the disk (or the database's own limit) is full."""
    code = _primary_code(error)
    return code == _FULL or (code == _IOERR and _free_bytes(folder) < _ROOM_BYTES)


def explain(error: BaseException, path: Path) -> ThopterError:
    """Turn a driver's error into the one a caller of the store may see."""
    code = _primary_code(error)
    if is_full(error, path.parent):
        return StorageFull(f"there is no room left for {path.name} on the disk of {path.parent}")
    if code in (_BUSY, _LOCKED):
        return TimedOut(
            f"{path} was locked by another program for over {BUSY_MS // 1000} s",
            hint="end the program that holds it (a backup, an sqlite3 shell)",
        )
    if code in (_CORRUPT, _NOTADB):
        return StorageError(
            f"{path} is damaged: {error}", hint="stop the hub, keep a copy of the file, restore a backup"
        )
    if code in (_READONLY, _CANTOPEN):
        return StorageError(f"{path} can't be written: {error}", hint="look at the folder's owner and mode")
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return StorageError(f"the database failed: {error} ({name})", path=str(path))


def _primary_code(error: BaseException) -> int:
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _free_bytes(folder: Path) -> int:
    try:
        found = os.statvfs(folder)
    except OSError:
        return _ROOM_BYTES  # unknown: don't call an I/O error a full disk
    return found.f_bavail * found.f_frsize
