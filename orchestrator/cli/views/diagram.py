"""A plan as a picture in values: vertices and edges at the detail asked for. dot, Mermaid and SVG are drawn from it.

Detail "step" has a vertex per step and per barrier. Detail "role" folds the steps of one role, group and wave into one
vertex and counts them; waves only grow along edges, so the folded picture has no cycle either.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING

from orchestrator.cli.views.words import count, duration, joined
from orchestrator.model import Action, Barrier, Plan, Step
from orchestrator.ranges import fold

if TYPE_CHECKING:
    from orchestrator.plan import Summary

__all__ = ["Detail", "Diagram", "Edge", "Vertex", "diagram"]

STEP_LIMIT = 60  # above it, "auto" folds
REDUCE_LIMIT = 300  # above it, edges that others imply are kept: finding them would take too long
RANGES = 6


class Detail(StrEnum):
    AUTO = "auto"
    ROLE = "role"
    STEP = "step"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vertex:
    """Steps of one role (one, or a folded set), or a barrier: a capability that waits for its providers."""

    id: str
    title: str
    subtitle: str = ""
    tip: tuple[str, ...] = ()
    wave: int = 0
    counts: Mapping[Action, int]  # empty for a barrier
    critical: bool = False
    destroys: bool = False

    @property
    def is_barrier(self) -> bool:
        return not self.counts

    @property
    def action(self) -> str:
        """The action of all its steps, "mixed" where they differ, empty for a barrier."""
        return "mixed" if len(self.counts) > 1 else next(iter(self.counts), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """`source` comes before `target`; with `only_order` the target does not care whether the source succeeds."""

    source: str
    target: str
    only_order: bool = False
    count: int = 1
    critical: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagram:
    title: str
    vertices: tuple[Vertex, ...]
    edges: tuple[Edge, ...]
    folded: bool


def diagram(plan: Plan, summary: Summary, detail: Detail = Detail.AUTO) -> Diagram:
    """Return the plan's picture. Its order is that of waves, then names."""
    folded = detail is Detail.ROLE or (detail is Detail.AUTO and len(plan.steps) > STEP_LIMIT)
    steps: dict[str, str] = {step.id: step.id for step in plan.steps}
    barriers: dict[str, str] = {barrier.id: barrier.id for barrier in plan.barriers}
    if folded:
        steps = _step_owners(plan, summary)
        barriers = _barrier_owners(plan, steps)
    owners = {**steps, **barriers}
    vertices = [*_step_vertices(plan, summary, steps), *_barrier_vertices(plan, summary, barriers)]
    critical = _critical_pairs(plan, summary, owners)
    edges = _edges(plan, owners, critical)
    if len(vertices) <= REDUCE_LIMIT:
        edges = _without_implied(edges)
    return Diagram(
        title=f"Plan for {plan.site}",
        vertices=tuple(sorted(vertices, key=lambda vertex: (vertex.wave, vertex.is_barrier, vertex.id))),
        edges=tuple(edges),
        folded=folded,
    )


# --- vertices -----------------------------------------------------------------------------------------------------


def _step_owners(plan: Plan, summary: Summary) -> dict[str, str]:
    """Fold steps of one role, group and wave."""
    groups = _groups(plan)
    return {
        step.id: f"{step.role}/{groups[step.role, step.node]}/{summary.wave_of.get(step.id, 0)}" for step in plan.steps
    }


def _groups(plan: Plan) -> dict[tuple[str, str], str]:
    """Return the group that each (role, node) is counted with.

    The plan does not say which group brought a role to a node. It is taken to be the one most like the role's nodes
    (nodes in both by nodes in either), the nearest of equals. That holds however many groups a node is in: neither
    groups of one node nor racks split the picture. The group all counts only where it fits exactly.
    """
    placed: dict[str, set[str]] = defaultdict(set)
    members: dict[str, set[str]] = defaultdict(set)
    for step in plan.steps:
        placed[step.role].add(step.node)
        for group in _groups_of(plan, step.node):
            members[group].add(step.node)
    likeness = {
        (role, group): len(inside & nodes) / len(inside | nodes)
        for role, nodes in placed.items()
        for group, inside in members.items()
        if group != "all" or inside == nodes
    }
    return {
        (step.role, step.node): max(
            reversed(_groups_of(plan, step.node)), key=lambda group: likeness.get((step.role, group), 0.0)
        )
        for step in plan.steps
    }


def _groups_of(plan: Plan, node: str) -> tuple[str, ...]:
    known = plan.nodes.get(node)
    return known.groups if known and known.groups else ("all",)


def _barrier_owners(plan: Plan, steps: Mapping[str, str]) -> dict[str, str]:
    """Fold barriers of one capability whose providers are folded alike."""
    return {
        barrier.id: f"{barrier.capability}<{','.join(sorted({steps[need] for need in barrier.needs}))}"
        for barrier in plan.barriers
    }


