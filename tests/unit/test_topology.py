"""Placement, binding, inputs: what `resolve` decides and how it explains what it cannot decide."""

from __future__ import annotations

import pytest
from support.sites import ONE, catalog, role, site, small_catalog, small_site, small_topology

from orchestrator import spec as specs
from orchestrator.errors import ProblemsError
from orchestrator.model import Cardinality, Count, Option, Output, OutputRef, Requirement, Scope, SecretRef, Wire
from orchestrator.spec import SiteFiles, SourceFile
from orchestrator.topology import resolve, wanted_secrets


def problems_of(spec, contracts):
    with pytest.raises(ProblemsError) as caught:
        resolve(spec, contracts)
    return {problem.code: problem for problem in caught.value.problems}


def test_every_role_of_a_nodes_groups_is_placed_once():
    found = small_topology(computes=2).placements
    assert sorted(found) == [
        "agent@kvm-1",
        "agent@kvm-2",
        "api@ctl-1",
        "base@ctl-1",
        "base@kvm-1",
        "base@kvm-2",
        "db@ctl-1",
    ]


def test_consumers_of_one_capability_share_one_binding():
    """Edges grow with the number of consumers, not with consumers times providers."""
    found = small_topology(computes=50)
    api = {name for p in found.placements.values() if p.role == "agent" for name in p.needs if name.startswith("api<")}
    assert len(api) == 1


def test_the_nearest_provider_wins():
    contracts = catalog(role("cache", provides=["cache"]), role("app", requires=["cache"]))
    spec = site(
        {"rack1": ["cache"], "one": ["cache"], "apps": ["app"]},
        {"a": ["apps", "one"], "b": ["apps", "rack1"], "c": ["apps"]},
    )
    found = resolve(spec, contracts)
    bound = {p.node: found.bindings[p.needs[0]].providers for p in found.placements.values() if p.role == "app"}
    assert bound["a"] == ("cache@a",)  # same node
    assert bound["b"] == ("cache@b",)
    assert bound["c"] == ("cache@a", "cache@b")  # they share group apps with it


def test_group_scope_ignores_the_group_all():
    contracts = catalog(role("cache", provides=["cache"]), role("app", requires=["cache/group"]))
    spec = site({"caches": ["cache"], "apps": ["app"]}, {"a": ["caches"], "b": ["apps"]})
    problem = problems_of(spec, contracts)["topology.no-provider"]
    assert "cache@a provides it, but not on the same group" in problem.detail


def test_a_missing_provider_names_the_roles_that_would_help():
    contracts = small_catalog()
    spec = site({"linux": ["base"], "compute": ["agent"]}, {f"kvm-{n}": ["linux", "compute"] for n in range(1, 4)})
    problem = problems_of(spec, contracts)["topology.no-provider"]
    assert "agent on kvm-[1:3] needs 1 or more providers of api" in problem.summary
    assert "place api on a node of the site" in problem.hint


def test_surplus_providers_are_listed_and_a_binding_chooses():
    contracts = catalog(
        role("db", provides=["database"]),
        role("app", requires=[Requirement(capability="database", count=Count(least=1, most=1))]),
    )
    groups = {"dbs": ["db"], "apps": ["app"]}
    nodes = {"db-1": ["dbs"], "db-2": ["dbs"], "app-1": ["apps"]}
    problem = problems_of(site(groups, nodes), contracts)["topology.provider-count"]
    assert problem.detail == ("candidate: db@db-1", "candidate: db@db-2")
    assert "bindings" in problem.hint
    chosen = resolve(site(groups, nodes, bindings={"apps": {"database": ("db-2",)}}), contracts)
    assert chosen.bindings[chosen.placements["app@app-1"].needs[0]].providers == ("db@db-2",)


def test_a_cycle_is_printed_in_full():
    contracts = catalog(
        role("a", provides=["a"], requires=["c"]),
        role("b", provides=["b"], requires=["a"]),
        role("c", provides=["c"], requires=["b"]),
    )
    problem = problems_of(site({"g": ["a", "b", "c"]}, {"n": ["g"]}), contracts)["topology.cycle"]
    assert len(problem.detail) == 4
    assert problem.detail[0] == problem.detail[-1].removeprefix("  needs ")
    assert {line.split("@")[0].split()[-1] for line in problem.detail} == {"a", "b", "c"}


