"""Events into rows: the facts and their fold in one transaction, at a cost that does not grow with the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Column, Connection, Select, Table, bindparam, delete, insert, select, update

from orchestrator.model import Event, Fingerprint, Json, NodeState
from orchestrator.store import kinds, rows, schema
from orchestrator.store.codec import node_to_json, pack
from orchestrator.store.database import Database
from orchestrator.store.fold import State, fold, names_node, role_of, touches_placement
from orchestrator.store.values import StepLog

__all__ = ["Writer"]

_CHUNK = 500  # keys per statement
_FOLDED: Sequence[tuple[Table, Callable[[Any], rows.Columns]]] = (  # each table is a field of State
    (schema.placements, rows.placement),
    (schema.nodes, rows.node),
    (schema.durations, rows.duration),
    (schema.runs, rows.run),
)
_Keys: TypeAlias = Iterable[str]


def _finder(column: Column[Any]) -> Select[Any]:
    return select(column.table).where(column.in_(bindparam("keys", expanding=True)))


_PLACEMENTS_BY_ID = _finder(schema.placements.c.id)
_PLACEMENTS_BY_NODE = _finder(schema.placements.c.node)
_NODES = _finder(schema.nodes.c.name)
_DURATIONS = _finder(schema.durations.c.role)
_RUNS = _finder(schema.runs.c.id)
_NEW_EVENTS = insert(schema.events)
_NEW_LOGS = insert(schema.logs)
_HEAD = select(schema.head.c.seq, schema.head.c.revision).with_for_update()
_MOVE_HEAD = update(schema.head).values(seq=bindparam("new_seq"), revision=bindparam("new_revision"))


class Writer:
    """Holds prepared statements and nothing of the store's content: others may write between two calls."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._upserts = [(table, row, database.upsert(table)) for table, row in _FOLDED]
        self._new_fingerprint = database.insert_new(schema.fingerprints)
        self._new_plan = database.insert_new(schema.plans)

    def append(self, events: Sequence[Event], logs: Sequence[StepLog], fingerprints: Mapping[str, Fingerprint]) -> int:
        log_rows = [rows.log(log) for log in logs]  # compressed before the lock is taken
        with self._database.write() as connection:
            seq, revision = connection.execute(_HEAD).one()
            before = _load(connection, events, revision)
            numbered = _numbered(events, seq, before.nodes)
            after = fold(before, numbered)
            _insert(connection, self._new_fingerprint, [rows.fingerprint(d, f) for d, f in fingerprints.items()])
            _insert(connection, _NEW_EVENTS, [rows.event(event) for event in numbered])
            _insert(connection, _NEW_LOGS, log_rows)
            self._save(connection, before, after)
            connection.execute(_MOVE_HEAD, {"new_seq": seq + len(numbered), "new_revision": after.revision})
        return after.revision

    def save_plan(self, plan_id: str, document: bytes) -> None:
        row = {"id": plan_id, "document": pack(document)}
        with self._database.write() as connection:
            connection.execute(self._new_plan, row)

    def _save(self, connection: Connection, before: State, after: State) -> None:
        for table, row, upsert in self._upserts:
            old, new = getattr(before, table.name), getattr(after, table.name)
            _insert(connection, upsert, [row(value) for key, value in new.items() if value is not old.get(key)])
            key = next(iter(table.primary_key))
            for gone in _chunks(old.keys() - new.keys()):
                connection.execute(delete(table).where(key.in_(gone)))


def _insert(connection: Connection, statement: Any, values: list[rows.Columns]) -> None:
    if values:
        connection.execute(statement, values)


def _load(connection: Connection, events: Sequence[Event], revision: int) -> State:
    """Read the part of the state that the events can touch."""
    outcomes = [event for event in events if touches_placement(event)]
    steps = {event.step for event in outcomes}
    gone = {event.node for event in events if event.kind == kinds.NODE_FORGOTTEN}
    named = {event.node for event in outcomes if "node" in event.data} | gone
    runs = {event.run for event in events if event.kind in (kinds.RUN_STARTED, kinds.RUN_FINISHED)}
    placements = [*_find(connection, _PLACEMENTS_BY_ID, steps), *_find(connection, _PLACEMENTS_BY_NODE, gone)]
    durations = _find(connection, _DURATIONS, {role_of(step) for step in steps})
    return State(
        revision=revision,
        placements={row[0]: rows.placement_from(row) for row in placements},
        nodes={row[0]: rows.node_from(row) for row in _find(connection, _NODES, named)},
        durations={row[0]: rows.duration_from(row) for row in durations},
        runs={row[0]: rows.run_from(row) for row in _find(connection, _RUNS, runs)},
    )


def _find(connection: Connection, query: Select[Any], keys: _Keys) -> Iterator[Any]:
    for chunk in _chunks(keys):
        yield from connection.execute(query, {"keys": chunk})


def _chunks(keys: _Keys) -> Iterator[list[str]]:
    all_keys = sorted(keys)
    for start in range(0, len(all_keys), _CHUNK):
        yield all_keys[start : start + _CHUNK]


def _numbered(events: Sequence[Event], seq: int, nodes: Mapping[str, NodeState]) -> list[Event]:
    """Give the events their numbers, and leave a node's record out of those that say nothing new about it."""
    known: dict[str, Json] = {name: node_to_json(state.node) for name, state in nodes.items()}
    numbered = []
    for number, event in enumerate(events, seq + 1):
        if event.kind not in kinds.KINDS:
            raise ValueError(f"there is no kind of event {event.kind!r}")
        data = event.data
        if event.kind == kinds.NODE_FORGOTTEN:
            known.pop(event.node, None)
        elif "node" in data and (not names_node(event) or data["node"] == known.get(event.node)):
            data = {key: value for key, value in data.items() if key != "node"}
        elif "node" in data:
            known[event.node] = data["node"]
        numbered.append(
            Event(kind=event.kind, at=event.at, run=event.run, node=event.node, step=event.step, data=data, seq=number),
        )
    return numbered
