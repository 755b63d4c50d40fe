"""The policy section -> Policy."""

from __future__ import annotations

from orchestrator.model import BlastRadius, Limits, Policy, Retry, Timeouts
from orchestrator.spec.schema import PolicyModel

__all__ = ["policy"]


def policy(model: PolicyModel) -> Policy:
    limits, retry, timeouts, radius = model.limits, model.retry, model.timeouts, model.blast_radius
    return Policy(
        limits=Limits(
            steps=limits.steps,
            batches=limits.batches,
            batch=limits.batch,
            per_node=limits.per_node,
            roles=limits.roles,
            groups=limits.groups,
        ),
        retry=Retry(unreachable=retry.unreachable, failed=retry.failed, backoff_s=retry.backoff),
        timeouts=Timeouts(default_s=timeouts.default, roles=timeouts.roles),
        blast_radius=BlastRadius(change=radius.change, destroy=radius.destroy),
        rollout={role: rollout.value() for role, rollout in model.rollout.items()},
    )
