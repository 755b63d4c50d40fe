"""The kinds of events and how each is made. `docs/store.md` has a heading per kind with the keys of its data.

An event never holds a secret: its data is JSON, and a SecretRef is not. Unless said otherwise, times are UTC seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.lifecycle import Move
from orchestrator.model import Event, Json, Outcome, PlanNode, Process, Step, StepId
from orchestrator.store.codec import machine_fields_to_json, node_to_json
from orchestrator.store.values import Run, RunStatus

__all__ = [
    "BATCH_PROCESS",
    "CHECK_FINISHED",
    "KINDS",
    "MACHINE_BOOT",
    "MACHINE_CONFLICT",
    "MACHINE_MOVED",
    "MACHINE_PROGRESS",
    "NODE_FORGOTTEN",
    "RUN_FINISHED",
    "RUN_STARTED",
    "STEP_FINISHED",
    "STEP_RETRY",
    "STEP_SKIPPED",
    "STEP_STARTED",
    "batch_process",
    "check_finished",
    "machine_boot",
    "machine_conflict",
    "machine_moved",
    "machine_progress",
    "node_forgotten",
    "run_finished",
    "run_started",
    "step_finished",
    "step_retry",
    "step_skipped",
    "step_started",
]

RUN_STARTED = "run.started"
"""An apply begins, or goes on with the same run id after a crash: plan_id, steps, command, host, pid."""

RUN_FINISHED = "run.finished"
"""An apply ended, or somebody found its process gone: status, counts."""

STEP_STARTED = "step.started"
"""A step was handed to an executor; from now on its host may have changed: action, batch, attempt, executor."""

STEP_RETRY = "step.retry"
"""An attempt failed and another one will follow after a pause: attempt, problem, wait_s."""

STEP_FINISHED = "step.finished"
"""A step came to its outcome: action, status, digest, outputs, seconds, problem, attempt, unrun, and maybe node."""

STEP_SKIPPED = "step.skipped"
"""A step was given up without a try: cause (the step whose failure is the root), reason."""

BATCH_PROCESS = "batch.process"
"""An executor started a child process for a batch: batch, pid, start_time, folder."""

CHECK_FINISHED = "check.finished"
"""A check of the hosts for drift ended: checked, drift (steps that would change), failed (steps without an answer)."""

NODE_FORGOTTEN = "node.forgotten"
"""Somebody said that a node is gone for good; all that was believed of it is dropped: reason."""

MACHINE_MOVED = "machine.moved"
"""A machine went from one phase to another, or told something new: machine, signal, from, to, node, by, changes."""

MACHINE_PROGRESS = "machine.progress"
"""A machine at work said how far it is: machine, task, step, percent, message."""

MACHINE_BOOT = "machine.boot"
"""One thing that was seen of a machine's way from its firmware into a system: machine, mac, what, detail."""

MACHINE_CONFLICT = "machine.conflict"
"""Two machines claim to be the same one, or somebody showed a key that is not his: machine, others, reason."""

KINDS = frozenset(
    {
        RUN_STARTED,
        RUN_FINISHED,
        STEP_STARTED,
        STEP_RETRY,
        STEP_FINISHED,
        STEP_SKIPPED,
        BATCH_PROCESS,
        CHECK_FINISHED,
        NODE_FORGOTTEN,
        MACHINE_MOVED,
        MACHINE_PROGRESS,
        MACHINE_BOOT,
        MACHINE_CONFLICT,
    },
)


def run_started(run: Run) -> Event:
    """`run.status`, `finished` and `counts` are not part of it. A known id means that the run is resumed."""
    data = {"plan_id": run.plan_id, "steps": run.steps, "command": run.command, "host": run.host, "pid": run.pid}
    return Event(kind=RUN_STARTED, at=run.started, run=run.id, data=data)


def run_finished(run: str, status: RunStatus, *, at: float, counts: Mapping[str, int] | None = None) -> Event:
    return Event(kind=RUN_FINISHED, at=at, run=run, data={"status": str(status), "counts": dict(counts or {})})


