"""What a plan holds, why, and that it survives being written down."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.sites import after_success, site, small_catalog, small_site, small_topology, with_digest

from orchestrator import plan
from orchestrator.errors import StalePlanError
from orchestrator.model import Action, BlastRadius, Option, OutputRef, Policy, SecretRef, Share, Snapshot, Status
from orchestrator.plan import Selection
from orchestrator.topology import resolve


def actions(made):
    return {step.id: step.action.value for step in made.steps}


def reasons(made):
    return {step.id: step.reasons for step in made.steps}


def test_a_new_site_creates_everything():
    made = plan.make(small_topology(), Snapshot())
    assert set(actions(made).values()) == {"create"}
    assert reasons(made)["base@ctl-1"] == ("new node",)
    assert len(made.steps) == 7


def test_after_success_there_is_nothing_to_do():
    topology = small_topology()
    made = plan.make(topology, after_success(plan.make(topology, Snapshot())))
    assert made.steps == ()
    assert made.unchanged == 7


def test_a_changed_variable_reaches_only_the_placements_that_see_it():
    done = after_success(plan.make(small_topology(), Snapshot()))
    changed = small_topology(node_vars={"kvm-2": {"agent_size": 4}})
    assert reasons(plan.make(changed, done)) == {"agent@kvm-2": ("input agent_size newly set",)}


def test_a_changed_output_makes_consumers_wait_for_it():
    done = after_success(plan.make(small_topology(), Snapshot()))
    contracts = with_digest(small_catalog(), "db", "other")
    made = plan.make(small_topology(contracts=contracts), done)
    assert reasons(made) == {
        "db@ctl-1": ("role files changed",),
        "api@ctl-1": ("input api_db known after apply of db@ctl-1",),
        "agent@kvm-1": ("input agent_url known after apply of api@ctl-1",),
        "agent@kvm-2": ("input agent_url known after apply of api@ctl-1",),
    }
    assert next(s for s in made.steps if s.id == "api@ctl-1").inputs["api_db"] == OutputRef(
        providers=("db@ctl-1",), output="db_host"
    )


def test_an_output_that_cannot_change_leaves_its_consumers_alone():
    """The API's URL depends on its port only: another variable of the API re-plans the API and nobody else."""
    contracts = small_catalog()
    api = contracts["api"]
    url = replace(api.outputs["api_url"], depends=frozenset({"api_port"}))
    contracts = {
        **contracts,
        "api": replace(
            api, outputs={"api_url": url}, options={**api.options, "api_port": Option(name="api_port", type="raw")}
        ),
    }
    first = {"controller": {"api_debug": "no", "api_port": "{{ port }}", "port": 1}}
    done = after_success(plan.make(small_topology(contracts=contracts, variables=first), Snapshot()))
    quiet = {"controller": {**first["controller"], "api_debug": "yes"}}
    assert reasons(plan.make(small_topology(contracts=contracts, variables=quiet), done)) == {
        "api@ctl-1": ("input api_debug changed",)
    }
    loud = {"controller": {**first["controller"], "port": 2}}
    assert set(reasons(plan.make(small_topology(contracts=contracts, variables=loud), done))) == {
        "api@ctl-1",
        "agent@kvm-1",
        "agent@kvm-2",
    }


def test_the_late_noop_leaves_a_plan_that_is_empty_again():
    done = after_success(plan.make(small_topology(), Snapshot()))
    topology = small_topology(contracts=with_digest(small_catalog(), "db", "other"))
    assert plan.make(topology, after_success(plan.make(topology, done), done)).steps == ()


def test_a_failed_placement_is_planned_again():
    topology = small_topology()
    done = after_success(plan.make(topology, Snapshot()))
    state = replace(done.placements["agent@kvm-1"], status=Status.FAILED)
    made = plan.make(topology, replace(done, placements={**done.placements, "agent@kvm-1": state}))
    assert reasons(made) == {"agent@kvm-1": ("last run failed",)}


def test_drift_that_a_check_found_is_planned_and_never_taken_for_a_late_noop():
    topology = small_topology()
    done = after_success(plan.make(topology, Snapshot()))
    state = replace(done.placements["agent@kvm-1"], drifted_at=9.0)
    made = plan.make(topology, replace(done, placements={**done.placements, "agent@kvm-1": state}))
    assert reasons(made) == {"agent@kvm-1": ("drifted: the last check found the host changed",)}
    assert made.steps[0].last == ""


def test_a_new_node_touches_only_itself():
    done = after_success(plan.make(small_topology(2), Snapshot()))
    made = plan.make(small_topology(3), done)
    assert reasons(made) == {"agent@kvm-3": ("new node",), "base@kvm-3": ("new node",)}


def test_a_placement_gone_from_the_spec_is_removed_consumers_first():
    done = after_success(plan.make(small_topology(1), Snapshot()))
    topology = resolve(site({"linux": ["base"]}, {"ctl-1": ["linux"]}), small_catalog())
    made = plan.make(topology, done)
    steps = {step.id: step for step in made.steps}
    assert actions(made) == dict.fromkeys(["agent@kvm-1", "api@ctl-1", "base@kvm-1", "db@ctl-1"], "remove")
    assert "node no longer in the spec" in steps["agent@kvm-1"].reasons[0]
    barriers = {b.id: b.needs for b in made.barriers}
    assert barriers[steps["db@ctl-1"].after[0]] == ("api@ctl-1",)
    assert plan.make(topology, after_success(made, done)).steps == ()


