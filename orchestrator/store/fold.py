"""The fold: what a sequence of events makes us believe. Pure; the SQL writer applies it to the rows a batch touches.

    step.finished   create, update and good    the placement is known with its digest and outputs
                    ... and unrun              as before: digest, outputs and seconds of the last success stay
                    remove and good            the placement is gone
                    failed or unreachable      the status says so; digest and outputs of the last success stay
                    check, skipped             nothing
    node.forgotten                             the node, all its placements and the machine that it had are gone
    machine.moved                              the machine is in its new phase, with the fields that changed; when its
                                               system was written, its node's placements are gone
    machine.progress, .boot of a known one     when it was seen last
    run.started, run.finished                  the run's record
    everything else                            nothing

The revision is the number of the last event after which a plan made before it could be wrong (see `may_change`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.lifecycle import STAGES, RefusedError, Signal
from orchestrator.model import (
    Action,
    Event,
    Fingerprint,
    MachineState,
    NodeState,
    Outcome,
    Phase,
    PlacementState,
    Process,
    Snapshot,
    Status,
    StepId,
)
from orchestrator.store import kinds
from orchestrator.store.codec import machine_fields_from_json, node_from_json
from orchestrator.store.values import Duration, InFlight, Run, RunStatus

__all__ = [
    "Progress",
    "State",
    "fold",
    "may_change",
    "names_node",
    "node_of",
    "progress",
    "role_of",
    "snapshot_of",
    "touches_placement",
    "writes_system",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All that is believed, or a part of it that is complete for the events at hand."""

    revision: int = 0
    placements: Mapping[StepId, PlacementState] = field(default_factory=dict)
    nodes: Mapping[str, NodeState] = field(default_factory=dict)
    durations: Mapping[str, Duration] = field(default_factory=dict)
    runs: Mapping[str, Run] = field(default_factory=dict)
    machines: Mapping[str, MachineState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run has come, in the order in which things happened."""

    in_flight: tuple[InFlight, ...]
    finished: Mapping[StepId, Outcome]
    attempts: Mapping[StepId, int]  # that failed and were to be followed by another one


def fold(state: State, events: Iterable[Event]) -> State:
    """Return what is believed after `events`, which carry their numbers. An event that makes no sense raises."""
    draft = _Draft(state)
    for event in events:
        rule = _RULES.get(event.kind)
        if rule is not None:
            rule(draft, event)
        if may_change(event):
            draft.revision = event.seq
    return draft.state()


def snapshot_of(state: State, fingerprints: Mapping[str, Fingerprint]) -> Snapshot:
    """Return the snapshot, with those of `fingerprints` that its placements use."""
    used = {p.digest for p in state.placements.values()}
    return Snapshot(
        revision=state.revision,
        placements=state.placements,
        nodes=state.nodes,
        fingerprints={digest: print_ for digest, print_ in fingerprints.items() if digest in used},
        durations={role: duration.mean_s for role, duration in state.durations.items()},
        machines=state.machines,
    )


def role_of(step: str) -> str:
    """Return the part of a step id before "@"."""
    return step.partition("@")[0]


def node_of(step: str) -> str:
    """Return the part of a step id after "@"."""
    return step.partition("@")[2]


def touches_placement(event: Event) -> bool:
    """Whether the event is the outcome of a step, a check included."""
    return event.kind == kinds.STEP_FINISHED


def _acts(event: Event) -> bool:
    """Whether the event is the outcome of a step that may have changed its host."""
    return touches_placement(event) and event.data["action"] != Action.CHECK


def names_node(event: Event) -> bool:
    """Whether the event tells of a connection to its node that worked."""
    return (
        _acts(event)
        and event.data.get("node") is not None
        and event.data["status"] not in (Status.UNREACHABLE, Status.SKIPPED)
        and not event.data.get("unrun")
    )


def writes_system(event: Event) -> bool:
    """Whether the event tells that a machine got a new system: nothing that was applied to it is there any more."""
    return event.kind == kinds.MACHINE_MOVED and event.data["signal"] == Signal.WROTE


def may_change(event: Event) -> bool:
    """Whether a plan that was made before the event could be wrong after it."""
    # A start counts: after it, a crash leaves a host about which the plans made before know nothing.
    started = event.kind == kinds.STEP_STARTED and event.data["action"] != Action.CHECK
    asked = event.kind == kinds.MACHINE_MOVED and event.data["signal"] in _ASKED
    return started or asked or _acts(event) or event.kind == kinds.NODE_FORGOTTEN


# What operators ask for. What machines do by themselves changes no plan: its steps look again when they run.
_ASKED = frozenset({"reinstall", "release", "rescue", "unrescue", "retire", "readmit"})


class _Draft:
    """A private copy of a state, changed event by event, so that a fold over n events costs n and not n squared."""

    def __init__(self, state: State) -> None:
        self.revision = state.revision
        self.placements = dict(state.placements)
        self.nodes = dict(state.nodes)
        self.durations = dict(state.durations)
        self.runs = dict(state.runs)
        self.machines = dict(state.machines)

    def state(self) -> State:
        return State(
            revision=self.revision,
            placements=self.placements,
            nodes=self.nodes,
            durations=self.durations,
            runs=self.runs,
            machines=self.machines,
        )


def _step_finished(draft: _Draft, event: Event) -> None:
    status = Status(event.data["status"])
    action = Action(event.data["action"])
    if status is Status.SKIPPED:
        return
    step = StepId(event.step)
    old = draft.placements.get(step)
    if action is Action.CHECK:
        if old is not None and status.good:
            draft.placements[step] = _checked(old, event, status)
    elif not status.good:
        draft.placements[step] = _failed(old, event, status)
    elif action is Action.REMOVE:
        draft.placements.pop(step, None)
    else:
        draft.placements[step] = _succeeded(old, event, status)
        _count_duration(draft, event)
    if names_node(event):
        draft.nodes[event.node] = NodeState(name=event.node, node=node_from_json(event.data["node"]))


def _checked(old: PlacementState, event: Event, status: Status) -> PlacementState:
    """A check that would change something found drift; one that would not found it gone."""
    if status is Status.OK:
        return replace(old, drifted_at=0.0)
    return old if old.drifted_at else replace(old, drifted_at=event.at)


def _succeeded(old: PlacementState | None, event: Event, status: Status) -> PlacementState:
    data = event.data
    if old is not None and data.get("unrun"):
        return replace(old, status=status, digest=data.get("digest") or old.digest, at=event.at, run=event.run)
    return PlacementState(
        id=StepId(event.step),
        role=role_of(event.step),
        node=event.node,
        status=status,
        digest=data["digest"],
        outputs=data["outputs"],
        at=event.at,
        seconds=data["seconds"],
        run=event.run,
    )


def _failed(old: PlacementState | None, event: Event, status: Status) -> PlacementState:
    seconds = event.data["seconds"]
    if old is not None:
        return replace(old, status=status, at=event.at, seconds=seconds, run=event.run)
    return PlacementState(
        id=StepId(event.step),
        role=role_of(event.step),
        node=event.node,
        status=status,
        at=event.at,
        seconds=seconds,
        run=event.run,
    )


def _count_duration(draft: _Draft, event: Event) -> None:
    if event.data.get("unrun"):
        return
    role = role_of(event.step)
    old = draft.durations.get(role) or Duration(role=role)
    draft.durations[role] = Duration(role=role, count=old.count + 1, total_s=old.total_s + event.data["seconds"])


def _node_forgotten(draft: _Draft, event: Event) -> None:
    for step in [p.id for p in draft.placements.values() if p.node == event.node]:
        del draft.placements[step]
    draft.nodes.pop(event.node, None)
    for machine in [m.id for m in draft.machines.values() if event.node in (m.node, m.id)]:
        del draft.machines[machine]


def _machine_moved(draft: _Draft, event: Event) -> None:
    data = event.data
    key = data["machine"]
    old = draft.machines.get(key)
    before = str(old.phase) if old else ""
    if before != data["from"]:
        raise RefusedError(f"machine {key} is {before or 'unknown'}, not {data['from'] or 'unknown'}, by now")
    state = old or MachineState(id=key, phase=Phase(data["to"]))
    if writes_system(event):
        for step in [p.id for p in draft.placements.values() if p.node == data["node"] and p.role not in STAGES]:
            del draft.placements[step]
    draft.machines[key] = replace(
        state,
        **machine_fields_from_json(data["changes"]),
        phase=Phase(data["to"]),
        node=data["node"],
        since=event.at if before != data["to"] else state.since,
        seen=event.at,
    )


def _machine_seen(draft: _Draft, event: Event) -> None:
    old = draft.machines.get(event.data["machine"])
    if old is not None:
        draft.machines[old.id] = replace(old, seen=event.at)


def _run_started(draft: _Draft, event: Event) -> None:
    data = event.data
    old = draft.runs.get(event.run)
    draft.runs[event.run] = Run(
        id=event.run,
        plan_id=data["plan_id"],
        command=data["command"],
        started=old.started if old else event.at,
        host=data.get("host", ""),
        pid=data.get("pid", 0),
        steps=data["steps"],
    )


def _run_finished(draft: _Draft, event: Event) -> None:
    old = draft.runs.get(event.run)
    if old is None:
        raise ValueError(f"run {event.run!r} finished but never started")
    status = RunStatus(event.data["status"])
    draft.runs[event.run] = replace(old, status=status, finished=event.at, counts=event.data["counts"])


_RULES: Mapping[str, Callable[[_Draft, Event], None]] = {
    kinds.STEP_FINISHED: _step_finished,
    kinds.NODE_FORGOTTEN: _node_forgotten,
    kinds.MACHINE_MOVED: _machine_moved,
    kinds.MACHINE_PROGRESS: _machine_seen,
    kinds.MACHINE_BOOT: _machine_seen,
    kinds.RUN_STARTED: _run_started,
    kinds.RUN_FINISHED: _run_finished,
}


# --- one run ------------------------------------------------------------------------------------------------------


def progress(events: Iterable[Event]) -> Progress:
    """Return what the events of one run say about its steps. One that is started again has no outcome yet."""
    started: dict[StepId, Event] = {}
    finished: dict[StepId, Outcome] = {}
    attempts: dict[StepId, int] = {}
    processes: dict[str, Process] = {}
    for event in events:
        step = StepId(event.step)
        if event.kind == kinds.BATCH_PROCESS:
            processes[event.data["batch"]] = Process(**event.data)
            continue
        started.pop(step, None)
        finished.pop(step, None)
        if event.kind == kinds.STEP_STARTED:
            started[step] = event
        elif event.kind == kinds.STEP_RETRY:
            attempts[step] = event.data["attempt"]
        elif event.kind in (kinds.STEP_FINISHED, kinds.STEP_SKIPPED):
            finished[step] = _outcome(event)
    in_flight = tuple(_in_flight(event, processes) for event in started.values())
    return Progress(in_flight=in_flight, finished=finished, attempts=attempts)


def _in_flight(event: Event, processes: Mapping[str, Process]) -> InFlight:
    data = event.data
    return InFlight(
        step=StepId(event.step),
        node=event.node,
        action=data["action"],
        batch=data["batch"],
        attempt=data["attempt"],
        at=event.at,
        executor=data["executor"],
        process=processes.get(data["batch"]),
    )


def _outcome(event: Event) -> Outcome:
    data, step = event.data, StepId(event.step)
    if event.kind == kinds.STEP_SKIPPED:
        return Outcome(step=step, status=Status.SKIPPED, problem=data["reason"], cause=data["cause"])
    return Outcome(
        step=step,
        status=Status(data["status"]),
        outputs=data["outputs"],
        problem=data["problem"],
        seconds=data["seconds"],
        attempt=data["attempt"],
        unrun=data["unrun"],
    )
