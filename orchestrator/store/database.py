"""Connections and transactions on SQLite or PostgreSQL, and their errors in an operator's words."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Dialect, Engine, Table, create_engine, event, exc
from sqlalchemy.engine import make_url

from orchestrator.errors import StoreError

__all__ = ["Database", "path_of"]

BUSY_TIMEOUT_S = 30
_WRITES = "halligan_writes"
_SCHEMA_LOCK = 0x48414C4C  # any number, the same in every version
_NO_ROOM = 64 * 1024  # SQLite reports some writes on a full disk as plain I/O errors


def path_of(url_or_path: str | Path) -> Path | None:
    """Return the file of a SQLite store, None for another database."""
    if isinstance(url_or_path, Path) or "://" not in url_or_path:
        return Path(url_or_path)
    url = _parse(url_or_path)
    if url.get_backend_name() != "sqlite":
        return None
    if not url.database or url.database == ":memory:":
        raise StoreError("A store is a file; SQLite's memory databases cannot be shared", hint="Give a path.")
    return Path(url.database)


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
    except (exc.ArgumentError, ValueError) as error:
        raise StoreError(
            "The address of the store is not a URL", hint="Use postgresql://user@host/database."
        ) from error
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise StoreError(
            f"A store cannot live in {url.get_backend_name()!r}",
            hint="Use a path (SQLite) or postgresql://user@host/database.",
        )
    return url.set(drivername="postgresql+psycopg") if url.get_backend_name() == "postgresql" else url


class Database:
    """One engine; `read` and `write` give a connection inside a transaction. Safe to use from several threads."""

    def __init__(self, engine: Engine, *, path: Path | None) -> None:
        self.engine = engine
        self.path = path
        self._error: type[Exception] = engine.dialect.loaded_dbapi.Error

    @classmethod
    def at_path(cls, path: Path, *, opened_as: Path | None = None) -> Database:
        """`opened_as` is the file's name for now, while it is made."""
        url = URL.create("sqlite", database=str(opened_as or path))
        engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return cls(engine, path=path)

    @classmethod
    def at_url(cls, url: str) -> Database:
        try:
            engine = create_engine(_parse(url), pool_pre_ping=True)
        except ImportError as error:
            raise StoreError(
                "A store on PostgreSQL needs psycopg, which is not installed",
                hint="Install Halligan with its extra `postgres`.",
            ) from error
        return cls(engine, path=None)

    @property
    def name(self) -> str:
        """What messages call this store; without a password."""
        return str(self.path) if self.path else self.engine.url.render_as_string(hide_password=True)

    @property
    def is_sqlite(self) -> bool:
        return self.path is not None

    @property
    def dialect(self) -> Dialect:
        """The dialect for statements whose values go to the driver by their names."""
        if not self.is_sqlite:
            return self.engine.dialect
        from sqlalchemy.dialects import sqlite

        return sqlite.dialect(paramstyle="named")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one moment of the store, however long it reads."""
        with self.errors("read"), self.engine.connect() as connection:
            if not self.is_sqlite:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")  # noqa: PLW2901 same object
            with connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A connection whose changes are committed together, or not at all."""
        with self.errors("write"), self.engine.connect() as connection:
            connection = connection.execution_options(**{_WRITES: True})  # noqa: PLW2901 same object
            with connection.begin():
                yield connection

    def alone(self, connection: Connection) -> None:
        """Keep others out of a change of the schema until the transaction ends. SQLite's write lock already does."""
        if not self.is_sqlite:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")

    def upsert(self, table: Table) -> Any:
        """Return INSERT that replaces the row with the same key."""
        insert = self._insert(table)
        keys = [column.name for column in table.primary_key]
        rest = {column.name: insert.excluded[column.name] for column in table.columns if column.name not in keys}
        return insert.on_conflict_do_update(index_elements=keys, set_=rest)

    def insert_new(self, table: Table) -> Any:
        """Return INSERT that leaves a row with the same key as it is."""
        return self._insert(table).on_conflict_do_nothing()

    def _insert(self, table: Table) -> Any:
        """Return the dialect's own INSERT. The other dialect is not loaded: it costs 40 ms."""
        if self.is_sqlite:
            from sqlalchemy.dialects import sqlite

            return sqlite.insert(table)
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def errors(self, verb: str) -> Iterator[None]:
        """Turn what the driver and the operating system say into a StoreError."""
        try:
            yield
        except exc.DBAPIError as error:
            raise self._explained(verb, error.orig or error) from error
        except (OSError, sqlite3.Error, self._error) as error:  # statements may go to the driver without SQLAlchemy
            raise self._explained(verb, error) from error

    def _explained(self, verb: str, error: BaseException) -> StoreError:
        said = " ".join(str(error).split())
        code = getattr(error, "sqlite_errorname", "")
        if self.path is not None:
            free = _free(self.path)
            no_space = isinstance(error, OSError) and error.errno == errno.ENOSPC
            if code == "SQLITE_FULL" or no_space or (_is_io(code) and free < _NO_ROOM):
                return StoreError(
                    f"Cannot {verb} the store {self.name}: the disk is full ({_size(free)} free)",
                    detail=("What was committed before is safe.",),
                    hint="Make room there and try again; an interrupted run goes on with `halligan apply --resume`.",
                )
        for prefix, what, hint in _MEANINGS:
            if code.startswith(prefix):
                return StoreError(f"Cannot {verb} the store {self.name}: {what}", detail=(said,), hint=hint)
        return StoreError(f"Cannot {verb} the store {self.name}", detail=(said,))


_RESTORE = "Restore it from a backup, or move it away and let `halligan apply` start a new one."
_MEANINGS: Sequence[tuple[str, str, str]] = (
    ("SQLITE_NOTADB", "it is not a Halligan store, nor any SQLite database", "Check the path."),
    ("SQLITE_CORRUPT", "the file is damaged", _RESTORE),
    ("SQLITE_READONLY", "it is read-only", "Check the owner and mode of the file, its folder and how it is mounted."),
    ("SQLITE_CANTOPEN", "the file cannot be opened", "Check the owner and mode of the file and its folder."),
    ("SQLITE_BUSY", f"another process kept it busy for {BUSY_TIMEOUT_S} s", "Try again."),
    ("SQLITE_CONSTRAINT_FOREIGNKEY", "the run's plan is not in it", "Save the plan before the run begins."),
)


def _is_io(code: str) -> bool:
    return code.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN"))


def _free(path: Path) -> int:
    for place in (path, *path.parents):
        if place.exists():
            return shutil.disk_usage(place).free
    return 0


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # sqlite3 would commit before DDL and begin too late; we send BEGIN ourselves
    for pragma in ("synchronous = FULL", "foreign_keys = ON", "journal_size_limit = 67108864"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later could not get the lock any more once somebody else has written.
    immediate = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
