"""A plan in figures: counts, waves, critical path, expected duration, what it destroys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator import graph
from orchestrator.model import Action, Plan, Step, StepId

if TYPE_CHECKING:
    from orchestrator.graph import Graph

__all__ = ["ActionCount", "Summary", "step_graph", "summarize"]

_UNKNOWN_S = 1.0  # weight of a step with no history, so that the critical path is the longest chain


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionCount:
    """Steps of one group or role, by what they do."""

    name: str
    create: int = 0
    update: int = 0
    remove: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """`critical_s` and `expected_s` are seconds; both leave out the roles in `unknown`, which have no history."""

    counts: Mapping[Action, int]
    unchanged: int
    groups: tuple[ActionCount, ...]
    roles: tuple[ActionCount, ...]
    waves: int
    wave_of: Mapping[str, int]
    critical_path: tuple[StepId, ...]
    critical_s: float
    expected_s: float
    unknown: tuple[str, ...]
    destructive: tuple[Step, ...]
    nodes: int
    executors: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # executor -> reason -> steps


def step_graph(plan: Plan) -> Graph:
    """Return the plan's steps and barriers as a graph; both kinds of edges."""
    edges: dict[str, tuple[str, ...]] = {step.id: (*step.needs, *step.after) for step in plan.steps}
    edges.update({barrier.id: barrier.needs for barrier in plan.barriers})
    return graph.build(edges)


def summarize(plan: Plan) -> Summary:
    """Return the plan's figures. The expected duration is the larger of the critical path and the work per slot."""
    steps = {step.id: step for step in plan.steps}
    whole = step_graph(plan)
    wave_of = graph.waves(whole, lambda item: item in steps)
    _, path = graph.critical_path(
        whole, lambda item: (steps[StepId(item)].expected_s or _UNKNOWN_S) if item in steps else 0.0
    )
    chain = tuple(StepId(item) for item in path if item in steps)
    critical_s = sum(steps[item].expected_s for item in chain)
    work_s = sum(step.expected_s for step in plan.steps)
    return Summary(
        counts=Counter(step.action for step in plan.steps),
        unchanged=plan.unchanged,
        groups=_group_counts(plan),
        roles=_role_counts(plan),
        waves=max(wave_of.values(), default=0),
        wave_of={item: wave for item, wave in wave_of.items() if item in steps},
        critical_path=chain,
        critical_s=critical_s,
        expected_s=max(critical_s, work_s / max(1, plan.policy.limits.steps)),
        unknown=tuple(sorted({step.role for step in plan.steps if not step.expected_s})),
        destructive=tuple(step for step in plan.steps if step.destroys),
        nodes=len(plan.nodes),
        executors={
            name: Counter(step.executor_reason for step in plan.steps if step.executor == name)
            for name in sorted({step.executor for step in plan.steps})
        },
    )


def _group_counts(plan: Plan) -> tuple[ActionCount, ...]:
    counts: Counter[tuple[str, Action]] = Counter()
    for step in plan.steps:
        for group in plan.nodes[step.node].groups:
            if group != "all":
                counts[group, step.action] += 1
    return _by_name(counts)


def _role_counts(plan: Plan) -> tuple[ActionCount, ...]:
    return _by_name(Counter((step.role, step.action) for step in plan.steps))


def _by_name(counts: Counter[tuple[str, Action]]) -> tuple[ActionCount, ...]:
    return tuple(
        ActionCount(
            name=name,
            create=counts[name, Action.CREATE],
            update=counts[name, Action.UPDATE],
            remove=counts[name, Action.REMOVE],
        )
        for name in sorted({name for name, _ in counts})
    )
