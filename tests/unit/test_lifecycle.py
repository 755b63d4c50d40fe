"""The life of a machine: every move that the table has, every refusal in words, and what a node still has before it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.lifecycle import (
    STAGES,
    TABLE,
    RefusedError,
    Signal,
    boots_locally,
    mermaid,
    move,
    of_nodes,
    pending,
    stage_contracts,
)
from orchestrator.model import Failure, Identity, MachineState, Node, Order, Phase
from orchestrator.store import kinds
from orchestrator.store.fold import State, fold

LIFE = (Signal.BOOT, Signal.ENROL, Signal.FACTS, Signal.CLAIM, Signal.INSTALL, Signal.WROTE, Signal.LOGIN)


def machine(phase=Phase.DISCOVERED, **fields):
    return MachineState(id="m-1", phase=phase, **fields)


def after(state, *signals, **changes):
    """Return the machine after signals, by way of the store's own fold."""
    held = State(machines={state.id: state} if state else {})
    for number, signal in enumerate(signals, 1):
        made = move(held.machines.get("m-1"), signal, machine="m-1", **changes)
        held = fold(held, [kinds.machine_moved(made, at=float(number))])
    return held.machines["m-1"]


def test_the_straight_way_from_unknown_to_ready():
    phases = []
    state = None
    for signal in LIFE:
        state = after(state, signal, **({"node": "kvm-1"} if signal is Signal.CLAIM else {}))
        phases.append(state.phase)
    assert phases == [
        Phase.ENROLLED,
        Phase.DISCOVERING,
        Phase.DISCOVERED,
        Phase.CLAIMED,
        Phase.INSTALLING,
        Phase.INSTALLED,
        Phase.READY,
    ]
    assert state.node == "kvm-1"


@pytest.mark.parametrize("phase", [*Phase, None])
@pytest.mark.parametrize("signal", list(Signal))
def test_every_pair_either_moves_or_is_refused_in_words(phase, signal):
    state = machine(phase, node="kvm-1", failure=Failure.LOGIN) if phase else None
    if (phase, signal) in TABLE:
        made = move(state, signal, machine="m-1", node="kvm-1")
        assert (made.before, made.machine) == (phase, "m-1")
    else:
        with pytest.raises(RefusedError, match="not possible now"):
            move(state, signal, machine="m-1", node="kvm-1")


def test_a_claim_is_good_once():
    state = after(machine(), Signal.CLAIM, node="kvm-1")
    assert after(state, Signal.CLAIM, node="kvm-1").node == "kvm-1"
    with pytest.raises(RefusedError, match="belongs to node kvm-1; node kvm-2 cannot claim it"):
        move(state, Signal.CLAIM, node="kvm-2")


@pytest.mark.parametrize("signal", [Signal.BOOT, Signal.ENROL])
def test_a_restart_in_the_middle_of_an_install_is_told(signal):
    state = machine(Phase.INSTALLING, node="kvm-1", order=Order(id="o", task="install"))
    back = after(state, signal)
    assert (back.phase, back.order) == (Phase.CLAIMED, None)
    assert "restarted in the middle" in back.reason


def test_a_machine_of_nobody_cannot_be_reinstalled():
    with pytest.raises(RefusedError, match="belongs to no node"):
        move(machine(Phase.FAILED, failure=Failure.BOOT), Signal.REINSTALL)


def test_a_failed_machine_goes_back_to_its_node_or_to_discovery():
    failed = machine(Phase.FAILED, failure=Failure.DISK, reason="gone")
    assert after(failed, Signal.ENROL).phase is Phase.DISCOVERING
    assert after(failed, Signal.ENROL).reason == ""
    owned = machine(Phase.FAILED, node="kvm-1", failure=Failure.DISK, reason="gone")
    assert after(owned, Signal.ENROL).phase is Phase.CLAIMED
    assert after(owned, Signal.BOOT).reason == "gone"


def test_a_rescue_goes_back_to_where_it_came_from():
    state = machine(Phase.READY, node="kvm-1", image="debian-12@abc", host_keys=("k",))
    rescued = after(state, Signal.RESCUE)
    assert rescued.phase is Phase.RESCUE
    back = after(rescued, Signal.UNRESCUE)
    assert (back.phase, back.image, back.host_keys) == (Phase.READY, "debian-12@abc", ("k",))