@pytest.mark.parametrize(("count", "code"), [(4, "topology.quorum"), (7, "topology.cardinality")])
def test_counts_and_quorum_are_checked(count, code):
    contracts = catalog(role("db", cardinality=Cardinality(count=Count(least=1, most=5), quorum=True)))
    spec = site({"dbs": ["db"]}, {f"db-{n}": ["dbs"] for n in range(count)})
    assert f"{count} nodes of the site" in problems_of(spec, contracts)[code].summary


def test_cardinality_per_group_counts_each_group():
    contracts = catalog(role("gw", cardinality=Cardinality(per=Scope.GROUP, count=Count(least=1, most=1))))
    spec = site({"gw": ["gw"], "rack1": (), "rack2": ()}, {"a": ["gw", "rack1"], "b": ["gw", "rack2"]})
    assert "group gw" in problems_of(spec, contracts)["topology.cardinality"].summary


def test_an_unknown_role_suggests_the_nearest():
    problem = problems_of(site({"g": ["keyston"]}, {"n": ["g"]}), catalog(role("keystone")))["topology.unknown-role"]
    assert 'Did you mean "keystone"?' in problem.summary


POLICY = """---
spec: 1
policy:
  limits: {roles: {keystnoe: 2, install: 5}}
  timeouts:
    roles:
      keystone: 60
      keyston: 90
  rollout:
    keystones: {first: 1}
"""


def test_a_role_that_the_policy_names_must_exist():
    """With the place of each; the life-cycle steps of bare metal are roles here."""
    cluster = SourceFile(path="cluster.yml", shown="cluster.yml", text=POLICY.encode())
    found = specs.read(SiteFiles(site="s", folder="/s", cluster=cluster), None)
    with pytest.raises(ProblemsError) as caught:
        resolve(found, catalog(role("keystone")))
    assert [(str(p.where), p.summary.partition(",")[0]) for p in caught.value.problems] == [
        ("cluster.yml:4:20", 'policy.limits.roles names the role "keystnoe"'),
        ("cluster.yml:8:7", 'policy.timeouts.roles names the role "keyston"'),
        ("cluster.yml:10:5", 'policy.rollout names the role "keystones"'),
    ]
    assert all('Did you mean "keystone"?' in problem.summary for problem in caught.value.problems)


def test_a_role_on_the_wrong_platform_is_refused():
    contracts = catalog(role("apt", platforms=("debian",)))
    spec = site({"g": ["apt"]}, {"n": ["g"]})
    assert resolve(spec, contracts)
    from dataclasses import replace

    windows = replace(spec, nodes={"n": replace(spec.nodes["n"], platform="windows-2022")})
    assert "does not run on windows-2022" in problems_of(windows, contracts)["topology.platform"].summary


def test_wired_inputs_are_outputs_to_come():
    found = small_topology()
    assert found.placements["api@ctl-1"].inputs["api_db"] == OutputRef(providers=("db@ctl-1",), output="db_host")


def test_the_sites_own_value_wins_over_a_wire():
    found = small_topology(variables={"controller": {"api_db": "db.example"}})
    assert found.placements["api@ctl-1"].inputs["api_db"] == "db.example"


def test_a_role_sees_only_what_it_declares_and_what_that_mentions():
    found = small_topology(
        variables={"all": {"agent_size": "{{ big | default(2) }}", "big": "{{ bigger }}", "bigger": 9, "other": 1}}
    )
    inputs = found.placements["agent@kvm-1"].inputs
    assert set(inputs) == {"agent_url", "agent_size", "big", "bigger"}


def test_nodes_with_the_same_values_share_one_mapping():
    found = small_topology(computes=3, node_vars={"kvm-3": {"agent_size": 7}}).placements
    assert found["agent@kvm-1"].inputs is found["agent@kvm-2"].inputs
    assert found["agent@kvm-3"].inputs["agent_size"] == 7