def step_started(step: Step, *, run: str, at: float, batch: str, attempt: int = 1, executor: str = "") -> Event:
    data = {"action": str(step.action), "batch": batch, "attempt": attempt, "executor": executor}
    return Event(kind=STEP_STARTED, at=at, run=run, node=step.node, step=step.id, data=data)


def step_retry(step: Step, *, run: str, at: float, attempt: int, problem: str, wait_s: float) -> Event:
    """`attempt` is the one that failed."""
    data = {"attempt": attempt, "problem": problem, "wait_s": wait_s}
    return Event(kind=STEP_RETRY, at=at, run=run, node=step.node, step=step.id, data=data)


def step_finished(
    step: Step,
    outcome: Outcome,
    *,
    run: str,
    at: float,
    digest: str | None = None,
    node: PlanNode | None = None,
) -> Event:
    """`digest` is what a success was made of; give it when the plan could not know it yet (default: `step.digest`).

    `node` may be given every time: the store keeps it only where it differs from what it knows.
    """
    data: dict[str, Json] = {
        "action": str(step.action),
        "status": str(outcome.status),
        "digest": step.digest if digest is None else digest,
        "outputs": dict(outcome.outputs),
        "seconds": outcome.seconds,
        "problem": outcome.problem,
        "attempt": outcome.attempt,
        "unrun": outcome.unrun,
    }
    if node is not None:
        data["node"] = node_to_json(node)
    return Event(kind=STEP_FINISHED, at=at, run=run, node=step.node, step=step.id, data=data)


def step_skipped(step: Step, *, run: str, at: float, cause: StepId | None, reason: str) -> Event:
    data = {"action": str(step.action), "cause": cause, "reason": reason}
    return Event(kind=STEP_SKIPPED, at=at, run=run, node=step.node, step=step.id, data=data)


def batch_process(process: Process, *, run: str, at: float) -> Event:
    data = {"batch": process.batch, "pid": process.pid, "start_time": process.start_time, "folder": process.folder}
    return Event(kind=BATCH_PROCESS, at=at, run=run, data=data)


def check_finished(
    *,
    run: str,
    at: float,
    checked: int,
    drift: Sequence[StepId] = (),
    failed: Sequence[StepId] = (),
) -> Event:
    data = {"checked": checked, "drift": list(drift), "failed": list(failed)}
    return Event(kind=CHECK_FINISHED, at=at, run=run, data=data)


def node_forgotten(node: str, *, at: float, run: str = "", reason: str = "") -> Event:
    return Event(kind=NODE_FORGOTTEN, at=at, run=run, node=node, data={"reason": reason})


def machine_moved(move: Move, *, at: float, run: str = "", by: str = "") -> Event:
    """`by` says who caused it: the machine's address, "apply" or the user's command.

    The event's node is the node that has the machine, else the machine's id. The store refuses it when the machine is
    not in the phase that the move starts from: somebody else was faster, look again.
    """
    data = {
        "machine": move.machine,
        "signal": str(move.signal),
        "from": str(move.before) if move.before else "",
        "to": str(move.after),
        "node": move.node,
        "by": by,
        "changes": machine_fields_to_json(move.changes),
    }
    return Event(kind=MACHINE_MOVED, at=at, run=run, node=move.node or move.machine, data=data)


def machine_progress(
    machine: str, *, at: float, node: str = "", task: str = "", step: str = "", percent: float = 0.0, message: str = ""
) -> Event:
    data = {"machine": machine, "task": task, "step": step, "percent": percent, "message": message}
    return Event(kind=MACHINE_PROGRESS, at=at, node=node or machine, data=data)


def machine_boot(machine: str, *, at: float, what: str, node: str = "", mac: str = "", detail: str = "") -> Event:
    """`machine` is empty while it is not known: its MAC address stands for it, as the event's node."""
    data = {"machine": machine, "mac": mac, "what": what, "detail": detail}
    return Event(kind=MACHINE_BOOT, at=at, node=node or machine or mac, data=data)


def machine_conflict(machine: str, *, at: float, others: Sequence[str], reason: str, node: str = "") -> Event:
    data = {"machine": machine, "others": list(others), "reason": reason}
    return Event(kind=MACHINE_CONFLICT, at=at, node=node or machine, data=data)