def _step_vertices(plan: Plan, summary: Summary, owners: Mapping[str, str]) -> Iterable[Vertex]:
    members: dict[str, list[Step]] = defaultdict(list)
    for step in plan.steps:
        members[owners[step.id]].append(step)
    critical = {owners[step] for step in summary.critical_path if step in owners}
    for vertex_id, steps in members.items():
        nodes = {step.node for step in steps}
        folded = f"{vertex_id.split('/')[-2]} \N{MULTIPLICATION SIGN} {len(nodes):,}" if len(nodes) > 1 else ""
        yield Vertex(
            id=vertex_id,
            title=steps[0].role,
            subtitle=folded or next(iter(nodes)),
            tip=_tip(steps),
            wave=summary.wave_of.get(steps[0].id, 0),
            counts=dict(sorted(Counter(step.action for step in steps).items())),
            critical=vertex_id in critical,
            destroys=any(step.destroys for step in steps),
        )


def _tip(steps: list[Step]) -> tuple[str, ...]:
    """Return what a reader sees who points at the vertex."""
    counts = Counter(str(step.action) for step in steps)
    reasons = Counter(reason for step in steps for reason in step.reasons)
    what = joined(f"{action} {number:,}" if len(steps) > 1 else action for action, number in sorted(counts.items()))
    lines = [f"{steps[0].role}: {what}", fold((step.node for step in steps), RANGES)]
    common = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:RANGES]
    lines += [reason if len(steps) == 1 else f"{reason} ({number:,})" for reason, number in common]
    lines += sorted({f"ERASES {step.destroys}" for step in steps if step.destroys})
    longest = max(step.expected_s for step in steps)
    return (*lines, f"expected {duration(longest)}") if longest else tuple(lines)


def _barrier_vertices(plan: Plan, summary: Summary, owners: Mapping[str, str]) -> Iterable[Vertex]:
    members: dict[str, list[Barrier]] = defaultdict(list)
    for barrier in plan.barriers:
        members[owners[barrier.id]].append(barrier)
    for vertex_id, barriers in members.items():
        providers = {need for barrier in barriers for need in barrier.needs}
        roles = sorted({provider.partition("@")[0] for provider in providers})
        yield Vertex(
            id=vertex_id,
            title=barriers[0].capability,
            tip=(f"{barriers[0].capability}, provided by {joined(roles)} on {count(len(providers), 'node')}",),
            wave=max((summary.wave_of.get(provider, 0) for provider in providers), default=0),
            counts={},
        )


# --- edges --------------------------------------------------------------------------------------------------------


def _edges(plan: Plan, owners: Mapping[str, str], critical: set[tuple[str, str]]) -> list[Edge]:
    """Return one edge per pair of vertices; needing wins over mere order."""
    needs: Counter[tuple[str, str]] = Counter()
    after: Counter[tuple[str, str]] = Counter()
    for step in plan.steps:
        needs.update((owners[need], owners[step.id]) for need in step.needs if need in owners)
        after.update((owners[need], owners[step.id]) for need in step.after if need in owners)
    for barrier in plan.barriers:
        needs.update((owners[need], owners[barrier.id]) for need in barrier.needs if need in owners)
    pairs = sorted(pair for pair in needs.keys() | after.keys() if pair[0] != pair[1])
    return [
        Edge(
            source=pair[0],
            target=pair[1],
            only_order=pair not in needs,
            count=needs[pair] or after[pair],
            critical=pair in critical,
        )
        for pair in pairs
    ]


def _critical_pairs(plan: Plan, summary: Summary, owners: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return the edges of the longest chain, those through barriers included."""
    steps = {step.id: step for step in plan.steps}
    barriers = {str(barrier.id): barrier for barrier in plan.barriers}
    pairs: set[tuple[str, str]] = set()
    for before, step in pairwise(summary.critical_path):
        waits = (*steps[step].needs, *steps[step].after)
        for via in (need for need in waits if need == before or (need in barriers and before in barriers[need].needs)):
            pairs |= {(owners[before], owners[via]), (owners[via], owners[step])}
    return pairs


def _without_implied(edges: list[Edge]) -> list[Edge]:
    """Drop edges that a longer way says already: a need only for a way of needs, mere order for any way."""
    needs: dict[str, set[str]] = defaultdict(set)
    ways: dict[str, set[str]] = defaultdict(set)
    for edge in edges:
        ways[edge.source].add(edge.target)
        if not edge.only_order:
            needs[edge.source].add(edge.target)
    return [edge for edge in edges if edge.critical or not _detour(edge, ways if edge.only_order else needs)]


def _detour(edge: Edge, targets: Mapping[str, set[str]]) -> bool:
    todo = [vertex for vertex in targets.get(edge.source, ()) if vertex != edge.target]
    seen = set(todo)
    while todo:
        for near in targets.get(todo.pop(), ()):
            if near == edge.target:
                return True
            if near not in seen:
                seen.add(near)
                todo.append(near)
    return False
