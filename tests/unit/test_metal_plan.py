"""Bare metal in the plan: the life-cycle steps before the roles, what they destroy, and what waits for discovery."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.sites import after_success, catalog, role, site

from orchestrator import plan
from orchestrator.errors import ProblemsError
from orchestrator.lifecycle import STAGES
from orchestrator.model import (
    METAL,
    Action,
    Bmc,
    Boot,
    Failure,
    Identity,
    Limits,
    MachineState,
    Network,
    Phase,
    Policy,
    Profile,
    SecretRef,
    Snapshot,
    Status,
)
from orchestrator.plan import Selection
from orchestrator.schedule import Schedule, Verdict
from orchestrator.topology import resolve

CONTRACTS = catalog(
    role("base", provides=["os.base"]),
    role("compute", provides=["compute"], requires=["os.base/node"]),
    role("report", requires=["compute"]),
)
RULE = {"memory_gib": ">= 128"}


def metal_site(count=2, *, rule=None, policy=None, **fields):
    """A probe on a running host, and computes on bare metal that are named by MAC or chosen by a rule."""
    names = [f"kvm-{number}" for number in range(1, count + 1)]
    spec = site(
        {"kvm": ["base", "compute"], "probe": ["report"]},
        {**{name: ["kvm"] for name in names}, "prb-1": ["probe"]},
        policy=policy,
    )
    nodes = dict(spec.nodes)
    for number, name in enumerate(names, 1):
        named = {"match": rule} if rule else {"mac": f"52:54:00:00:00:{number:02x}"}
        nodes[name] = replace(nodes[name], profile="kvm", **named, **fields)
    profile = Profile(name="kvm", image="debian-12", root_disk={"type": "ssd"})
    networks = {"mgmt": Network(name="mgmt", cidr="10.0.0.0/16", gateway="10.0.0.254")}
    return replace(spec, nodes=nodes, profiles={"kvm": profile}, networks=networks, boot=Boot(network="mgmt"))


def machine(number=1, phase=Phase.READY, **fields):
    mac = f"52:54:00:00:00:{number:02x}"
    return MachineState(id=f"m-{number}", phase=phase, identity=Identity(macs=(mac,)), **fields)


def known(*machines, after=None):
    return replace(after or Snapshot(), machines={state.id: state for state in machines})


def made(spec, snapshot=None, **rest):
    return plan.make(resolve(spec, CONTRACTS), snapshot or Snapshot(), **rest)


def ids(found, node="kvm-1"):
    return [step.id for step in found.steps if step.node == node]


def test_a_new_machine_gets_its_stages_in_order_and_then_its_roles():
    found = made(metal_site(1))
    steps = {step.id: step for step in found.steps}
    chain = [f"{stage}@kvm-1" for stage in STAGES]
    for earlier, later in zip(chain, [*chain[1:], "base@kvm-1"], strict=True):
        assert steps[later].needs == (earlier,)
    assert steps["compute@kvm-1"].needs == ("ready@kvm-1", "base@kvm-1")
    assert {steps[key].executor for key in chain} == {METAL}
    assert found.complete
    assert plan.summarize(found).waves == 8


def test_only_the_install_destroys_and_consent_is_asked_for_it():
    found = made(metal_site(2))
    assert [step.id for step in found.steps if step.destroys] == ["install@kvm-1", "install@kvm-2"]
    install = next(step for step in found.steps if step.id == "install@kvm-1")
    assert install.destroys == "the root disk (type ssd): the image debian-12 is written over it"
    assert "install@kvm-1" in str(plan.refusals(found, ()))
    assert "install@kvm-2" in str(plan.refusals(found, ("kvm-1",)))
    assert plan.refusals(found, ("install",)) == ()


def test_the_blast_radius_bounds_reinstalls():
    policy = Policy()
    limited = replace(policy, blast_radius=replace(policy.blast_radius, destroy=plan_share(1)))
    assert "destroy 2 of 3 nodes" in str(plan.refusals(made(metal_site(2, policy=limited)), ("*",)))


def plan_share(count):
    from orchestrator.model import Share

    return Share(count=count)


def applied(spec, *machines):
    """Return the snapshot after everything was applied to machines that are ready."""
    return known(*machines, after=after_success(made(spec)))


def test_a_ready_machine_has_nothing_before_it():
    spec = metal_site(2)
    snapshot = applied(spec, machine(1, node="kvm-1"), machine(2, node="kvm-2"))
    assert made(spec, snapshot).steps == ()


@pytest.mark.parametrize(
    ("state", "stages"),
    [
        (machine(1, Phase.DISCOVERED), STAGES),
        (machine(1, Phase.CLAIMED, node="kvm-1"), STAGES),
        (machine(1, Phase.INSTALLING, node="kvm-1"), ("install", "ready")),
        (machine(1, Phase.INSTALLED, node="kvm-1"), ("ready",)),
        (machine(1, Phase.FAILED, node="kvm-1", failure=Failure.IMAGE, reason="checksum"), STAGES),
    ],
)
def test_the_phase_of_its_machine_says_what_is_before_a_node(state, stages):
    found = made(metal_site(1), known(state))
    planned = [step for step in found.steps if step.role in STAGES]
    assert [step.role for step in planned] == sorted(stages)
    assert all(step.reasons[0].startswith("its machine ") for step in planned)
    assert all(state.reason in step.reasons[0] for step in planned)


def test_a_reinstall_plans_its_roles_anew_and_no_others():
    spec = metal_site(2)
    snapshot = applied(spec, machine(1, Phase.CLAIMED, node="kvm-1"), machine(2, node="kvm-2"))
    found = made(spec, snapshot)
    assert {step.node for step in found.steps} == {"kvm-1"}
    steps = {step.role: step for step in found.steps}
    assert steps["base"].reasons == ("its system is installed",)
    assert steps["base"].last == ""  # else it could be recorded as done without running
    assert "root disk" in steps["install"].destroys


def test_a_changed_image_reinstalls_nothing():
    spec = metal_site(1)
    snapshot = applied(spec, machine(1, node="kvm-1"))
    other = replace(spec, profiles={"kvm": replace(spec.profiles["kvm"], image="debian-13")})
    assert made(other, snapshot).steps == ()


def test_nodes_chosen_by_rules_wait_for_discovery_and_so_does_what_needs_them():
    found = made(metal_site(2, rule=RULE))
    assert not found.complete
    assert found.undiscovered == ("kvm-1", "kvm-2")
    assert [step.id for step in found.steps] == ["discover@kvm-1", "discover@kvm-2"]
    assert found.deferred == 2 * (len(STAGES) - 1 + 2) + 1
    assert plan.parse(plan.dump(found), "it") == found


def test_the_next_plan_has_the_rest_for_the_machines_that_rules_chose():
    snapshot = known(machine(7, Phase.DISCOVERED), machine(8, Phase.DISCOVERED))
    found = made(metal_site(2, rule=RULE), snapshot, chosen={"kvm-1": "m-8"})
    assert found.undiscovered == ("kvm-2",)
    steps = {step.id: step for step in found.steps}
    assert steps["match@kvm-1"].inputs["machine"] == "m-8"
    assert "compute@kvm-1" in steps
    assert "report@prb-1" not in steps  # it would run before kvm-2 is a compute


def test_a_selection_pulls_in_the_machine_that_a_role_needs():
    found = made(metal_site(2), selection=Selection(nodes=("kvm-1",), roles=("base",)))
    assert ids(found) == sorted([*(f"{stage}@kvm-1" for stage in STAGES), "base@kvm-1"])


def test_no_secret_of_a_bmc_is_in_a_plan():
    secret = SecretRef(file="group_vars/all/secrets.yml", key="bmc_login", fingerprint="f")
    spec = metal_site(1, bmc=Bmc(driver="redfish", address="https://10.9.9.9", credential="bmc_login"))
    spec = replace(spec, nodes={**spec.nodes, "kvm-1": replace(spec.nodes["kvm-1"], vars={"bmc_login": secret})})
    document = plan.dump(made(spec)).decode()
    assert "$secret" in document
    assert "bmc_login" in document  # its name, never its value


@pytest.mark.parametrize(
    "values", [{}, {"bmc_login": {"user": "admin"}}, {"bmc_login": {"user": "admin", "password": "in the clear"}}]
)
def test_a_bmc_without_its_credential_is_a_problem(values):
    spec = metal_site(1, bmc=Bmc(driver="redfish", address="https://10.9.9.9", credential="bmc_login"), vars=values)
    with pytest.raises(ProblemsError, match="1 problem found") as caught:
        resolve(spec, CONTRACTS)
    assert "bmc_login" in caught.value.problems[0].summary
    assert "in the clear" not in str(caught.value)


def test_installs_are_limited_per_group():
    spec = metal_site(4, policy=Policy(limits=Limits(installs={"kvm": 1})))
    found = made(spec)
    schedule = Schedule(found)
    most = 0
    done = []
    while not schedule.done:
        decision = schedule.next(0.0)
        running = [run.step for batch in decision.batches for run in batch.runs]
        done += running
        installing = [step for step in schedule.in_flight if step.startswith("install@")]
        most = max(most, len(installing))
        # Everything but installs ends at once; one install ends when nothing else runs.
        others = [step for step in schedule.in_flight if not step.startswith("install@")]
        for step in others or installing[:1]:
            schedule.record(Verdict(outcome=outcome(step)), 0.0)
    assert most == 1
    assert len(done) == len(found.steps)


def outcome(step):
    from orchestrator.model import Outcome

    return Outcome(step=step, status=Status.CHANGED)


def test_check_asks_no_metal():
    spec = metal_site(1)
    snapshot = applied(spec, machine(1, node="kvm-1"))
    checked = plan.make_check(resolve(spec, CONTRACTS), snapshot)
    assert {step.role for step in checked.steps} == {"base", "compute", "report"}


def test_a_node_that_leaves_the_spec_leaves_its_machine_alone():
    spec = metal_site(2)
    snapshot = applied(spec, machine(1, node="kvm-1"), machine(2, node="kvm-2"))
    fewer = replace(spec, nodes={name: node for name, node in spec.nodes.items() if name != "kvm-2"})
    found = made(fewer, snapshot)
    gone = {step.id: step for step in found.steps if step.node == "kvm-2"}
    assert {step.action for step in gone.values()} == {Action.REMOVE}
    assert not any(step.destroys for step in gone.values())
