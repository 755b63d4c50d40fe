"""Rows into values: the snapshot, events, runs, plans and logs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from sqlalchemy import Column, Connection, Select, Table, select

from orchestrator.collector import paused
from orchestrator.errors import StoreError
from orchestrator.model import Event, Fingerprint, Json, MachineState, PlacementState, Snapshot, Status, StepId
from orchestrator.store import kinds as k
from orchestrator.store import rows, schema
from orchestrator.store.codec import decode, unpack
from orchestrator.store.database import Database
from orchestrator.store.fold import Progress, node_of, progress
from orchestrator.store.prepared import Finder
from orchestrator.store.values import Run, RunStatus, StepLog

__all__ = ["Reader"]

_PAGE = 1000
_STATUS = {str(status): status for status in Status}
_STEP_KINDS = (k.STEP_STARTED, k.STEP_RETRY, k.STEP_FINISHED, k.STEP_SKIPPED, k.BATCH_PROCESS)


class Reader:
    """Every method sees one moment of the store, except `events` and `logs`, which go on page by page."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._machines = Finder(database, schema.machines.c.id)
        self._machines_by_node = Finder(database, schema.machines.c.node)
        self._machine_keys = Finder(database, schema.machine_keys.c.key)

    def head(self) -> tuple[int, int]:
        """Return the number of the last event, and the revision."""
        with self._database.read() as connection:
            seq, revision = connection.execute(select(schema.head.c.seq, schema.head.c.revision)).one()
            return seq, revision

    def snapshot(self) -> Snapshot:
        with self._database.read() as connection, paused():
            shared: dict[str, str] = {}
            return Snapshot(
                revision=connection.execute(select(schema.head.c.revision)).scalar_one(),
                placements=_placements(connection, shared),
                nodes={row[0]: rows.node_from(row) for row in _all(connection, schema.nodes)},
                fingerprints=_fingerprints(connection, shared),
                durations={row[0]: rows.duration_from(row).mean_s for row in _all(connection, schema.durations)},
                machines={row[0]: rows.machine_from(row) for row in _all(connection, schema.machines)},
            )

    def machine(self, machine: str) -> MachineState | None:
        with self._database.read() as connection:
            found = [rows.machine_from(row) for row in self._machines.find(connection, [machine])]
        return found[0] if found else None

    def machines(self) -> list[MachineState]:
        with self._database.read() as connection:
            return [rows.machine_from(row) for row in _all(connection, schema.machines)]

    def machines_of(self, nodes: Collection[str]) -> list[MachineState]:
        with self._database.read() as connection:
            return [rows.machine_from(row) for row in self._machines_by_node.find(connection, nodes)]

    def machines_like(self, keys: Collection[str]) -> list[MachineState]:
        with self._database.read() as connection:
            ids = {row[1] for row in self._machine_keys.find(connection, keys)}
            return [rows.machine_from(row) for row in self._machines.find(connection, ids)]

    def facts(self, digest: str) -> bytes:
        query = select(schema.facts.c.document).where(schema.facts.c.digest == digest)
        with self._database.read() as connection:
            packed = connection.execute(query).scalar_one_or_none()
        if packed is None:
            raise StoreError(f"There are no facts {digest!r} in the store {self._database.name}")
        return unpack(packed)

    def events(
        self,
        *,
        after: int = 0,
        kinds: Collection[str] = (),
        run: str = "",
        node: str = "",
        step: str = "",
        limit: int | None = None,
    ) -> Iterator[Event]:
        columns = schema.events.c
        wanted = {columns.run: run, columns.node: node or node_of(step), columns.step: step}
        query = _filtered(select(schema.events), wanted)
        if kinds:
            query = query.where(columns.kind.in_(sorted(kinds)))
        query = query.order_by(columns.seq)
        found = self._pages(lambda last: query.where(columns.seq > last), after, limit)
        return (rows.event_from(row) for row in found)

    def logs(self, *, run: str = "", node: str = "", step: str = "", limit: int | None = None) -> Iterator[StepLog]:
        columns = schema.logs.c
        wanted = {columns.run: run, columns.node: node or node_of(step), columns.step: step}
        query = _filtered(select(schema.logs), wanted).order_by(columns.id.desc())
        found = self._pages(lambda last: query.where(columns.id < last) if last else query, 0, limit)
        return (rows.log_from(row) for row in found)

    def progress(self, run: str) -> Progress:
        return progress(self.events(run=run, kinds=_STEP_KINDS))

    def runs(self, *, limit: int | None = None, status: RunStatus | None = None) -> list[Run]:
        """Return runs, newest first."""
        columns = schema.runs.c
        query = select(schema.runs).order_by(columns.started.desc(), columns.id.desc()).limit(limit)
        if status is not None:
            query = query.where(columns.status == str(status))
        with self._database.read() as connection:
            return [rows.run_from(row) for row in connection.execute(query)]

    def run(self, run_id: str) -> Run | None:
        with self._database.read() as connection:
            row = connection.execute(select(schema.runs).where(schema.runs.c.id == run_id)).one_or_none()
        return rows.run_from(row) if row else None

    def load_plan(self, plan_id: str) -> bytes:
        query = select(schema.plans.c.document).where(schema.plans.c.id == plan_id)
        with self._database.read() as connection:
            packed = connection.execute(query).scalar_one_or_none()
        if packed is None:
            raise StoreError(f"There is no plan {plan_id!r} in the store {self._database.name}")
        return unpack(packed)

    def _pages(self, query: Callable[[int], Select[Any]], last: int, limit: int | None) -> Iterator[Any]:
        """Yield rows whose first column goes on from `last`. Nothing is held open while the caller works on a page."""
        while limit is None or limit > 0:
            size = _PAGE if limit is None else min(limit, _PAGE)
            with self._database.read() as connection:
                page = connection.execute(query(last).limit(size)).all()
            yield from page
            if len(page) < size:
                return
            last = page[-1][0]
            limit = None if limit is None else limit - size


