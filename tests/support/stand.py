"""A stand for the apply loop: the real store in a folder, the scripted executor, and no host."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator import apply, plan
from orchestrator.apply import RunResult
from orchestrator.executors import Executor, Report
from orchestrator.executors.fake import FakeExecutor, Script
from orchestrator.model import Batch, Event, Json, Outcome, Plan, Process, Status, StepId, StepRun, Topology
from orchestrator.plan import Selection
from orchestrator.schedule import Schedule
from orchestrator.store import Run, RunStatus, Store

__all__ = ["OUTPUTS", "Held", "Recorder", "Stand", "failing", "good"]

OUTPUTS: Mapping[str, Mapping[str, Json]] = {"db": {"db_host": "10.0.0.1"}, "api": {"api_url": "http://10.0.0.1"}}
"""What the roles of `sites.small_catalog` give."""


def good(batch: Batch, run: StepRun) -> Script:
    """Every step changes something and gives its role's outputs."""
    return Script(outputs={} if batch.check else OUTPUTS.get(batch.role.name, {}))


def failing(fates: Mapping[str, Sequence[Status]], problem: str = "it broke") -> Callable[[Batch, StepRun], Script]:
    """The named steps come to these ends, attempt by attempt and the last one ever after; all others are good."""

    def script(batch: Batch, run: StepRun) -> Script:
        fate = fates.get(run.step)
        status = fate[min(run.attempt, len(fate)) - 1] if fate else Status.CHANGED
        return Script(status=status, problem=problem) if not status.good else good(batch, run)

    return script


class Recorder:
    """An executor around another one that keeps what it was given."""

    def __init__(self, inner: Executor, on_submit: Callable[[Batch], None] = lambda _: None) -> None:
        self.inner = inner
        self.name = inner.name
        self.gather_s = inner.gather_s
        self.batches: list[Batch] = []
        self._on_submit = on_submit

    @property
    def steps(self) -> list[str]:
        return [run.step for batch in self.batches for run in batch.runs]

    def run_of(self, step: str) -> StepRun:
        return next(run for batch in self.batches for run in batch.runs if run.step == step)

    def submit(self, batch: Batch, report: Callable[[Report], None]) -> None:
        self.batches.append(batch)
        self._on_submit(batch)
        self.inner.submit(batch, report)

    def cancel(self, batch: str) -> None:
        self.inner.cancel(batch)

    def recover(self, process: Process, runs: Sequence[StepRun]) -> tuple[Outcome, ...]:
        return self.inner.recover(process, runs)

    def close(self) -> None:
        self.inner.close()


@dataclass
class Stand:
    """One site's store and what was seen of its runs."""

    store: Store
    events: list[Event] = field(default_factory=list)
    runs: int = 0

    def plan(self, topology: Topology, selection: Selection | None = None) -> Plan:
        return plan.make(topology, self.store.snapshot(), selection or Selection())

    def check_plan(self, topology: Topology) -> Plan:
        return plan.make_check(topology, self.store.snapshot())

    def apply(
        self,
        made: Plan,
        script: Callable[[Batch, StepRun], Script] = good,
        *,
        executor: Executor | None = None,
        check: bool = False,
        store: Store | None = None,
    ) -> RunResult:
        """Carry out a plan from its start; raises what the loop raises, and the run is then left open."""
        kept = store or self.store
        self.runs += 1
        run = f"r{self.runs}"
        kept.save_plan(made.id, plan.dump(made))
        kept.begin_run(Run(id=run, plan_id=made.id, command="apply", started=time.time(), steps=len(made.steps)))
        return self._loop(made, self._schedule(made, check=check), run, executor or FakeExecutor(script), kept, check)

    def resume(self, script: Callable[[Batch, StepRun], Script] = good, executor: Executor | None = None) -> RunResult:
        """Go on with the open run from what the store holds."""
        run = self.store.open_run()
        assert run is not None
        made = plan.parse(self.store.load_plan(run.plan_id), run.plan_id)
        finished = tuple(self.store.finished(run.id).values())
        attempts = self.store.attempts(run.id)
        schedule = Schedule(made, outputs=self._outputs(), finished=finished, attempts=attempts, prefix="resumed-")
        return self._loop(made, schedule, run.id, executor or FakeExecutor(script), self.store, False)

    def of_kind(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]

    def status_of(self, step: str) -> str:
        return self.store.snapshot().placements[StepId(step)].status

    def run_status(self) -> RunStatus:
        last = self.store.last_run()
        assert last is not None
        return last.status

    def _outputs(self) -> dict[StepId, Mapping[str, Json]]:
        return {key: state.outputs for key, state in self.store.snapshot().placements.items()}

    def _schedule(self, made: Plan, *, check: bool) -> Schedule:
        return Schedule(made, outputs=self._outputs(), check=check)

    def _loop(
        self, made: Plan, schedule: Schedule, run: str, executor: Executor, store: Store, check: bool
    ) -> RunResult:
        try:
            return apply.run(
                made,
                schedule,
                executor,
                store,
                run=run,
                clock=time.time,
                watch=self.events.append,
                check=check,
            )
        finally:
            executor.close()


class Held:
    """An executor whose steps run until the test says otherwise."""

    name = "held"
    gather_s = 0.0

    def __init__(self) -> None:
        self._held: dict[str, tuple[Batch, Callable[[Report], None]]] = {}
        self._lock = threading.Lock()

    def submit(self, batch: Batch, report: Callable[[Report], None]) -> None:
        with self._lock:
            self._held[batch.id] = (batch, report)

    @property
    def running(self) -> int:
        return sum(len(batch.runs) for batch, _ in self._held.values())

    def release(self) -> None:
        """Let everything that runs now succeed."""
        with self._lock:
            held, self._held = self._held, {}
        for batch, report in held.values():
            self._end(batch, report, Status.CHANGED)

    def cancel(self, batch: str) -> None:
        with self._lock:
            held = self._held.pop(batch, None)
        if held:
            self._end(*held, Status.FAILED)

    def recover(self, process: Process, runs: Sequence[StepRun]) -> tuple[Outcome, ...]:
        return ()

    def close(self) -> None:
        for batch in list(self._held):
            self.cancel(batch)

    def _end(self, batch: Batch, report: Callable[[Report], None], status: Status) -> None:
        for run in batch.runs:
            outputs = OUTPUTS.get(batch.role.name, {}) if status.good else {}
            problem = "" if status.good else "cancelled"
            report(Outcome(step=run.step, status=status, outputs=outputs, problem=problem, attempt=run.attempt))
