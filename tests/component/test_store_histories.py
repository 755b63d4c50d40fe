"""Whatever happens, in whatever portions it is appended: what is stored is the fold of the events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.fingerprint import digest_of, fingerprint
from orchestrator.identity import keys
from orchestrator.lifecycle import RefusedError, Signal, move
from orchestrator.model import (
    Action,
    Connection,
    Event,
    Identity,
    Order,
    Outcome,
    PlanNode,
    Process,
    Status,
    Step,
    StepId,
)
from orchestrator.store import Run, RunStatus, Store, kinds
from orchestrator.store.fold import State, fold, progress, snapshot_of

PRINTS = {digest_of(p): p for p in (fingerprint("role", "debian-12", {"n": n}) for n in range(3))}
RUNS = ("r1", "r2")

ids = st.sampled_from([f"{role}@{node}" for role in ("web", "db", "app") for node in ("n1", "n2", "n3")])
runs = st.sampled_from(RUNS)
times = st.floats(min_value=0, max_value=1e9)
texts = st.text(max_size=10)
json_values = st.recursive(st.none() | st.booleans() | st.integers() | times | texts, st.lists, max_leaves=4)
counts = st.dictionaries(st.sampled_from([str(status) for status in Status]), st.integers(0, 9))


@st.composite
def steps(draw: st.DrawFn) -> Step:
    id_ = draw(ids)
    role, _, node = id_.partition("@")
    action = draw(st.sampled_from(Action))
    digest = draw(st.sampled_from(sorted(PRINTS)))
    return Step(id=StepId(id_), action=action, role=role, node=node, reasons=(), inputs={}, digest=digest)


@st.composite
def outcomes(draw: st.DrawFn) -> Event:
    step = draw(steps())
    outcome = Outcome(
        step=step.id,
        status=draw(st.sampled_from(Status)),
        outputs=draw(st.dictionaries(texts, json_values, max_size=3)),
        problem=draw(texts),
        seconds=draw(times),
        attempt=draw(st.integers(1, 3)),
        unrun=draw(st.booleans()),
    )
    address = draw(st.sampled_from(["", "10.0.0.1", "10.0.0.2"]))
    node = PlanNode(name=step.node, platform="debian-12", address=address, connection=Connection(), groups=("all",))
    return kinds.step_finished(step, outcome, run=draw(runs), at=draw(times), node=node if address else None)


processes = st.builds(Process, batch=st.just("b1"), pid=st.integers(1, 9), start_time=times, folder=texts)
machines = st.sampled_from(["m-1", "m-2", "m-3"])
told = st.fixed_dictionaries(
    {},
    optional={
        "identity": st.builds(
            Identity, uuid=st.sampled_from(["", "u1"]), macs=st.lists(st.sampled_from("abc"), unique=True).map(tuple)
        ),
        "facts": st.sampled_from(["f1", "f2"]),
        "order": st.none() | st.builds(Order, id=texts, task=st.just("install"), args=st.dictionaries(texts, texts)),
        "host_keys": st.lists(texts, max_size=2).map(tuple),
        "reason": texts,
    },
)
moves = st.builds(
    lambda machine, signal, node, changes: (machine, signal, {**changes, "node": node}),
    machines,
    st.sampled_from(Signal),
    st.sampled_from(["n1", "n2"]),
    told,
)
"""What somebody wants of a machine; whether its phase allows it is known when it is appended."""

events = st.one_of(
    st.builds(kinds.machine_progress, machines, at=times, step=texts, percent=times),
    st.builds(kinds.machine_boot, machines | st.just(""), at=times, what=texts, mac=texts, detail=texts),
    st.builds(kinds.machine_conflict, machines, at=times, others=st.lists(machines), reason=texts),
    outcomes(),
    outcomes(),
    st.builds(kinds.step_started, steps(), run=runs, at=times, batch=st.just("b1"), attempt=st.integers(1, 3)),
    st.builds(kinds.step_retry, steps(), run=runs, at=times, attempt=st.just(1), problem=texts, wait_s=times),
    st.builds(kinds.step_skipped, steps(), run=runs, at=times, cause=st.none() | ids, reason=texts),
    st.builds(kinds.batch_process, processes, run=runs, at=times),
    st.builds(kinds.check_finished, run=runs, at=times, checked=st.integers(0, 9), drift=st.lists(ids, max_size=2)),
    st.builds(kinds.node_forgotten, st.sampled_from(["n1", "n2", "n4"]), at=times),
    st.builds(Run, id=runs, started=times, steps=st.integers(0, 9), pid=st.integers(1, 9)).map(kinds.run_started),
    st.builds(kinds.run_finished, runs, st.sampled_from(RunStatus), at=times, counts=counts),
)
BEGUN = [kinds.run_started(Run(id=run, started=1.0)) for run in RUNS]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(events | moves, max_size=8), max_size=8))
def test_what_is_stored_is_the_fold_of_the_events(new_url: Callable[[], str], portions: list[list[Event]]) -> None:
    with Store.open(new_url()) as store:
        state, happened = State(), []
        for wanted_ in [BEGUN, *portions]:
            portion = _possible(state, wanted_)
            happened += portion
            revision = store.append(portion, fingerprints=PRINTS)
            state = fold(state, [replace(e, seq=len(happened) - len(portion) + n) for n, e in enumerate(portion, 1)])
            assert revision == state.revision
        assert store.snapshot() == snapshot_of(state, PRINTS)
        for key in ("uuid:u1", "mac:a", "mac:b"):
            wanted_machines = {m.id for m in state.machines.values() if key in keys(m.identity)}
            assert {machine.id for machine in store.machines_like([key])} == wanted_machines
        assert {run.id: run for run in store.runs()} == state.runs
        for run in RUNS:
            wanted = progress(e for e in happened if e.run == run and (e.step or e.kind == kinds.BATCH_PROCESS))
            assert (store.in_flight(run), store.finished(run)) == (wanted.in_flight, wanted.finished)
        assert [replace(e, seq=0, data=_without_node(e)) for e in store.events()] == [
            replace(e, data=_without_node(e)) for e in happened
        ]
        assert store.check() == []


def _possible(state: State, wanted: list[Event | tuple[str, Signal, dict[str, object]]]) -> list[Event]:
    """Make events of the moves that a machine's phase allows, and leave the others out."""
    portion: list[Event] = []
    for item in wanted:
        if isinstance(item, Event):
            portion.append(item)
        else:
            machine, signal, changes = item
            try:
                before = fold(state, [replace(event, seq=1) for event in portion]).machines.get(machine)
                made = move(before, signal, machine=machine, **changes)
            except RefusedError:
                continue
            portion.append(kinds.machine_moved(made, at=1.0))
    return portion


def _without_node(event: Event) -> dict[str, object]:
    return {key: value for key, value in event.data.items() if key != "node"}