def _filtered(query: Select[Any], wanted: Mapping[Column[Any], str]) -> Select[Any]:
    for column, value in wanted.items():
        if value:
            query = query.where(column == value)
    return query


def _all(connection: Connection, table: Table) -> Iterator[Any]:
    return iter(connection.execute(select(table)))


def _placements(connection: Connection, shared: dict[str, str]) -> dict[StepId, PlacementState]:
    """Read all placements. Equal strings and equal outputs become one object: there may be 100,000 of them."""
    share = shared.setdefault
    outputs_of: dict[str, Json] = {}
    placements: dict[StepId, PlacementState] = {}
    query = select(schema.placements).order_by(schema.placements.c.id).execution_options(yield_per=_PAGE)
    for id_, role, node, status, digest, outputs, at, seconds, run, drifted_at in connection.execute(query):
        if outputs not in outputs_of:
            outputs_of[outputs] = decode(outputs)
        placements[id_] = PlacementState(
            id=id_,
            role=share(role, role),
            node=share(node, node),
            status=_STATUS[status],
            digest=share(digest, digest),
            outputs=outputs_of[outputs],
            at=at,
            seconds=seconds,
            run=share(run, run),
            drifted_at=drifted_at,
        )
    return placements


class _Fingerprints(Mapping[str, Fingerprint]):
    """Made when asked for: a plan looks only at those of placements that changed."""

    def __init__(self, packed: Mapping[str, tuple[str, str, str]]) -> None:
        self._packed = packed

    def __getitem__(self, digest: str) -> Fingerprint:
        return rows.fingerprint_from((digest, *self._packed[digest]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def __repr__(self) -> str:
        return repr(dict(self))


def _fingerprints(connection: Connection, shared: dict[str, str]) -> _Fingerprints:
    """Read the fingerprints that placements use."""
    share = shared.setdefault
    table = schema.fingerprints
    query = select(table).where(table.c.digest.in_(select(schema.placements.c.digest)))
    packed = {
        share(digest, digest): (share(role, role), share(platform, platform), inputs)
        for digest, role, platform, inputs in connection.execute(query.execution_options(yield_per=_PAGE))
    }
    return _Fingerprints(packed)
