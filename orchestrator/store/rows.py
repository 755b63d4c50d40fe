"""Rows and the values they stand for: `placement(...)` makes a row, `placement_from(...)` reads one in column order."""

from __future__ import annotations

from typing import Any, TypeAlias

from orchestrator.model import (
    Event,
    Fingerprint,
    MachineState,
    NodeState,
    PlacementState,
    Status,
    StepId,
)
from orchestrator.store.codec import (
    decode,
    encode,
    machine_from_json,
    machine_to_json,
    node_from_json,
    node_to_json,
    pack_text,
    unpack_text,
)
from orchestrator.store.values import Duration, Run, RunStatus, StepLog

__all__ = [
    "duration",
    "duration_from",
    "event",
    "event_from",
    "fingerprint",
    "fingerprint_from",
    "log",
    "log_from",
    "machine",
    "machine_from",
    "node",
    "node_from",
    "placement",
    "placement_from",
    "run",
    "run_from",
]

Columns: TypeAlias = dict[str, Any]
Row: TypeAlias = Any  # a SQLAlchemy row: a tuple in the order of the table's columns


def event(value: Event) -> Columns:
    return {
        "seq": value.seq,
        "kind": value.kind,
        "at": value.at,
        "run": value.run,
        "node": value.node,
        "step": value.step,
        "data": encode(value.data),
    }


def event_from(row: Row) -> Event:
    seq, kind, at, run_id, node_name, step, data = row
    return Event(kind=kind, at=at, run=run_id, node=node_name, step=step, data=decode(data), seq=seq)


def placement(value: PlacementState) -> Columns:
    return {
        "id": value.id,
        "role": value.role,
        "node": value.node,
        "status": str(value.status),
        "digest": value.digest,
        "outputs": encode(value.outputs),
        "at": value.at,
        "seconds": value.seconds,
        "run": value.run,
        "drifted_at": value.drifted_at,
    }


def placement_from(row: Row) -> PlacementState:
    id_, role, node_name, status, digest, outputs, at, seconds, run_id, drifted_at = row
    return PlacementState(
        id=StepId(id_),
        role=role,
        node=node_name,
        status=Status(status),
        digest=digest,
        outputs=decode(outputs),
        at=at,
        seconds=seconds,
        run=run_id,
        drifted_at=drifted_at,
    )


def node(value: NodeState) -> Columns:
    return {"name": value.name, "data": encode(node_to_json(value.node))}


def node_from(row: Row) -> NodeState:
    name, data = row
    return NodeState(name=name, node=node_from_json(decode(data)))


def machine(value: MachineState) -> Columns:
    return {"id": value.id, "node": value.node, "phase": str(value.phase), "data": encode(machine_to_json(value))}


def machine_from(row: Row) -> MachineState:
    return machine_from_json(decode(row[-1]))


def duration(value: Duration) -> Columns:
    return {"role": value.role, "count": value.count, "total_s": value.total_s}


def duration_from(row: Row) -> Duration:
    role, count, total_s = row
    return Duration(role=role, count=count, total_s=total_s)


def run(value: Run) -> Columns:
    return {
        "id": value.id,
        "plan_id": value.plan_id or None,
        "command": value.command,
        "status": str(value.status),
        "started": value.started,
        "finished": value.finished,
        "host": value.host,
        "pid": value.pid,
        "steps": value.steps,
        "counts": encode(value.counts),
    }


def run_from(row: Row) -> Run:
    id_, plan_id, command, status, started, finished, host, pid, steps, counts = row
    return Run(
        id=id_,
        plan_id=plan_id or "",
        command=command,
        status=RunStatus(status),
        started=started,
        finished=finished,
        host=host,
        pid=pid,
        steps=steps,
        counts=decode(counts),
    )


def fingerprint(digest: str, value: Fingerprint) -> Columns:
    return {"digest": digest, "role": value.role, "platform": value.platform, "inputs": encode(value.inputs)}


def fingerprint_from(row: Row) -> Fingerprint:
    _, role, platform, inputs = row
    return Fingerprint(role=role, platform=platform, inputs=decode(inputs))


def log(value: StepLog) -> Columns:
    return {
        "run": value.run,
        "step": value.step,
        "node": value.node,
        "attempt": value.attempt,
        "at": value.at,
        "text": pack_text(value.text),
    }


def log_from(row: Row) -> StepLog:
    _, run_id, step, node_name, attempt, at, text = row
    return StepLog(run=run_id, step=StepId(step), node=node_name, attempt=attempt, at=at, text=unpack_text(text))
