"""The fold, rule by rule and over random histories."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.model import Action, Connection, Event, Fingerprint, Outcome, PlanNode, Process, Status, Step, StepId
from orchestrator.store import Run, RunStatus, kinds
from orchestrator.store.fold import State, fold, progress, snapshot_of

EMPTY = State()
NODE = PlanNode(name="n1", platform="debian-12", address="10.0.0.1", connection=Connection(), groups=("all",))


def numbered(events: list[Event]) -> list[Event]:
    return [replace(event, seq=seq) for seq, event in enumerate(events, 1)]


def believed(*events: Event) -> State:
    return fold(EMPTY, numbered(list(events)))


def step(id_: str = "web@n1", action: Action = Action.CREATE) -> Step:
    role, _, node = id_.partition("@")
    return Step(id=StepId(id_), action=action, role=role, node=node, reasons=(), inputs={}, digest="d1")


def ended(
    status: Status,
    action: Action = Action.CREATE,
    *,
    id_: str = "web@n1",
    at: float = 1.0,
    digest: str | None = None,
    seconds: float = 2.0,
    unrun: bool = False,
    node: PlanNode | None = None,
) -> Event:
    outcome = Outcome(step=StepId(id_), status=status, outputs={"at": at}, seconds=seconds, unrun=unrun)
    return kinds.step_finished(step(id_, action), outcome, run="r1", at=at, digest=digest, node=node)


CASES = {
    # what happened: (status, digest, outputs, seconds, at) that is believed of web@n1 afterwards, None: nothing
    "created": ([ended(Status.CHANGED)], (Status.CHANGED, "d1", {"at": 1.0}, 2.0, 1.0)),
    "found as it should be": ([ended(Status.OK)], (Status.OK, "d1", {"at": 1.0}, 2.0, 1.0)),
    "digest known only after apply": (
        [ended(Status.CHANGED, digest="d2")],
        (Status.CHANGED, "d2", {"at": 1.0}, 2.0, 1.0),
    ),
    "never worked": ([ended(Status.FAILED)], (Status.FAILED, "", {}, 2.0, 1.0)),
    "update failed": (
        [ended(Status.CHANGED), ended(Status.FAILED, Action.UPDATE, at=2.0, digest="d2", seconds=5.0)],
        (Status.FAILED, "d1", {"at": 1.0}, 5.0, 2.0),
    ),
    "removal failed": (
        [ended(Status.CHANGED), ended(Status.UNREACHABLE, Action.REMOVE, at=2.0)],
        (Status.UNREACHABLE, "d1", {"at": 1.0}, 2.0, 2.0),
    ),
    "repaired": (
        [ended(Status.FAILED), ended(Status.OK, Action.UPDATE, at=2.0)],
        (Status.OK, "d1", {"at": 2.0}, 2.0, 2.0),
    ),
    "removed": ([ended(Status.CHANGED), ended(Status.CHANGED, Action.REMOVE)], None),
    "removed though unknown": ([ended(Status.OK, Action.REMOVE)], None),
    "checked": (
        [ended(Status.CHANGED), ended(Status.CHANGED, Action.CHECK, at=2.0)],
        (Status.CHANGED, "d1", {"at": 1.0}, 2.0, 1.0),
    ),
    "only checked": ([ended(Status.OK, Action.CHECK)], None),
    "late no-op": (
        [ended(Status.CHANGED), ended(Status.OK, Action.UPDATE, at=2.0, seconds=0.0, unrun=True)],
        (Status.OK, "d1", {"at": 1.0}, 2.0, 2.0),
    ),
    "late no-op with new role files": (
        [ended(Status.CHANGED), ended(Status.OK, Action.UPDATE, at=2.0, digest="d2", unrun=True)],
        (Status.OK, "d2", {"at": 1.0}, 2.0, 2.0),
    ),
    "skipped": ([ended(Status.SKIPPED)], None),
    "started": ([kinds.step_started(step(), run="r1", at=1.0, batch="b1")], None),
    "forgotten": ([ended(Status.CHANGED), kinds.node_forgotten("n1", at=2.0)], None),
    "other node forgotten": (
        [ended(Status.CHANGED), kinds.node_forgotten("n2", at=2.0)],
        (Status.CHANGED, "d1", {"at": 1.0}, 2.0, 1.0),
    ),
}


@pytest.mark.parametrize(("events", "wanted"), CASES.values(), ids=CASES.keys())
def test_placement(events: list[Event], wanted: tuple[object, ...] | None) -> None:
    state = believed(*events).placements.get(StepId("web@n1"))
    assert (state and (state.status, state.digest, state.outputs, state.seconds, state.at)) == wanted
    assert state is None or (state.role, state.node, state.run) == ("web", "n1", "r1")


@pytest.mark.parametrize(
    ("event", "known"),
    [
        (ended(Status.CHANGED, node=NODE), True),
        (ended(Status.FAILED, node=NODE), True),  # it failed there, so it was there
        (ended(Status.CHANGED, Action.REMOVE, node=NODE), True),
        (ended(Status.UNREACHABLE, node=NODE), False),
        (ended(Status.OK, unrun=True, node=NODE), False),
        (ended(Status.OK, Action.CHECK, node=NODE), False),
        (ended(Status.CHANGED), False),
    ],
)
def test_node_is_known_by_a_connection_that_worked(event: Event, *, known: bool) -> None:
    assert ("n1" in believed(event).nodes) is known


def test_forgotten_node_is_unknown() -> None:
    assert believed(ended(Status.OK, node=NODE), kinds.node_forgotten("n1", at=2.0)).nodes == {}


def test_durations_are_means_of_good_real_changes() -> None:
    state = believed(
        ended(Status.CHANGED, seconds=10.0),
        ended(Status.OK, Action.UPDATE, seconds=20.0),
        ended(Status.FAILED, seconds=500.0),
        ended(Status.OK, seconds=0.0, unrun=True),
        ended(Status.CHANGED, Action.REMOVE, seconds=500.0),
        ended(Status.OK, Action.CHECK, seconds=500.0),
    )
    assert snapshot_of(state, {}).durations == {"web": 15.0}


def test_snapshot_holds_the_fingerprints_in_use() -> None:
    prints = {name: Fingerprint(role=name, platform="debian-12", inputs={}) for name in ("d1", "d2")}
    assert snapshot_of(believed(ended(Status.OK)), prints).fingerprints == {"d1": prints["d1"]}


@pytest.mark.parametrize(
    ("event", "revision"),
    [
        (kinds.run_started(Run(id="r1")), 0),
        (kinds.step_started(step(), run="r1", at=1.0, batch="b1"), 1),
        (kinds.step_started(step(action=Action.CHECK), run="r1", at=1.0, batch="b1"), 0),
        (kinds.step_retry(step(), run="r1", at=1.0, attempt=1, problem="", wait_s=1.0), 0),
        (ended(Status.FAILED), 1),
        (ended(Status.OK, Action.CHECK), 0),
        (kinds.step_skipped(step(), run="r1", at=1.0, cause=None, reason=""), 0),
        (kinds.batch_process(Process(batch="b", pid=1, start_time=1.0, folder="f"), run="r1", at=1.0), 0),
        (kinds.check_finished(run="r1", at=1.0, checked=1), 0),
        (kinds.node_forgotten("n1", at=1.0), 1),
    ],
    ids=lambda value: value.kind if isinstance(value, Event) else "",
)
def test_revision_moves_when_a_plan_could_be_wrong(event: Event, revision: int) -> None:
    assert believed(event).revision == revision


def test_run_that_never_started_cannot_finish() -> None:
    with pytest.raises(ValueError, match="'r9' finished but never started"):
        believed(kinds.run_finished("r9", RunStatus.FAILED, at=1.0))


def test_fold_leaves_its_argument_alone() -> None:
    before = believed(ended(Status.CHANGED, node=NODE))
    copy = replace(before, placements=dict(before.placements), nodes=dict(before.nodes))
    fold(before, [ended(Status.FAILED), kinds.node_forgotten("n1", at=2.0)])
    assert before == copy


# --- random histories ---------------------------------------------------------------------------------------------

ids = st.sampled_from(["web@n1", "web@n2", "db@n1", "db@n3"])
steps = st.builds(step, ids, st.sampled_from(Action))
times = st.floats(min_value=0, max_value=1e6)
events = st.one_of(
    st.builds(
        ended,
        st.sampled_from(Status),
        st.sampled_from(Action),
        id_=ids,
        at=times,
        digest=st.sampled_from([None, "d2", "d3"]),
        seconds=times,
        unrun=st.booleans(),
        node=st.sampled_from([None, NODE, replace(NODE, address="10.0.0.2")]),
    ),
    st.builds(kinds.step_started, steps, run=st.just("r1"), at=times, batch=st.just("b1")),
    st.builds(kinds.step_skipped, steps, run=st.just("r1"), at=times, cause=st.none(), reason=st.just("")),
    st.builds(
        kinds.step_retry, steps, run=st.just("r1"), at=times, attempt=st.just(1), problem=st.just(""), wait_s=times
    ),
    st.builds(kinds.node_forgotten, st.sampled_from(["n1", "n2"]), at=times),
)
histories = st.lists(events, max_size=40).map(numbered)


@given(histories, st.data())
def test_folding_in_two_goes_is_folding_in_one(history: list[Event], data: st.DataObject) -> None:
    """What lets the store keep the fold up to date instead of reading all events again."""
    cut = data.draw(st.integers(0, len(history)))
    assert fold(fold(EMPTY, history[:cut]), history[cut:]) == fold(EMPTY, history)


@given(histories)
def test_belief_has_a_cause(history: list[Event]) -> None:
    """A digest is that of the last success since the placement was last removed or forgotten."""
    for state in fold(EMPTY, history).placements.values():
        mine = [e for e in history if e.step == state.id or (e.kind == kinds.NODE_FORGOTTEN and e.node == state.node)]
        changes = [e for e in mine if e.kind != kinds.STEP_FINISHED or e.data["action"] != Action.CHECK]
        last = [e for e in changes if e.kind == kinds.STEP_FINISHED and e.data["status"] != Status.SKIPPED][-1]
        assert (state.status, state.at) == (last.data["status"], last.at)
        assert state.digest in {"", *(e.data["digest"] for e in mine if e.kind == kinds.STEP_FINISHED)}


@given(histories)
def test_revision_only_grows(history: list[Event]) -> None:
    revisions = accumulate(history, lambda state, event: fold(state, [event]), initial=EMPTY)
    numbers = [state.revision for state in revisions]
    assert numbers == sorted(numbers)
    assert all(number <= seq for number, seq in zip(numbers, count(), strict=False))


@given(histories)
def test_no_step_is_both_in_flight_and_finished(history: list[Event]) -> None:
    found = progress(event for event in history if event.step)
    flying = [item.step for item in found.in_flight]
    assert len(flying) == len(set(flying))
    assert not found.finished.keys() & set(flying)
    last = {event.step: event.kind for event in history if event.step}
    assert set(flying) == {id_ for id_, kind in last.items() if kind == kinds.STEP_STARTED}
    assert found.finished.keys() == {
        id_ for id_, kind in last.items() if kind in (kinds.STEP_FINISHED, kinds.STEP_SKIPPED)
    }
