"""The store: what happened, what we believe, and what every step printed. The only room that writes it to disk."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from orchestrator.errors import StoreError
from orchestrator.model import Event, Fingerprint, MachineState, Outcome, Snapshot, StepId
from orchestrator.store import kinds
from orchestrator.store.lock import Holder, Lock, SiteLock
from orchestrator.store.values import InFlight, Run, RunStatus, StepLog

if TYPE_CHECKING:
    from orchestrator.store.database import Database

__all__ = ["Store"]


class Store:
    """Has inner state: an open database, in which other processes may read and write at the same time.

    Facts go in through `append` and come out through `events`; everything else that it tells (`snapshot`, `runs`,
    `in_flight`, ...) is a fold of those facts. It reads no clock: times are those of the events. Methods may be called
    from any thread. Whatever fails is a StoreError and leaves the store as it was.
    """

    def __init__(self, database: Database) -> None:
        """Use `Store.open`."""
        from orchestrator.store.reader import Reader  # loads sqlalchemy, see `open`
        from orchestrator.store.writer import Writer

        self._database = database
        self._reader = Reader(database)
        self._writer = Writer(database)

    @classmethod
    def open(cls, url_or_path: str | Path, *, create: bool = True) -> Store:
        """Open the store at a path (SQLite) or URL (PostgreSQL), make it if need be, bring an older one up to date."""
        from orchestrator.store import migrate  # sqlalchemy takes a third of a second that most commands need not pay
        from orchestrator.store.database import Database, path_of

        path = path_of(url_or_path)
        if path is None:
            database = Database.at_url(str(url_or_path))
        else:
            database = Database.at_path(path)
            migrate.ensure_file(database, path, create=create)
        try:
            migrate.prepare(database, create=create)
        except BaseException:
            database.close()
            raise
        return cls(database)

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- facts ----------------------------------------------------------------------------------------------------

    def append(
        self,
        events: Sequence[Event],
        *,
        logs: Sequence[StepLog] = (),
        fingerprints: Mapping[str, Fingerprint] | None = None,
        facts: Mapping[str, bytes] | None = None,
    ) -> int:
        """Commit events, the logs that belong to them and what they change of the fold, all or nothing.

        The functions of `kinds` make events; `seq` is ignored and given anew. Give the fingerprint of each digest that
        a `step.finished` carries (again and again, it is stored once), and the facts document of each digest that a
        `machine.moved` carries. Return the new revision. A move of a machine that is in another phase by now raises
        lifecycle.RefusedError.
        """
        return self._writer.append(events, logs, fingerprints or {}, facts or {})

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
        """Return events in order, from number `after` + 1 on; call again with the last `seq` to follow.

        Read page by page, so it may end with events that were appended after it began.
        """
        return self._reader.events(after=after, kinds=kinds, run=run, node=node, step=step, limit=limit)

    def last_seq(self) -> int:
        """Return the number of the last event, 0 if there is none: where `events(after=...)` starts to follow."""
        return self._reader.head()[0]

    def log(self, *, node: str = "", step: str = "", run: str = "", limit: int | None = None) -> Iterator[StepLog]:
        """Return what steps printed, an entry per attempt, newest first."""
        return self._reader.logs(node=node, step=step, run=run, limit=limit)

    # --- who is at work -------------------------------------------------------------------------------------------

    def lock(self, site: str, *, command: str, at: float) -> Lock:
        """Return the site's lock, a context manager; entering it raises LockedError while somebody else holds it.

        On SQLite a SiteLock on the file beside the store, on PostgreSQL an advisory lock of the server.
        """
        if self._database.path is not None:
            return SiteLock(_lock_path(self._database.path), site=site, command=command, at=at)
        from orchestrator.store.advisory import AdvisoryLock

        return AdvisoryLock(self._database, site=site, command=command, at=at)

    def holder(self, site: str) -> Holder | None:
        """Return who holds the site's lock now."""
        if self._database.path is not None:
            return SiteLock.holder(_lock_path(self._database.path))
        from orchestrator.store.advisory import AdvisoryLock

        return AdvisoryLock.holder(self._database, site)

    # --- belief ---------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return the fold of all events at this moment. Its parts are shared with each other: treat them as frozen."""
        return self._reader.snapshot()

    def machine(self, machine: str) -> MachineState | None:
        """Return what is believed of a machine, by its id."""
        return self._reader.machine(machine)

    def machines(self) -> list[MachineState]:
        """Return every machine."""
        return self._reader.machines()

    def machines_of(self, nodes: Collection[str]) -> list[MachineState]:
        """Return the machines that these nodes have claimed."""
        return self._reader.machines_of(nodes)

    def machines_like(self, keys: Collection[str]) -> list[MachineState]:
        """Return the machines that have one of these keys (`identity.keys`); others add nothing to its cost."""
        return self._reader.machines_like(keys)

    def facts(self, digest: str) -> bytes:
        """Return a facts document, as the machine sent it."""
        return self._reader.facts(digest)

    def revision(self) -> int:
        """Return the number of the last event after which a plan made before it could be wrong.

        Outcomes, starts of steps (a host may have changed) and forgotten nodes count; checks and bookkeeping do not.
        """
        return self._reader.head()[1]

    def check(self) -> list[str]:
        """Return what is wrong with the store, in sentences; empty if the database is whole and the fold is right."""
        from orchestrator.store.check import check  # also behind sqlalchemy

        return check(self._database)

    # --- plans and runs -------------------------------------------------------------------------------------------

    def save_plan(self, plan_id: str, document: bytes) -> None:
        """Keep a plan's document. The id stands for the content, so a second call with the same id does nothing."""
        self._writer.save_plan(plan_id, document)

    def load_plan(self, plan_id: str) -> bytes:
        return self._reader.load_plan(plan_id)

    def begin_run(self, run: Run) -> int:
        """Record that a run starts at `run.started`, or with a known id that it goes on. Its plan must be saved."""
        return self.append([kinds.run_started(run)])

    def finish_run(
        self,
        run_id: str,
        status: RunStatus,
        *,
        at: float,
        counts: Mapping[str, int] | None = None,
    ) -> int:
        if self.run(run_id) is None:
            raise StoreError(f"There is no run {run_id!r} in the store {self._database.name}")
        return self.append([kinds.run_finished(run_id, status, at=at, counts=counts)])

    def run(self, run_id: str) -> Run | None:
        return self._reader.run(run_id)

    def runs(self, *, limit: int | None = None) -> list[Run]:
        """Return the runs, newest first."""
        return self._reader.runs(limit=limit)

    def last_run(self) -> Run | None:
        return next(iter(self._reader.runs(limit=1)), None)

    def open_run(self) -> Run | None:
        """Return the newest run that has not finished. Whoever holds the site's lock knows that its process is gone."""
        return next(iter(self._reader.runs(limit=1, status=RunStatus.RUNNING)), None)

    def in_flight(self, run_id: str) -> tuple[InFlight, ...]:
        """Return the steps of a run that started and have no outcome yet; a step that waits for a retry is not one."""
        return self._reader.progress(run_id).in_flight

    def attempts(self, run_id: str) -> Mapping[StepId, int]:
        """Return how often each step of a run failed and was to be tried again; the others are not in it."""
        return self._reader.progress(run_id).attempts

    def finished(self, run_id: str) -> Mapping[StepId, Outcome]:
        """Return the final outcome per step of a run, in the order in which they came; logs are not in it."""
        return self._reader.progress(run_id).finished


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")
