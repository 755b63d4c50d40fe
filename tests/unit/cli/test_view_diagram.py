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
    assert len(picture.vertices) == 41
    assert by_id["nova/kvm/8"].counts == {Action.CREATE: 900}
    assert by_id["nova/kvm/8"].subtitle == "kvm \N{MULTIPLICATION SIGN} 900"
    assert by_id["nova/kvm/8"].tip == ("nova: create 900", "kvm-[001:900]", "new node (900)", "expected 25 s")
    assert sum(sum(vertex.counts.values()) for vertex in picture.vertices) == len(big_plan.steps)


def test_folded_edges_are_counted_and_run_forward(big_plan: Plan) -> None:
    picture = diagram(big_plan, summarize(big_plan))
    wave = {vertex.id: (vertex.wave, vertex.is_barrier) for vertex in picture.vertices}
    assert all(wave[edge.source] < wave[edge.target] for edge in picture.edges)
    counts = {(edge.source, edge.target): edge.count for edge in picture.edges}
    assert counts["identity.keystone<keystone/controllers/7", "nova/kvm/8"] == 900


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
