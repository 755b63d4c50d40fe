"""The integrity check: is the database whole, and is what it believes the fold of its events?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, select, text

from orchestrator.errors import StoreError
from orchestrator.fingerprint import digest_of
from orchestrator.lifecycle import RefusedError
from orchestrator.store import rows, schema
from orchestrator.store.database import Database
from orchestrator.store.fold import State, fold

__all__ = ["check"]

_SHOWN = 20  # differences per table; a store that went wrong may have one per placement
_PAGE = 1000


def check(database: Database) -> list[str]:
    """Read the whole store at one moment and return what is wrong, in sentences."""
    try:
        with database.read() as connection:
            damage = list(_damage(database, connection))
            return damage or [*_numbers(connection), *_differences(connection), *_fingerprints(connection)]
    except StoreError as error:
        return [str(error)]
    except (KeyError, TypeError, ValueError) as error:
        return [f"a row cannot be read: {error!r}"]


def _damage(database: Database, connection: Connection) -> Iterator[str]:
    if not database.is_sqlite:
        return  # PostgreSQL has its own tools (pg_amcheck), which need rights that we have not
    for (line,) in connection.execute(text("PRAGMA integrity_check")):
        if line != "ok":
            yield f"the file is damaged: {line}"
    for table, *_ in connection.execute(text("PRAGMA foreign_key_check")):
        yield f"a row of {table} names something that is not there"


def _numbers(connection: Connection) -> Iterator[str]:
    """Events count from 1 without a gap, and the head knows the last."""
    seq, _ = connection.execute(select(schema.head.c.seq, schema.head.c.revision)).one()
    last = 0
    for last, (found,) in enumerate(connection.execute(select(schema.events.c.seq).order_by(schema.events.c.seq)), 1):
        if found != last:
            yield f"event {last} is missing, the next is {found}"
            return
    if last != seq:
        yield f"the last event is {last}, but the head says {seq}"


def _differences(connection: Connection) -> Iterator[str]:
    """Compare what is stored with the fold of all events."""
    query = select(schema.events).order_by(schema.events.c.seq).execution_options(yield_per=_PAGE)
    try:
        with connection.execute(query) as found:
            right = fold(State(), map(rows.event_from, found))
    except (KeyError, TypeError, ValueError, RefusedError) as error:
        yield f"the events cannot be folded: {error!r}"
        return
    revision = connection.execute(select(schema.head.c.revision)).scalar_one()
    if revision != right.revision:
        yield f"the revision is {revision}, the events say {right.revision}"
    stored: Mapping[str, tuple[Mapping[Any, Any], Mapping[Any, Any]]] = {
        "placement": (_stored(connection, schema.placements, rows.placement_from), right.placements),
        "node": (_stored(connection, schema.nodes, rows.node_from), right.nodes),
        "duration of role": (_stored(connection, schema.durations, rows.duration_from), right.durations),
        "run": (_stored(connection, schema.runs, rows.run_from), right.runs),
        "machine": (_stored(connection, schema.machines, rows.machine_from), right.machines),
    }
    for what, (is_, should_be) in stored.items():
        yield from _compare(what, is_, should_be)


def _stored(connection: Connection, table: Any, value_from: Any) -> dict[str, Any]:
    return {row[0]: value_from(row) for row in connection.execute(select(table))}


def _compare(what: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    differing = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    for key in differing[:_SHOWN]:
        if key not in wanted:
            yield f"{what} {key} is stored, but no event tells of it"
        elif key not in found:
            yield f"{what} {key} is in the events, but not stored"
        else:
            yield f"{what} {key} is stored as {found[key]}, the events say {wanted[key]}"
    if len(differing) > _SHOWN:
        yield f"... and {len(differing) - _SHOWN} more of {what}"


def _fingerprints(connection: Connection) -> Iterator[str]:
    """Every digest that a placement holds has its fingerprint, and each is what its digest says."""
    stored = _stored(connection, schema.fingerprints, rows.fingerprint_from)
    wrong = [digest for digest, value in stored.items() if digest_of(value) != digest]
    used = set(connection.execute(select(schema.placements.c.digest).distinct()).scalars()) - {""}
    for digest in sorted(wrong)[:_SHOWN]:
        yield f"fingerprint {digest} does not match its digest"
    for digest in sorted(used - stored.keys())[:_SHOWN]:
        yield f"fingerprint {digest} of a placement is missing"
