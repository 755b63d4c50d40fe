"""The only loop: schedule <-> executor <-> store.

Everything is committed before it takes effect: a step's start before its batch is submitted, an outcome before
anything that waits for it may start. So at any kill the store knows all that was begun and all that ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.executors import Executor, Report
from orchestrator.model import Batch, Event, Fingerprint, Outcome, Plan, Process, Status, Step, StepId, StepRun
from orchestrator.schedule import Schedule, Verdict
from orchestrator.store import RunStatus, StepLog, Store, kinds

__all__ = ["RunResult", "Watcher", "run"]

Watcher = Callable[[Event], None]

_STOP = 2  # interrupts after which not only nothing more starts, but what runs is ended


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run came to. `failures` are the root causes, never the steps skipped because of them."""

    run: str
    status: RunStatus
    counts: Mapping[Status, int]
    failures: tuple[Outcome, ...]
    skipped: Mapping[StepId, int]  # root cause -> steps it made impossible
    drift: tuple[Outcome, ...] = ()  # check: steps that would change something
    left: int = 0  # steps that never started because the run was cancelled


@dataclass(slots=True)
class _Pending:
    """What the next commit will hold."""

    events: list[Event] = field(default_factory=list)
    logs: list[StepLog] = field(default_factory=list)
    fingerprints: dict[str, Fingerprint] = field(default_factory=dict)


class _Loop:
    """One run of one plan. Mutable; lives as long as the run."""

    def __init__(
        self,
        plan: Plan,
        schedule: Schedule,
        executor: Executor,
        store: Store,
        *,
        run: str,
        clock: Callable[[], float],
        watch: Watcher,
        check: bool,
    ) -> None:
        self._plan = plan
        self._schedule = schedule
        self._executor = executor
        self._store = store
        self._run = run
        self._clock = clock
        self._watch = watch
        self._check = check
        self._steps = {step.id: step for step in plan.steps}
        self._started: dict[StepId, StepRun] = {}
        self._pending = _Pending()
        self._interrupts = 0
        self._inbox: asyncio.Queue[Report] = asyncio.Queue()

    @property
    def stopped(self) -> bool:
        """Whether the user had what runs ended."""
        return self._interrupts >= _STOP

    async def run(self, recovered: Sequence[Outcome]) -> None:
        loop = asyncio.get_running_loop()

        def report(item: Report) -> None:  # called from the executor's threads
            with contextlib.suppress(RuntimeError):  # the loop is closed: the artifacts keep what came too late
                loop.call_soon_threadsafe(self._inbox.put_nowait, item)

        with self._signals(loop):
            try:
                self._take([*recovered])
                while True:
                    await self._start_what_may(report)
                    if self._schedule.done:
                        break
                    self._take(await self._reports())
            except BaseException:
                # The store refused or a bug: stop the hosts' work; resume reads what the executor's folders hold.
                await asyncio.to_thread(self._executor.close)
                raise
        await self._commit()

    async def _start_what_may(self, report: Callable[[Report], None]) -> None:
        """Commit and start until nothing more may start."""
        while True:
            now = self._clock()
            decision = self._schedule.next(now)
            for outcome in decision.settled:
                self._note_outcome(outcome, now)
            for batch in decision.batches:
                self._note_start(batch, now)
            await self._commit()
            for batch in decision.batches:
                self._executor.submit(batch, report)
                if self.stopped:  # the signal came during the commit
                    self._executor.cancel(batch.id)
            if not decision.settled:
                return

    async def _reports(self) -> list[Report]:
        """Wait for a report, a due retry or a signal; return all reports that are there.

        Hosts end one by one: those that follow soon are waited for, so that one wide batch goes on with all of them.
        """
        wake = self._schedule.wake_at()
        if wake is None and not self._schedule.in_flight:
            raise AssertionError("nothing runs and nothing can start, but steps are left")
        reports = []
        with contextlib.suppress(TimeoutError):
            wait_s = None if wake is None else max(0.0, wake - self._clock())
            reports.append(await asyncio.wait_for(self._inbox.get(), wait_s))
            async with asyncio.timeout(self._executor.gather_s):
                while self._executor.gather_s and len(reports) < len(self._schedule.in_flight):
                    reports.append(await self._inbox.get())
        while not self._inbox.empty():
            reports.append(self._inbox.get_nowait())
        return reports

    def _take(self, reports: Sequence[Report]) -> None:
        """Note what came in; it is committed before anything that it releases is started."""
        now = self._clock()
        for item in reports:
            match item:
                case Process() if item.batch:
                    self._pending.events.append(kinds.batch_process(item, run=self._run, at=now))
                case Outcome() if item.step not in self._schedule.outcomes:
                    self._note_log(item, now)
                    # The store keeps what it printed; in memory stays only what the result tells of a failure.
                    verdict = self._schedule.verdict(replace(item, log="") if item.status.good else item)
                    self._note_verdict(verdict, now)
                    for skip in self._schedule.record(verdict, now):
                        self._note_outcome(skip, now)

    def _note_start(self, batch: Batch, now: float) -> None:
        for item in batch.runs:
            self._started[item.step] = item
            self._pending.events.append(
                kinds.step_started(
                    self._steps[item.step],
                    run=self._run,
                    at=now,
                    batch=batch.id,
                    attempt=item.attempt,
                    executor=batch.executor,
                )
            )

    def _note_verdict(self, verdict: Verdict, now: float) -> None:
        outcome = verdict.outcome
        if verdict.retry_in_s is None:
            self._note_outcome(outcome, now)
            return
        self._pending.events.append(
            kinds.step_retry(
                self._steps[outcome.step],
                run=self._run,
                at=now,
                attempt=outcome.attempt,
                problem=outcome.problem,
                wait_s=verdict.retry_in_s,
            )
        )

    def _note_outcome(self, outcome: Outcome, now: float) -> None:
        step = self._steps[outcome.step]
        if outcome.status is Status.SKIPPED:
            event = kinds.step_skipped(step, run=self._run, at=now, cause=outcome.cause, reason=outcome.problem)
            self._pending.events.append(event)
            return
        self._pending.events.append(
            kinds.step_finished(
                step,
                outcome,
                run=self._run,
                at=now,
                digest=self._digest(step, outcome),
                node=self._plan.nodes[step.node] if outcome.status.good else None,
            )
        )

    def _digest(self, step: Step, outcome: Outcome) -> str:
        if outcome.unrun:
            return step.last
        run = self._started.pop(step.id, None) or self._schedule.step_run(step.id)
        if run is None:
            return step.digest
        if run.fingerprint and outcome.status.good:
            self._pending.fingerprints[run.digest] = run.fingerprint
        return run.digest

    def _note_log(self, outcome: Outcome, now: float) -> None:
        if outcome.log:
            step = self._steps[outcome.step]
            log = StepLog(
                run=self._run, step=step.id, node=step.node, attempt=outcome.attempt, at=now, text=outcome.log
            )
            self._pending.logs.append(log)

    async def _commit(self) -> None:
        """Write all that is noted in one transaction, off the loop's thread; then tell the watcher."""
        pending, self._pending = self._pending, _Pending()
        if not pending.events:
            return
        await asyncio.to_thread(
            self._store.append, pending.events, logs=pending.logs, fingerprints=pending.fingerprints
        )
        for event in pending.events:
            self._watch(event)

    @contextlib.contextmanager
    def _signals(self, loop: asyncio.AbstractEventLoop):  # type: ignore[no-untyped-def]  # a context manager's generator
        """First Ctrl-C: start nothing more. Second, or SIGTERM: end what runs, too."""
        with contextlib.ExitStack() as stack:
            for number, count in ((signal.SIGINT, 1), (signal.SIGTERM, _STOP)):
                try:
                    loop.add_signal_handler(number, self._interrupt, count)
                except (RuntimeError, ValueError):  # not the main thread: whoever runs us there handles signals
                    continue
                stack.callback(loop.remove_signal_handler, number)
            yield

    def _interrupt(self, count: int) -> None:
        self._interrupts += count
        self._schedule.drain()
        running = len(self._schedule.in_flight)
        word = "stopping" if self.stopped else "draining"
        self._watch(Event(kind=f"run.{word}", at=self._clock(), run=self._run, data={"running": running}))
        if self.stopped:
            for batch in set(self._schedule.in_flight.values()):
                self._executor.cancel(batch)
        if not running:
            self._inbox.put_nowait(Process(batch="", pid=0, start_time=0.0, folder=""))  # wakes the loop


