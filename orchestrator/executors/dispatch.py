"""Each batch to the executor that its plan names. All but the first are made when the first batch asks for them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from orchestrator.executors.base import Executor, Report
from orchestrator.lifecycle import STAGES
from orchestrator.model import CARRY, METAL, Batch, Outcome, Process, StepRun

__all__ = ["Dispatch"]


class Dispatch:
    """An executor made of several: `push`, which every site may need, and those that `others` makes, by their names."""

    name = "dispatch"

    def __init__(self, push: Executor, others: Mapping[str, Callable[[], Executor]]) -> None:
        self._push = push
        self._others = others
        self._made: dict[str, Executor] = {}
        self._lock = threading.Lock()
        self._running: Counter[float] = Counter()  # how many steps run by an executor with that gather_s

    @property
    def gather_s(self) -> float:
        """As long as any executor with work in flight would wait."""
        with self._lock:
            return max((gather_s for gather_s, count in self._running.items() if count), default=0.0)

    def submit(self, batch: Batch, report: Callable[[Report], None]) -> None:
        executor = self._named(batch.executor)
        with self._lock:
            self._running[executor.gather_s] += len(batch.runs)

        def counted(item: Report) -> None:
            if isinstance(item, Outcome):
                with self._lock:
                    self._running[executor.gather_s] -= 1
            report(item)

        executor.submit(batch, counted)

    def cancel(self, batch: str) -> None:
        for executor in (self._push, *self._made.values()):
            executor.cancel(batch)

    def recover(self, process: Process, runs: Sequence[StepRun]) -> tuple[Outcome, ...]:
        """Ask whoever may have run it: of roles both push and carry, since each knows its own by what they left."""
        if all(run.step.partition("@")[0] in STAGES for run in runs):
            return self._named(METAL).recover(process, runs)
        return (*self._push.recover(process, runs), *self._named(CARRY).recover(process, runs))

    def close(self) -> None:
        for executor in (self._push, *self._made.values()):
            executor.close()

    def _named(self, name: str) -> Executor:
        if name in self._others and name not in self._made:
            self._made[name] = self._others[name]()
        return self._made.get(name, self._push)
