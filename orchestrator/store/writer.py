"""Events into rows: the facts and their fold in one transaction, at a cost that does not grow with the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, bindparam, delete, func, insert, update

from orchestrator.identity import keys as keys_of
from orchestrator.model import Event, Fingerprint, Json, MachineState, NodeState
from orchestrator.store import kinds, rows, schema
from orchestrator.store.codec import node_to_json, pack
from orchestrator.store.database import Database
from orchestrator.store.fold import State, fold, may_change, names_node, role_of, touches_placement, writes_system
from orchestrator.store.prepared import Finder, Prepared
from orchestrator.store.values import StepLog

__all__ = ["Writer"]

_CHUNK = 500  # keys per statement
_FOLDED: Sequence[tuple[Table, Callable[[Any], rows.Columns]]] = (  # each table is a field of State
    (schema.placements, rows.placement),
    (schema.nodes, rows.node),
    (schema.durations, rows.duration),
    (schema.runs, rows.run),
    (schema.machines, rows.machine),
)
_LOG = tuple(column.name for column in schema.logs.columns if column.name != "id")
_MOVE_HEAD = (  # also locks the row, which makes writers take turns on PostgreSQL
    update(schema.head)
    .values(
        seq=schema.head.c.seq + bindparam("count"),
        revision=func.coalesce(schema.head.c.seq + bindparam("last"), schema.head.c.revision),
    )
    .returning(schema.head.c.seq, schema.head.c.revision)
)


class Writer:
    """Holds prepared statements and nothing of the store's content: others may write between two calls."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._move_head = Prepared(database, _MOVE_HEAD)
        self._placements_by_id = Finder(database, schema.placements.c.id)
        self._placements_by_node = Finder(database, schema.placements.c.node)
        self._nodes = Finder(database, schema.nodes.c.name)
        self._durations = Finder(database, schema.durations.c.role)
        self._runs = Finder(database, schema.runs.c.id)
        self._machines = Finder(database, schema.machines.c.id)
        self._machines_by_node = Finder(database, schema.machines.c.node)
        self._new_key = Prepared(database, database.insert_new(schema.machine_keys))
        self._new_facts = Prepared(database, database.insert_new(schema.facts))
        self._new_events = Prepared(database, insert(schema.events))
        self._new_logs = Prepared(database, insert(schema.logs).inline(), _LOG)
        self._new_fingerprint = Prepared(database, database.insert_new(schema.fingerprints))
        self._new_plan = Prepared(database, database.insert_new(schema.plans))
        self._upserts = [(table, row, Prepared(database, database.upsert(table))) for table, row in _FOLDED]

    def append(
        self,
        events: Sequence[Event],
        logs: Sequence[StepLog],
        fingerprints: Mapping[str, Fingerprint],
        facts: Mapping[str, bytes],
    ) -> int:
        fact_rows = [{"digest": digest, "document": pack(document)} for digest, document in facts.items()]
        log_rows = [rows.log(log) for log in logs]  # compressed before the lock is taken
        print_rows = [rows.fingerprint(digest, print_) for digest, print_ in fingerprints.items()]
        head = {"count": len(events), "last": _last_change(events)}
        with self._database.write() as connection:
            [(seq, revision)] = self._move_head.rows(connection, head)
            before = self._load(connection, events)
            numbered = _numbered(events, seq - len(events), before.nodes)
            after = fold(before, numbered)
            self._new_fingerprint.many(connection, print_rows)
            self._new_facts.many(connection, fact_rows)
            self._new_events.many(connection, [rows.event(event) for event in numbered])
            self._new_logs.many(connection, log_rows)
            self._save(connection, before, after)
        return int(revision)

    def save_plan(self, plan_id: str, document: bytes) -> None:
        row = {"id": plan_id, "document": pack(document)}
        with self._database.write() as connection:
            self._new_plan.many(connection, [row])

    def _load(self, connection: Connection, events: Sequence[Event]) -> State:
        """Read the part of the state that the events can touch."""
        outcomes = [event for event in events if touches_placement(event)]
        steps = {event.step for event in outcomes}
        gone = {event.node for event in events if event.kind == kinds.NODE_FORGOTTEN}
        named = {event.node for event in outcomes if "node" in event.data} | gone
        runs = {event.run for event in events if event.kind in (kinds.RUN_STARTED, kinds.RUN_FINISHED)}
        emptied = gone | {event.data["node"] for event in events if writes_system(event)}
        placements = [
            *self._placements_by_id.find(connection, steps),
            *self._placements_by_node.find(connection, emptied),
        ]
        durations = self._durations.find(connection, {role_of(step) for step in steps})
        moved = {machine for event in events if (machine := event.data.get("machine"))}
        machines = [*self._machines.find(connection, moved | gone), *self._machines_by_node.find(connection, gone)]
        return State(
            placements={row[0]: rows.placement_from(row) for row in placements},
            nodes={row[0]: rows.node_from(row) for row in self._nodes.find(connection, named)},
            durations={row[0]: rows.duration_from(row) for row in durations},
            runs={row[0]: rows.run_from(row) for row in self._runs.find(connection, runs)},
            machines={row[0]: rows.machine_from(row) for row in machines},
        )

    def _save(self, connection: Connection, before: State, after: State) -> None:
        for table, row, upsert in self._upserts:
            old, new = getattr(before, table.name), getattr(after, table.name)
            upsert.many(connection, [row(value) for key, value in new.items() if value is not old.get(key)])
            key = next(iter(table.primary_key))
            for gone in _chunks(old.keys() - new.keys()):
                connection.execute(delete(table).where(key.in_(gone)))
        self._save_keys(connection, before.machines, after.machines)

    def _save_keys(
        self, connection: Connection, before: Mapping[str, MachineState], after: Mapping[str, MachineState]
    ) -> None:
        """Keep the look-up of machines by what identifies them in step with what is believed."""
        old = {machine: state.identity for machine, state in before.items()}
        new = {machine: state.identity for machine, state in after.items()}
        changed = [machine for machine in old.keys() | new.keys() if old.get(machine) != new.get(machine)]
        for gone in _chunks(machine for machine in changed if machine in old):
            connection.execute(delete(schema.machine_keys).where(schema.machine_keys.c.machine.in_(gone)))
        added = [
            {"key": key, "machine": machine} for machine in changed if machine in new for key in keys_of(new[machine])
        ]
        self._new_key.many(connection, added)


def _last_change(events: Sequence[Event]) -> int | None:
    """Return which of the events, counted from 1, moves the revision last; None if none does."""
    return max((number for number, event in enumerate(events, 1) if may_change(event)), default=None)


def _chunks(keys: Iterable[str]) -> Iterator[list[str]]:
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
        elif event.kind != kinds.STEP_FINISHED:
            pass  # the node of a machine's event is a name, not a record
        elif "node" in data and (not names_node(event) or data["node"] == known.get(event.node)):
            data = {key: value for key, value in data.items() if key != "node"}
        elif "node" in data:
            known[event.node] = data["node"]
        numbered.append(
            Event(kind=event.kind, at=event.at, run=event.run, node=event.node, step=event.step, data=data, seq=number),
        )
    return numbered
