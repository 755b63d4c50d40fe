"""SQL text that is made once and handed to the driver: SQLAlchemy takes twenty times as long to execute a statement.

The statements are still SQLAlchemy's, so both databases get theirs from one source.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import BindParameter, Column, Connection, bindparam, select
from sqlalchemy.sql import ClauseElement

from orchestrator.store.database import Database

__all__ = ["Finder", "Prepared"]

_SIZES = (1, 8, 64, 512)  # keys per statement; so few texts for any number of keys


class Prepared:
    """One statement. Columns of an INSERT are named, because SQLAlchemy would ask for those that the database fills."""

    def __init__(self, database: Database, statement: ClauseElement, columns: Sequence[str] | None = None) -> None:
        compiled = statement.compile(dialect=database.dialect, column_keys=columns)
        self._sql = str(compiled)

    def rows(self, connection: Connection, values: Mapping[str, Any]) -> list[Any]:
        """Execute and return the rows."""
        cursor = connection.connection.cursor()
        try:
            cursor.execute(self._sql, values)
            return list(cursor.fetchall())
        finally:
            cursor.close()

    def many(self, connection: Connection, values: Sequence[Mapping[str, Any]]) -> None:
        """Execute for each of the values; there may be none."""
        if not values:
            return
        cursor = connection.connection.cursor()
        try:
            if len(values) == 1:
                cursor.execute(self._sql, values[0])
            else:
                cursor.executemany(self._sql, values)
        finally:
            cursor.close()


class Finder:
    """The rows of a table whose column is one of some keys."""

    def __init__(self, database: Database, column: Column[Any]) -> None:
        self._database = database
        self._column = column
        self._statements: dict[int, Prepared] = {}  # by the number of keys, made when asked for

    def find(self, connection: Connection, keys: Collection[str]) -> Iterator[Any]:
        """Yield the rows. A statement takes more keys than are left: the last one is told again."""
        wanted = sorted(keys)
        for start in range(0, len(wanted), _SIZES[-1]):
            chunk = wanted[start : start + _SIZES[-1]]
            size = next(size for size in _SIZES if size >= len(chunk))
            chunk += [chunk[-1]] * (size - len(chunk))
            yield from self._statement(size).rows(connection, {f"k{i}": key for i, key in enumerate(chunk)})

    def _statement(self, size: int) -> Prepared:
        if size not in self._statements:
            keys: list[BindParameter[str]] = [bindparam(f"k{i}") for i in range(size)]
            query = select(self._column.table).where(self._column.in_(keys))
            self._statements[size] = Prepared(self._database, query)
        return self._statements[size]
