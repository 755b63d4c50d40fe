"""A double that behaves: every step takes the time and comes to the end that a script gives it.

Used by simulations (virtual time, see `tests/bench`), crash tests (real time, effects in a file) and demos of the CLI.
"""

from __future__ import annotations

import heapq
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import NamedTuple

from orchestrator.executors.base import Report
from orchestrator.model import Batch, Json, Outcome, Process, Status, StepId, StepRun

__all__ = ["FakeExecutor", "Script"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What one attempt of a step comes to, after how many seconds."""

    seconds: float = 0.0
    status: Status = Status.CHANGED
    outputs: Mapping[str, Json] = field(default_factory=dict)
    problem: str = ""


class _Running(NamedTuple):
    run: StepRun
    script: Script
    report: Callable[[Report], None]


class FakeExecutor:
    """Runs scripts in real time on one thread. `effects`, if given, gets a line as a step starts and one as it ends."""

    name = "fake"
    gather_s = 0.0

    def __init__(self, script: Callable[[Batch, StepRun], Script], effects: Path | None = None) -> None:
        self._script = script
        self._effects = effects
        self._wake = threading.Condition()  # guards all below, and tells the thread that something is new
        self._running: dict[str, dict[StepId, _Running]] = {}  # batch -> step
        self._due: list[tuple[float, int, str, StepId]] = []  # a heap; what was cancelled stays in it
        self._numbers = count()
        self._thread: threading.Thread | None = None

    def submit(self, batch: Batch, report: Callable[[Report], None]) -> None:
        started = []
        for run in batch.runs:
            started.append(_Running(run, _in_time(self._script(batch, run), batch.timeout_s), report))
            self._note("start", run)
        now = time.monotonic()
        with self._wake:
            self._running[batch.id] = {item.run.step: item for item in started}
            for item in started:
                heapq.heappush(self._due, (now + item.script.seconds, next(self._numbers), batch.id, item.run.step))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def cancel(self, batch: str) -> None:
        with self._wake:
            stopped = self._running.pop(batch, {})
        for step, item in stopped.items():
            item.report(Outcome(step=step, status=Status.FAILED, problem="cancelled"))

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
        for batch in list(self._running):
            self.cancel(batch)
        with self._wake:
            thread, self._thread = self._thread, None
            self._due.clear()
            self._wake.notify_all()
        if thread:
            thread.join()

    def _work(self) -> None:
        """Report what is due when it is, until this thread is no longer the executor's."""
        while due := self._next():
            self._end(*due)

    def _next(self) -> tuple[str, StepId] | None:
        with self._wake:
            while self._thread is threading.current_thread():
                wait_s = self._due[0][0] - time.monotonic() if self._due else None
                if wait_s is not None and wait_s <= 0:
                    _, _, batch, step = heapq.heappop(self._due)
                    return batch, step
                self._wake.wait(wait_s)
        return None

    def _end(self, batch: str, step: StepId) -> None:
        with self._wake:
            item = self._running.get(batch, {}).pop(step, None)
            if item is None:
                return
            if not self._running[batch]:
                del self._running[batch]
        run, script, report = item
        if script.status.good:
            self._note("end", run, script.outputs)
        report(
            Outcome(
                step=step,
                status=script.status,
                outputs=script.outputs,
                problem=script.problem,
                seconds=script.seconds,
                attempt=run.attempt,
            )
        )

    def _note(self, word: str, run: StepRun, outputs: Mapping[str, Json] | None = None) -> None:
        if self._effects is not None:
            with self._wake, self._effects.open("a") as effects:
                effects.write(f"{word} {run.step} {json.dumps(outputs or {})}\n")


def _in_time(script: Script, timeout_s: float) -> Script:
    if script.seconds <= timeout_s:
        return script
    return Script(seconds=timeout_s, status=Status.FAILED, problem=f"timed out after {timeout_s:g} s")