def test_magic_variables_are_inputs_only_where_they_are_mentioned():
    found = small_topology(variables={"all": {"agent_size": "{{ node_address }}"}}).placements
    assert found["agent@kvm-1"].inputs["node_address"] == "10.0.0.2"
    assert "node_address" not in found["base@kvm-1"].inputs


def test_a_missing_required_option_is_one_problem_for_all_nodes():
    contracts = catalog(role("r", options=[Option(name="r_size", required=True, description="How big.")]))
    spec = site({"g": ["r"]}, {f"n-{i:02}": ["g"] for i in range(1, 31)})
    problem = problems_of(spec, contracts)["topology.missing-input"]
    assert problem.summary == "role r on n-[01:30] needs a value for r_size"


def test_missing_secrets_are_asked_of_secrets_init():
    contracts = catalog(role("r", options=[Option(name="r_password", required=True, secret=True)]))
    spec = site({"g": ["r"]}, {"n": ["g"]})
    assert "halligan secrets init" in problems_of(spec, contracts)["topology.missing-secret"].hint
    assert wanted_secrets(spec, contracts) == ("r_password",)


def test_a_secret_output_is_the_providers_own_reference():
    secret = SecretRef(file="group_vars/all/secrets.yml", key="db_password", fingerprint="f")
    db = role(
        "db", provides=["database"], options=[Option(name="db_password", required=True, secret=True)], cardinality=ONE
    )
    from dataclasses import replace

    db = replace(db, outputs={"db_password": Output(name="db_password", secret="db_password")})
    app = role("app", requires=["database"], inputs={"app_password": Wire(capability="database", output="db_password")})
    spec = site(
        {"g": ["db", "app"]}, {"n": ["g"]}, variables={"all": {"db_password": "{{ shared }}", "shared": secret}}
    )
    assert resolve(spec, catalog(db, app)).placements["app@n"].inputs["app_password"] == secret


def test_site_providers_are_the_nodes_that_others_may_be_bound_to():
    contracts = {**small_catalog(), "names": role("names", inputs={"names_hosts": Wire(site="providers")})}
    spec = small_site(computes=3)
    from dataclasses import replace

    spec = replace(spec, groups={**spec.groups, "linux": replace(spec.groups["linux"], roles=("base", "names"))})
    assert resolve(spec, contracts).placements["names@kvm-1"].inputs["names_hosts"] == {"ctl-1": "10.0.0.1"}


def test_site_peers_are_the_nodes_with_the_same_role():
    """Each role sees its own members, and all of them see the same map."""
    contracts = catalog(
        role("db", inputs={"db_members": Wire(site="peers")}), role("mq", inputs={"mq_members": Wire(site="peers")})
    )
    found = resolve(
        site({"dbs": ["db"], "mqs": ["mq"]}, {"a": ["dbs"], "b": ["dbs", "mqs"], "c": ["mqs"]}), contracts
    ).placements
    members = {step: list(placement.inputs[f"{placement.role}_members"]) for step, placement in found.items()}
    assert members == {"db@a": ["a", "b"], "db@b": ["a", "b"], "mq@b": ["b", "c"], "mq@c": ["b", "c"]}


def test_a_mistyped_option_is_a_warning():
    found = small_topology(variables={"all": {"agent_sice": 3}})
    assert [p.code for p in found.problems] == ["topology.unknown-option"]
    assert 'Did you mean "agent_size"?' in found.problems[0].summary


def test_all_problems_come_at_once():
    contracts = catalog(role("a", requires=["nowhere"]), role("b", cardinality=ONE))
    spec = site({"g": ["a", "b", "zzz"]}, {"n": ["g"], "m": ["g"]})
    assert set(problems_of(spec, contracts)) == {
        "topology.no-provider",
        "topology.cardinality",
        "topology.unknown-role",
    }


def test_resolve_is_deterministic():
    assert small_topology(5) == small_topology(5)
