"""The site's lock on PostgreSQL: the server releases it when the holder's connection ends, however that happens."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from types import TracebackType

from sqlalchemy import Connection, delete, exc, func, select, text

from orchestrator.store import schema
from orchestrator.store.database import Database
from orchestrator.store.lock import PAUSE_S, TRIES, Holder, locked

__all__ = ["AdvisoryLock"]

_IS_HELD = text(
    "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND (classid::bigint << 32) | objid::bigint = :key"
)


class AdvisoryLock:
    """Keeps a connection of its own for as long as it is held."""

    def __init__(self, database: Database, *, site: str, command: str, at: float) -> None:
        self._database = database
        self._site = site
        self._holder = Holder.this(command=command, at=at)
        self._connection: Connection | None = None

    def __enter__(self) -> AdvisoryLock:
        with self._database.errors("lock"):
            connection = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            self._take(connection)
        except BaseException:
            connection.invalidate()  # a pooled connection would keep the lock
            connection.close()
            raise
        self._connection = connection
        return self

    def _take(self, connection: Connection) -> None:
        with self._database.errors("lock"):
            if not _try(connection, _key(connection, self._site)):
                raise locked(self._site, _read(connection, self._site))
            row = {"site": self._site, "holder": self._holder.to_json()}
            connection.execute(self._database.upsert(schema.holders), row)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._connection is not None
        connection, self._connection = self._connection, None
        with suppress(exc.DBAPIError):  # the connection is lost, and the lock with it
            connection.execute(delete(schema.holders).where(schema.holders.c.site == self._site))
        connection.invalidate()
        connection.close()

    @staticmethod
    def holder(database: Database, site: str) -> Holder | None:
        """Return who holds the lock of a site now, None if it is free."""
        with database.read() as connection:
            held = connection.execute(_IS_HELD, {"key": _key(connection, site)}).first()
            return _read(connection, site) if held else None


def _try(connection: Connection, key: int) -> bool:
    """Try a few times: the server needs a moment to notice that a killed holder is gone."""
    for _ in range(TRIES):
        if connection.execute(select(func.pg_try_advisory_lock(key))).scalar_one():
            return True
        time.sleep(PAUSE_S)
    return False


def _key(connection: Connection, site: str) -> int:
    """Return the lock's number: sites of one database must not meet, nor stores in two schemas of it."""
    place = connection.execute(select(func.current_schema())).scalar_one()
    digest = hashlib.sha256(f"halligan {place} {site}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _read(connection: Connection, site: str) -> Holder | None:
    query = select(schema.holders.c.holder).where(schema.holders.c.site == site)
    found = connection.execute(query).scalar_one_or_none()
    return Holder.from_json(found) if found else None