def run(
    plan: Plan,
    schedule: Schedule,
    executor: Executor,
    store: Store,
    *,
    run: str,
    clock: Callable[[], float],
    watch: Watcher,
    recovered: Sequence[Outcome] = (),
    check: bool = False,
) -> RunResult:
    """Carry out a plan and return what it came to.

    The caller holds the site's lock and has committed that the run started; this commits everything else of it, its
    end included. `recovered` are outcomes that a dead controller's batches had reached.

    Raises:
        StoreError: the store refused a commit. Running work was stopped; nothing that was committed is lost.
    """
    loop = _Loop(plan, schedule, executor, store, run=run, clock=clock, watch=watch, check=check)
    asyncio.run(loop.run(recovered))
    result = _result(plan, schedule, run, check=check, stopped=loop.stopped)
    ended = kinds.run_finished(
        run, result.status, at=clock(), counts={status.value: count for status, count in result.counts.items()}
    )
    store.append([ended])
    watch(ended)
    return result


def _result(plan: Plan, schedule: Schedule, run: str, *, check: bool, stopped: bool) -> RunResult:
    outcomes = schedule.outcomes.values()
    failures = tuple(o for o in outcomes if o.status in (Status.FAILED, Status.UNREACHABLE))
    left = len(plan.steps) - len(schedule.outcomes)
    cancelled = bool(left or (stopped and failures))
    status = RunStatus.CANCELLED if cancelled else RunStatus.FAILED if failures else RunStatus.SUCCEEDED
    return RunResult(
        run=run,
        status=status,
        counts=Counter(o.status for o in outcomes),
        failures=tuple(sorted(failures, key=lambda o: o.step)),
        skipped=Counter(o.cause for o in outcomes if o.status is Status.SKIPPED and o.cause),
        drift=tuple(o for o in outcomes if check and o.status is Status.CHANGED),
        left=left,
    )