def test_a_removal_has_what_its_providers_last_published():
    """A role that goes may have to sign off with those that stay."""
    done = after_success(plan.make(small_topology(1), Snapshot()))
    spec = site({"linux": ["base"], "controller": ["db"]}, {"ctl-1": ["linux", "controller"]})
    made = plan.make(resolve(spec, small_catalog()), done)
    inputs = {step.id: step.inputs for step in made.steps}
    assert inputs["api@ctl-1"] == {"api_db": "10.0.0.1"}
    assert inputs["agent@kvm-1"] == {"agent_url": "http://10.0.0.1"}


def test_removal_is_destructive_only_where_the_role_erases():
    contracts = small_catalog()
    contracts = {**contracts, "db": replace(contracts["db"], removable=True, destroys="All databases.")}
    done = after_success(plan.make(small_topology(1, contracts), Snapshot()))
    made = plan.make(resolve(site({"linux": ["base"]}, {"ctl-1": ["linux"]}), contracts), done)
    assert [s.id for s in plan.summarize(made).destructive] == ["db@ctl-1"]
    assert [p.code for p in plan.refusals(made, ())] == ["apply.consent"]
    for consent in ("db@ctl-1", "ctl-*", "db", "linux", "linux2"):
        assert bool(plan.refusals(made, (consent,))) is (consent == "linux2")


def test_the_blast_radius_limits_touched_nodes():
    policy = Policy(blast_radius=BlastRadius(change=Share(percent=50.0)))
    made = plan.make(small_topology(9, policy=policy), Snapshot())
    assert "10 of 10 nodes" in plan.refusals(made, ())[0].summary
    narrow = plan.make(small_topology(9, policy=policy), Snapshot(), Selection(nodes=("kvm-1",)))
    assert plan.refusals(narrow, ()) == ()  # kvm-1 and the controller it needs


def test_a_selection_brings_what_it_needs():
    made = plan.make(small_topology(3), Snapshot(), Selection(roles=("agent",), nodes=("kvm-2",)))
    assert set(actions(made)) == {"agent@kvm-2", "base@kvm-2", "api@ctl-1", "db@ctl-1", "base@ctl-1"}
    assert reasons(made)["db@ctl-1"][-1] == "needed by the selection"


def test_unmatched_patterns_are_known():
    assert Selection(nodes=("kvm-*", "kwm-*")).unmatched(["kvm-1"], [], []) == ("kwm-*",)


def test_summary_counts_waves_and_the_critical_path():
    summary = plan.summarize(plan.make(small_topology(2), Snapshot(durations={"base": 10.0, "agent": 5.0})))
    assert summary.counts == {Action.CREATE: 7}
    assert summary.waves == 4
    assert summary.critical_path == ("base@ctl-1", "db@ctl-1", "api@ctl-1", "agent@kvm-2")
    assert summary.critical_s == 15.0
    assert summary.unknown == ("api", "db")
    assert {g.name: g.create for g in summary.groups} == {"compute": 4, "controller": 3, "linux": 7}


def test_plan_to_json_and_back_is_the_same_plan():
    secret = SecretRef(file="group_vars/all/secrets.yml", key="k", fingerprint="f")
    policy = Policy(blast_radius=BlastRadius(change=Share(percent=12.5), destroy=Share(count=2)))
    made = plan.make(small_topology(3, variables={"all": {"agent_size": secret}}, policy=policy), Snapshot(revision=7))
    document = plan.dump(made)
    assert plan.parse(document, "p") == made
    assert plan.dump(plan.parse(document, "p")) == document
    assert json.loads(document)["plan"] == 1


def test_steps_with_the_same_inputs_write_them_once():
    document = json.loads(plan.dump(plan.make(small_topology(40), Snapshot())))
    assert len(document["steps"]) == 83
    assert len(document["inputs"]) == 5  # one per role and combination of groups


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: d[: len(d) // 2], "no complete plan"),
        (lambda d: d.replace(b'"agent@kvm-1"', b'"agent@kvm-9"'), "does not match its digest"),
        (lambda d: d.replace(b'"plan": 1', b'"plan": 9'), "plan format 9"),
        (lambda _: b"[]", "no Halligan plan"),
        (lambda _: b"\xff\xfe", "no complete plan"),
    ],
)
def test_a_damaged_plan_is_refused(damage, words):
    document = plan.dump(plan.make(small_topology(), Snapshot()))
    with pytest.raises(StalePlanError, match=words):
        plan.parse(damage(document), "plan.json")


def test_plans_are_deterministic():
    assert plan.dump(plan.make(small_topology(9), Snapshot())) == plan.dump(plan.make(small_topology(9), Snapshot()))


def test_a_check_plan_holds_what_was_applied():
    topology = small_topology(1)
    done = after_success(plan.make(topology, Snapshot()))
    checked = plan.make_check(topology, done)
    assert {s.action for s in checked.steps} == {Action.CHECK}
    assert len(checked.steps) == 5
    assert plan.make_check(topology, Snapshot()).steps == ()


def test_platform_and_lost_inputs_are_reasons():
    spec = small_site(1, variables={"all": {"agent_size": 1}})
    done = after_success(plan.make(resolve(spec, small_catalog()), Snapshot()))
    node = replace(spec.nodes["kvm-1"], platform="debian-13")
    changed = replace(small_site(1), nodes={**spec.nodes, "kvm-1": node})
    told = reasons(plan.make(resolve(changed, small_catalog()), done))["agent@kvm-1"]
    assert told == ("platform changed from debian-12 to debian-13", "input agent_size no longer set")
