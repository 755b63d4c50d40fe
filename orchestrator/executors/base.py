"""The seam between the scheduler and whatever does the work: five methods, no scheduling on the far side of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from orchestrator.model import Batch, Outcome, Process, StepRun

__all__ = ["Executor", "Report"]


Report: TypeAlias = Process | Outcome


class Executor(Protocol):
    """Runs batches. Reports may come from any thread and in any order; exactly one Outcome per step of a batch."""

    name: str

    @property
    def gather_s(self) -> float:
        """How long to wait for more outcomes before the next batch: as much as a batch costs more than a wider one."""

    def submit(self, batch: Batch, report: Callable[[Report], None]) -> None:
        """Start a batch and return at once."""

    def cancel(self, batch: str) -> None:
        """Ask a batch to end now; its unfinished steps report failed. Unknown or ended batches are ignored."""

    def recover(self, process: Process, runs: Sequence[StepRun]) -> tuple[Outcome, ...]:
        """End what is left of a batch whose controller died; return the outcomes that it had reached by then.

        A process without pid and folder is one that started too late to be recorded: go by its batch.
        """

    def close(self) -> None:
        """Cancel whatever runs and wait for it; nothing is left behind."""
