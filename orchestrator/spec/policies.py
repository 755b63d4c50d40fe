"""The policy section -> Policy."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.errors import Location
from orchestrator.model import BlastRadius, Executors, Limits, Policy, Retry, Timeouts
from orchestrator.spec.schema import ExecutorsModel, PolicyModel
from orchestrator.yaml import Document, locate_all

__all__ = ["policy"]


def policy(model: PolicyModel, document: Document) -> Policy:
    limits, retry, timeouts, radius = model.limits, model.retry, model.timeouts, model.blast_radius
    return Policy(
        limits=Limits(
            steps=limits.steps,
            batches=limits.batches,
            batch=limits.batch,
            per_node=limits.per_node,
            roles=limits.roles,
            groups=limits.groups,
            installs=limits.installs,
        ),
        retry=Retry(unreachable=retry.unreachable, failed=retry.failed, backoff_s=retry.backoff),
        timeouts=Timeouts(default_s=timeouts.default, roles=timeouts.roles),
        blast_radius=BlastRadius(change=radius.change, destroy=radius.destroy),
        rollout={role: rollout.value() for role, rollout in model.rollout.items()},
        executors=Executors(
            roles=model.executors.roles,
            groups=model.executors.groups,
            default=model.executors.default or "",
            places=_places(model.executors, document),
        ),
        facts_age_s=model.facts_age,
    )


def _places(model: ExecutorsModel, document: Document) -> Mapping[str, Location]:
    """Return where each executor is asked for: whether it can be had only the topology knows."""
    paths = [("policy", "executors", kind, name) for kind in ("roles", "groups") for name in getattr(model, kind)]
    found = locate_all(document.text, document.file, paths) if paths else {}
    return {f"{path[2]}.{path[3]}": place for path, place in found.items()}
