"""What the store returns beside the nouns of `model`: runs, steps in flight, logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.model import Process, StepId

__all__ = ["Duration", "InFlight", "Run", "RunStatus", "StepLog"]


class RunStatus(StrEnum):
    """What one apply came to. `interrupted`: its process is gone and another one said so."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One apply of one plan. `host` and `pid` are those of the process that started or resumed it last."""

    id: str
    plan_id: str = ""
    command: str = ""
    status: RunStatus = RunStatus.RUNNING
    started: float = 0.0
    finished: float = 0.0  # 0: not yet
    host: str = ""
    pid: int = 0
    steps: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)  # status -> steps, once it has finished


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """A step that started and has no outcome: resume asks the host (or `process.folder`) what became of it."""

    step: StepId
    node: str
    action: str
    batch: str
    attempt: int
    at: float
    executor: str
    process: Process | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLog:
    """What one attempt of a step printed."""

    run: str
    step: StepId
    node: str
    attempt: int
    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """How long the good, really run steps of a role took so far."""

    role: str
    count: int = 0
    total_s: float = 0.0

    @property
    def mean_s(self) -> float:
        return self.total_s / self.count if self.count else 0.0
