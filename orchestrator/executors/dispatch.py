"""Each batch to the executor that its plan names. The second one is made when the first batch asks for it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property

from orchestrator.executors.base import Executor, Report
from orchestrator.model import CARRY, Batch, Outcome, Process, StepRun

__all__ = ["Dispatch"]


class Dispatch:
    """An executor made of two: `push`, which every site may need, and `carry`."""

    name = "dispatch"

    def __init__(self, push: Executor, carry: Callable[[], Executor]) -> None:
        self._push = push
        self._make_carry = carry
        self._lock = threading.Lock()
        self._running: Counter[float] = Counter()  # how many steps run by an executor with that gather_s

    @property
    def gather_s(self) -> float:
        """As long as any executor with work in flight would wait."""
        with self._lock:
            return max((gather_s for gather_s, count in self._running.items() if count), default=0.0)

    def submit(self, batch: Batch, report: Callable[[Report], None]) -> None:
        executor = self._carry if batch.executor == CARRY else self._push
        with self._lock:
            self._running[executor.gather_s] += len(batch.runs)

        def counted(item: Report) -> None:
            if isinstance(item, Outcome):
                with self._lock:
                    self._running[executor.gather_s] -= 1
            report(item)

        executor.submit(batch, counted)

    def cancel(self, batch: str) -> None:
        for executor in self._made():
            executor.cancel(batch)

    def recover(self, process: Process, runs: Sequence[StepRun]) -> tuple[Outcome, ...]:
        """Ask both: each knows its own batches by what they left."""
        return (*self._push.recover(process, runs), *self._carry.recover(process, runs))

    def close(self) -> None:
        for executor in self._made():
            executor.close()

    @cached_property
    def _carry(self) -> Executor:
        return self._make_carry()

    def _made(self) -> list[Executor]:
        return [self._push, *([self._carry] if "_carry" in self.__dict__ else [])]
