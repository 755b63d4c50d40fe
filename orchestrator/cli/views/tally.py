"""What a run has come to so far, counted from its events at the same cost for each, however big the plan."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

from orchestrator.model import Event, Outcome, Status, StepId

__all__ = ["Tally"]

RECENT = 4


class Tally:
    """Has inner state: counts that each event moves on. Events of a step that is done already change nothing."""

    def __init__(self) -> None:
        self.total = 0
        self.started_at = 0.0
        self.at = 0.0
        self.counts: Counter[Status] = Counter()
        self.running: dict[str, str] = {}  # step -> role
        self.waiting: dict[str, float] = {}  # step -> when its next attempt may start
        self.skipped_by: Counter[str] = Counter()  # cause -> steps
        self.retries = 0
        self.unrun = 0
        self.recent: deque[Outcome] = deque(maxlen=RECENT)  # the last failures
        self._done: set[str] = set()
        self._before = 0  # done when the run began to go on

    @property
    def done(self) -> int:
        return len(self._done)

    @property
    def took_s(self) -> float:
        """Return the seconds from the run's start, or from where it went on, to its last event."""
        return max(self.at - self.started_at, 0.0)

    def record(self, event: Event) -> Outcome | None:
        """Count an event; return the outcome where it is the end of a step."""
        self.at = max(self.at, event.at)
        match event.kind:
            case "run.started":
                self._begin(event)
            case "step.started" if event.step not in self._done:
                self.running[event.step] = event.step.partition("@")[0]
                self.waiting.pop(event.step, None)
            case "step.retry":
                self.retries += 1
                self.running.pop(event.step, None)
                self.waiting[event.step] = event.at + float(event.data.get("wait_s", 0.0))
            case "step.finished" | "step.skipped" if event.step not in self._done:
                return self._finish(event)
        return None

    def _begin(self, event: Event) -> None:
        """A run begins, or goes on: then what was running is not, and its speed is measured anew."""
        self.started_at = event.at
        self.total = int(event.data.get("steps", 0))
        self.running.clear()
        self.waiting.clear()
        self._before = self.done

    def _finish(self, event: Event) -> Outcome:
        outcome = _outcome(event)
        self._done.add(event.step)
        self.running.pop(event.step, None)
        self.waiting.pop(event.step, None)
        self.counts[outcome.status] += 1
        self.unrun += outcome.unrun
        if outcome.status is Status.SKIPPED:
            self.skipped_by[outcome.cause or ""] += 1
        elif not outcome.status.good:
            self.recent.append(outcome)
        return outcome

    def left_s(self, now: float) -> float:
        """Return the seconds left if it goes on as it went so far; 0 as long as nobody can know."""
        done = self.done - self._before
        if done < 3 or not self.total:
            return 0.0
        return (now - self.started_at) / done * max(self.total - self.done, 0)


def _outcome(event: Event) -> Outcome:
    data: Mapping[str, object] = event.data
    cause = data.get("cause")
    skipped = event.kind == "step.skipped"
    return Outcome(
        step=StepId(event.step),
        status=Status.SKIPPED if skipped else Status(str(data.get("status", Status.FAILED))),
        problem=str(data.get("reason" if skipped else "problem") or ""),
        seconds=float(str(data.get("seconds", 0.0))),
        attempt=int(str(data.get("attempt", 1))),
        unrun=bool(data.get("unrun", False)),
        cause=StepId(str(cause)) if cause else None,
    )