def test_a_reinstall_forgets_the_system_and_keeps_the_node():
    state = machine(Phase.READY, node="kvm-1", image="debian-12@abc", host_keys=("k",), credential="c")
    again = after(state, Signal.REINSTALL)
    assert again.credential == ""  # else it would be taken for one that waits for orders
    assert (again.phase, again.node, again.image, again.host_keys) == (Phase.CLAIMED, "kvm-1", "", ())
    assert pending(again) == STAGES


def test_only_an_installed_machine_starts_from_its_disk():
    local = {phase for phase in Phase if boots_locally(machine(phase))}
    assert local == {Phase.INSTALLED, Phase.READY}
    assert boots_locally(machine(Phase.FAILED, failure=Failure.LOGIN))
    assert not boots_locally(machine(Phase.FAILED, failure=Failure.IMAGE))


def test_the_store_refuses_a_move_from_a_phase_that_is_over():
    held = State(machines={"m-1": machine(Phase.CLAIMED, node="kvm-1")})
    late = kinds.machine_moved(move(machine(), Signal.CLAIM, node="kvm-2"), at=1.0)
    with pytest.raises(RefusedError, match="is claimed, not discovered, by now"):
        fold(held, [late])


@given(st.lists(st.sampled_from(list(Signal)), max_size=30))
def test_no_row_of_signals_makes_an_impossible_machine(signals):
    """A system is there only after it was written; only who claimed has a machine; an order lives while it is due."""
    state = None
    for signal in signals:
        order = {"order": Order(id="o", task="install")} if signal is Signal.INSTALL else {}
        wrote = {"image": "debian-12@abc"} if signal is Signal.WROTE else {}
        try:
            state = after(state, signal, node="kvm-1" if signal is Signal.CLAIM else "", **order, **wrote)
        except RefusedError:
            continue
        if state.phase in (Phase.CLAIMED, Phase.INSTALLING, Phase.INSTALLED, Phase.READY):
            assert state.node == "kvm-1"
        if state.phase in (Phase.INSTALLED, Phase.READY):
            assert state.image
        if state.phase is not Phase.INSTALLING:
            assert state.order is None


@pytest.mark.parametrize(
    ("state", "stages"),
    [
        (None, STAGES),
        (machine(Phase.CLAIMED), STAGES),
        (machine(Phase.INSTALLING), ("install", "ready")),
        (machine(Phase.INSTALLED), ("ready",)),
        (machine(Phase.READY), ()),
        (machine(Phase.FAILED, failure=Failure.LOGIN), ("ready",)),
        (machine(Phase.FAILED, failure=Failure.IMAGE), STAGES),
    ],
)
def test_what_is_still_before_a_node(state, stages):
    assert pending(state) == stages


def test_nodes_find_their_machines():
    machines = {
        "m-1": MachineState(id="m-1", phase=Phase.READY, node="a", identity=Identity(macs=("52:54:00:00:00:09",))),
        "m-2": MachineState(id="m-2", phase=Phase.DISCOVERED, identity=Identity(macs=("52:54:00:00:00:02",))),
        "m-3": MachineState(id="m-3", phase=Phase.DISCOVERED, identity=Identity(serials=("S3",))),
        "m-4": MachineState(id="m-4", phase=Phase.DISCOVERED),
    }
    nodes = [
        Node(name="a", mac="52:54:00:00:00:01"),  # what it claimed wins over what the spec says now
        Node(name="b", mac="52:54:00:00:00:02"),
        Node(name="c", serial="S3"),
        Node(name="d"),
        Node(name="e", mac="52:54:00:00:00:09"),  # claimed by another node
    ]
    assert {name: found.id for name, found in of_nodes(nodes, machines).items()} == {"a": "m-1", "b": "m-2", "c": "m-3"}


def test_each_stage_needs_the_one_before_it():
    contracts = stage_contracts()
    assert tuple(contracts) == STAGES
    for earlier, later in itertools.pairwise(STAGES):
        assert [r.capability for r in contracts[later].requires] == list(contracts[earlier].provides)


def test_the_diagram_of_the_docs_is_that_of_the_table():
    page = (Path(__file__).parents[2] / "docs" / "metal.md").read_text()
    assert mermaid() in page, "run `make docs`"
