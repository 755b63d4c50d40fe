"""The plan as a picture in values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from orchestrator.cli.views.diagram import Detail, diagram
from orchestrator.model import Action, Plan, Step
from orchestrator.plan import summarize


def test_few_steps_are_vertices_of_their_own(small_plan: Plan) -> None:
    picture = diagram(small_plan, summarize(small_plan))
    assert not picture.folded
    assert [vertex.id for vertex in picture.vertices] == [
        "base@ctl-1",
        "base@kvm-1",
        "base@kvm-2",
        "mariadb@old-1",
        "mariadb@ctl-1",
        "database.mysql<mariadb@ctl-1",
        "keystone@ctl-1",
        "identity.keystone<keystone@ctl-1",
        "nova@kvm-1",
        "nova@kvm-2",
    ]


def test_edges_that_others_imply_are_left_out(small_plan: Plan) -> None:
    """keystone comes after base, but it needs mariadb, which needs base: that says it already."""
    pairs = {(edge.source, edge.target) for edge in diagram(small_plan, summarize(small_plan)).edges}
    assert ("base@ctl-1", "keystone@ctl-1") not in pairs
    assert ("base@kvm-1", "nova@kvm-1") in pairs


def test_the_longest_chain_is_marked_through_barriers(small_plan: Plan) -> None:
    edges = diagram(small_plan, summarize(small_plan)).edges
    assert [(edge.source, edge.target) for edge in edges if edge.critical] == [
        ("base@ctl-1", "mariadb@ctl-1"),
        ("database.mysql<mariadb@ctl-1", "keystone@ctl-1"),
        ("identity.keystone<keystone@ctl-1", "nova@kvm-2"),
        ("keystone@ctl-1", "identity.keystone<keystone@ctl-1"),
        ("mariadb@ctl-1", "database.mysql<mariadb@ctl-1"),
    ]


def test_many_steps_fold_by_role_and_group(big_plan: Plan) -> None:
    picture = diagram(big_plan, summarize(big_plan))
    by_id = {vertex.id: vertex for vertex in picture.vertices}
    assert picture.folded
    assert len(picture.vertices) == 25
    assert by_id["nova/compute/8"].counts == {Action.CREATE: 995}
    assert by_id["nova/compute/8"].subtitle == "compute \N{MULTIPLICATION SIGN} 995"
    assert by_id["nova/compute/8"].tip == (
        "nova: create 995",
        "hv-[01:95], kvm-[001:900]",
        "new node (995)",
        "expected 25 s",
    )
    assert sum(sum(vertex.counts.values()) for vertex in picture.vertices) == len(big_plan.steps)


def test_folded_edges_are_counted_and_run_forward(big_plan: Plan) -> None:
    picture = diagram(big_plan, summarize(big_plan))
    wave = {vertex.id: (vertex.wave, vertex.is_barrier) for vertex in picture.vertices}
    assert all(wave[edge.source] < wave[edge.target] for edge in picture.edges)
    counts = {(edge.source, edge.target): edge.count for edge in picture.edges}
    assert counts["identity.keystone<keystone/controllers/7", "nova/compute/8"] == 995


def test_detail_can_be_forced_either_way(small_plan: Plan, big_plan: Plan) -> None:
    assert diagram(small_plan, summarize(small_plan), Detail.ROLE).folded
    assert len(diagram(big_plan, summarize(big_plan), Detail.STEP).vertices) == len(big_plan.steps) + 1


def test_steps_of_one_vertex_with_different_actions_are_mixed(
    plan_of: Callable[..., Plan], step: Callable[..., Step]
) -> None:
    plan = plan_of([step("base@a"), step("base@b", Action.UPDATE, ("role files changed",), destroys="Disk.")])
    (vertex,) = diagram(plan, summarize(plan), Detail.ROLE).vertices
    assert vertex.action == "mixed"
    assert vertex.destroys
    assert vertex.tip[-1] == "ERASES Disk."


def test_a_need_beats_mere_order(plan_of: Callable[..., Plan], step: Callable[..., Step]) -> None:
    plan = plan_of([step("a@n"), step("b@n", needs=("a@n",), after=("a@n",)), step("c@n", after=("a@n",))])
    edges = {edge.target: edge for edge in diagram(plan, summarize(plan)).edges}
    assert not edges["b@n"].only_order
    assert edges["c@n"].only_order


def test_a_need_is_kept_where_only_order_leads_around(plan_of: Callable[..., Plan], step: Callable[..., Step]) -> None:
    plan = plan_of([step("a@n"), step("b@n", after=("a@n",)), step("c@n", needs=("a@n",), after=("b@n",))])
    summary = dataclasses.replace(summarize(plan), critical_path=())
    assert ("a@n", "c@n") in {(edge.source, edge.target) for edge in diagram(plan, summary).edges}


def test_racks_and_groups_of_one_do_not_split_the_picture(
    plan_of: Callable[..., Plan], step: Callable[..., Step]
) -> None:
    groups = {f"kvm-{n}": ("all", "kvm", f"rack-{n // 4}", f"z-{n}") for n in range(12)}
    steps = [step(f"{role}@{node}") for node in groups for role in ("base", "nova")]
    steps += [step("base@ctl-1"), step("nova@ctl-1")]
    plan = plan_of(steps[:-3] + steps[-2:-1], groups=groups | {"ctl-1": ("all", "controllers")})
    found = {vertex.id for vertex in diagram(plan, summarize(plan), Detail.ROLE).vertices}
    assert found == {"base/all/1", "nova/kvm/1"}, "though one node of kvm needs no nova now"
