"""Make a store, or bring an older one up to date. Several processes may try at once, and any of them may be killed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, bindparam, insert, inspect, select, update

from orchestrator.errors import StoreError
from orchestrator.store import schema
from orchestrator.store.database import Database

__all__ = ["ensure_file", "prepare"]

_VERSION = "schema_version"


def ensure_file(database: Database, path: Path, *, create: bool) -> None:
    """Make the file of a SQLite store if there is none, or only an empty one."""
    with database.errors("make"):
        if path.exists() and path.stat().st_size:
            return
        if not create:
            raise _no_store(database)
        _create_file(path)


def _create_file(path: Path) -> None:
    """Make the store under another name and move it into place, so that `path` is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _folder_lock(path.parent):
        if path.exists() and path.stat().st_size:
            return  # somebody else was first
        draft = path.with_name(f".{path.name}.new")
        _remove(draft)  # left by a process that was killed here
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            _fill(draft, path)
            draft.replace(path)
        except BaseException:
            _remove(draft)
            raise
        _sync(path.parent)


def _fill(draft: Path, path: Path) -> None:
    database = Database.at_path(path, opened_as=draft)
    try:
        with database.engine.connect() as connection:
            connection.connection.cursor().execute("PRAGMA journal_mode = WAL")  # for good; not inside a transaction
        prepare(database, create=True)
    finally:
        database.close()  # the last connection moves everything from the journal into the file


def _remove(draft: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        draft.with_name(draft.name + suffix).unlink(missing_ok=True)


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def prepare(database: Database, *, create: bool) -> None:
    """Check the version and bring an older store up to date, one transaction per version."""
    with database.read() as connection:
        version = _version(database, connection)
    if version == 0:
        if not create:
            raise _no_store(database)
        with database.write() as connection:
            _create(database, connection)
    while 0 < version < schema.latest_version():
        with database.write() as connection:
            version = _upgrade(database, connection)


def _no_store(database: Database) -> StoreError:
    return StoreError(f"There is no store at {database.name}", hint="`halligan apply` makes one.")


def _version(database: Database, connection: Connection) -> int:
    """Return the schema's version, 0 for an empty database."""
    tables = set(inspect(connection).get_table_names())
    if schema.meta.name not in tables:
        if tables & schema.metadata.tables.keys() or (tables and database.is_sqlite):
            raise StoreError(f"{database.name} is a database, but not a Halligan store", hint="Check the path.")
        return 0
    found = connection.execute(select(schema.meta.c.value).where(schema.meta.c.name == _VERSION)).scalar_one_or_none()
    if found is None or not found.isdecimal():
        raise StoreError(f"{database.name} is a database, but not a Halligan store", hint="Check the path.")
    return _supported(database, int(found))


def _supported(database: Database, version: int) -> int:
    latest = schema.latest_version()
    if version > latest:
        raise StoreError(
            f"The store {database.name} was made by a newer Halligan (schema {version}, this one knows {latest})",
            hint="Use that version here, or upgrade this one.",
        )
    return version


def _create(database: Database, connection: Connection) -> None:
    database.alone(connection)
    if _version(database, connection):
        return  # somebody else was first
    schema.metadata.create_all(connection)
    connection.execute(insert(schema.meta).values(name=_VERSION, value=str(schema.latest_version())))
    connection.execute(insert(schema.head).values(id=1, seq=0, revision=0))


def _upgrade(database: Database, connection: Connection) -> int:
    """Go one version up, unless somebody else just did. Return the version reached."""
    database.alone(connection)
    version = _version(database, connection)
    if version < schema.latest_version():
        schema.UPGRADES[version - 1](connection)
        version += 1
        row = update(schema.meta).where(schema.meta.c.name == bindparam("key")).values(value=str(version))
        connection.execute(row, {"key": _VERSION})
    return version
