"""What must be agreed to before a plan may be applied: destruction and lost quorums by name, and the blast radius."""

from __future__ import annotations

from fnmatch import fnmatchcase

from orchestrator.errors import Problem
from orchestrator.model import Plan, Share, Step
from orchestrator.plan.quorum import losses
from orchestrator.ranges import fold

__all__ = ["refusals"]


def refusals(plan: Plan, consent: tuple[str, ...], quorum_loss: tuple[str, ...] = ()) -> tuple[Problem, ...]:
    """Return why the plan may not be applied with this consent; empty when it may.

    `consent` are shell globs on step ids, nodes, groups or roles: what the user allows to be destroyed. `quorum_loss`
    are shell globs on roles that may lose their majority.
    """
    return (*_destruction(plan, consent), *losses(plan, quorum_loss), *_blast_radius(plan))


def _destruction(plan: Plan, consent: tuple[str, ...]) -> list[Problem]:
    refused = [step for step in plan.steps if step.destroys and not _allowed(plan, step, consent)]
    if not refused:
        return []
    return [
        Problem(
            code="apply.consent",
            summary=f"{len(refused)} step{'s' if len(refused) != 1 else ''} would destroy data without your consent",
            detail=tuple(f"{step.id}: {step.destroys}" for step in refused[:10])
            + ((f"and {len(refused) - 10} more",) if len(refused) > 10 else ()),
            hint="agree with `--allow-destroy` and a step, node, group or role, for example "
            f"`--allow-destroy {refused[0].id}`",
        )
    ]


def _allowed(plan: Plan, step: Step, consent: tuple[str, ...]) -> bool:
    names = (step.id, step.node, step.role, *plan.nodes[step.node].groups)
    return any(fnmatchcase(name, pattern) for pattern in consent for name in names)


def _blast_radius(plan: Plan) -> list[Problem]:
    limits = plan.policy.blast_radius
    touched = {step.node for step in plan.steps}
    erased = {step.node for step in plan.steps if step.destroys}
    problems = []
    for word, limit, nodes in (("change", limits.change, touched), ("destroy", limits.destroy, erased)):
        if limit is not None and len(nodes) > _most(limit, plan.total_nodes):
            problems.append(
                Problem(
                    code="apply.blast-radius",
                    summary=f"the plan would {word} {len(nodes)} of {plan.total_nodes} nodes ({fold(nodes, 5)}); "
                    f"policy.blast_radius.{word} allows {limit}",
                    hint="narrow the plan with --node, --group or --role, or raise the limit in cluster.yml",
                )
            )
    return problems


def _most(limit: Share, total: int) -> int:
    return limit.of(total) if limit.percent or limit.count else 0
