"""A double that behaves: every step takes the time and comes to the end that a script gives it.

Used by simulations (virtual time, see `tests/bench`), crash tests (real time, effects in a file) and demos of the CLI.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.executors.base import Report
from orchestrator.model import Batch, Json, Outcome, Process, Status, StepRun

__all__ = ["FakeExecutor", "Script"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What one attempt of a step comes to, after how many seconds."""

    seconds: float = 0.0
    status: Status = Status.CHANGED
    outputs: Mapping[str, Json] = field(default_factory=dict)
    problem: str = ""


class FakeExecutor:
    """Runs scripts in real time on timers. `effects`, if given, gets a line when a step starts and one when it ends."""

    name = "fake"
    gather_s = 0.0

    def __init__(self, script: Callable[[Batch, StepRun], Script], effects: Path | None = None) -> None:
        self._script = script
        self._effects = effects
        self._lock = threading.Lock()
        self._timers: dict[str, dict[str, tuple[threading.Timer, Callable[[Outcome], None]]]] = {}

    def submit(self, batch: Batch, report: Callable[[Report], None]) -> None:
        with self._lock:
            self._timers[batch.id] = {}
        for run in batch.runs:
            script = _in_time(self._script(batch, run), batch.timeout_s)
            self._note("start", run)
            timer = threading.Timer(script.seconds, self._end, (batch.id, run, script, report))
            timer.daemon = True
            with self._lock:
                self._timers[batch.id][run.step] = (timer, report)
            timer.start()

    def cancel(self, batch: str) -> None:
        with self._lock:
            waiting = self._timers.pop(batch, {})
        for step, (timer, report) in waiting.items():
            timer.cancel()
            report(Outcome(step=step, status=Status.FAILED, problem="cancelled"))  # type: ignore[arg-type]

    def recover(self, process: Process, runs: Sequence[StepRun]) -> tuple[Outcome, ...]:  # noqa: ARG002 - the Protocol's
        """Return what the effects file says ended: the fake's hosts keep no other trace."""
        if self._effects is None or not self._effects.exists():
            return ()
        lines = (line.split(" ", 2) for line in self._effects.read_text().splitlines())
        ended = {step: json.loads(outputs) for word, step, outputs in lines if word == "end"}
        return tuple(
            Outcome(step=run.step, status=Status.CHANGED, outputs=ended[run.step], attempt=run.attempt)
            for run in runs
            if run.step in ended
        )

    def close(self) -> None:
        for batch in list(self._timers):
            self.cancel(batch)

    def _end(self, batch: str, run: StepRun, script: Script, report: Callable[[Report], None]) -> None:
        with self._lock:
            if self._timers.get(batch, {}).pop(run.step, None) is None:
                return
        if script.status.good:
            self._note("end", run, script.outputs)
        report(
            Outcome(
                step=run.step,
                status=script.status,
                outputs=script.outputs,
                problem=script.problem,
                seconds=script.seconds,
                attempt=run.attempt,
            )
        )

    def _note(self, word: str, run: StepRun, outputs: Mapping[str, Json] | None = None) -> None:
        if self._effects is not None:
            with self._lock, self._effects.open("a") as effects:
                effects.write(f"{word} {run.step} {json.dumps(outputs or {})}\n")


def _in_time(script: Script, timeout_s: float) -> Script:
    if script.seconds <= timeout_s:
        return script
    return Script(seconds=timeout_s, status=Status.FAILED, problem=f"timed out after {timeout_s:g} s")
