"""What a run came to: counts, every failure with its root cause once, drift, and what to type next."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.cli.views.words import STATUS_ORDER, Look, count, duration, plain, tail
from orchestrator.model import Outcome, Status, StepId
from orchestrator.ranges import fold

if TYPE_CHECKING:
    from orchestrator.service import RunResult

__all__ = ["drift_text", "result_text"]

OUTPUT_LINES = 12  # of a failed step
HOSTS = 30  # with drift, before they are listed by role
FAILURES = 12  # different failures
RANGES = 8

_HEADLINES = {"succeeded": "Done", "failed": "Failed", "cancelled": "Cancelled"}
_ADVICE = {
    "failed": "mend the cause, then plan what is left: halligan apply {site}",
    "cancelled": "plan what is left: halligan apply {site}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """One reason why steps of a role failed: the nodes it struck, and the outcome of the first of them."""

    role: str
    problem: str
    nodes: tuple[str, ...]
    first: Outcome


def result_text(result: RunResult, *, site: str, seconds: float, look: Look, check: bool = False) -> str:
    """Return what the run came to. With `check` nothing was changed: what would have been has drifted."""
    status = str(result.status)
    title = look.paint(_HEADLINES.get(status, status), Status.OK if status == "succeeded" else Status.FAILED)
    took = f" in {duration(seconds)}" if seconds else ""
    left = f", {result.left:,} not started" if result.left else ""
    lines = [f"{title}: {count(sum(result.counts.values()), 'step')}{took}{left} (run {result.run})"]
    for kind in STATUS_ORDER:
        if result.counts.get(kind):
            word = "drifted" if check and kind is Status.CHANGED else str(kind)
            lines.append(f"  {look.paint(word.ljust(11), kind)} {result.counts[kind]:>7,}")
    failures = _alike(result.failures)
    for failure in failures[:FAILURES]:
        lines += ["", *_lines(failure, result, site, look)]
    if len(failures) > FAILURES:
        lines += ["", f"and {len(failures) - FAILURES:,} more kinds of failures: halligan status {site}"]
    advice = "" if check else _ADVICE.get(status, "").format(site=site)
    return "\n".join([*lines, *(["", f"{look.head('Next:')} {advice}"] if advice else []), ""])


def _lines(failure: _Failure, result: RunResult, site: str, look: Look) -> Iterator[str]:
    first = failure.first
    title = look.head(f"{failure.role} on {fold(failure.nodes, RANGES)}")
    yield f"{title} {look.paint(str(first.status), first.status)}: {plain(first.problem) or 'no reason given'}"
    for line in tail(first.log, OUTPUT_LINES):
        yield look.dim("    | ") + line
    skipped = sum(result.skipped.get(StepId(f"{failure.role}@{node}"), 0) for node in failure.nodes)
    if skipped:
        yield f"    skipped because of it: {count(skipped, 'step')}"
    yield f"    halligan log {site} {first.step.partition('@')[2]} --step {first.step}"


def drift_text(result: RunResult, *, site: str, look: Look) -> str:
    """Return where the hosts differ from what was applied: per host when they are few, else per role."""
    if not result.drift:
        return ""
    hosts: dict[str, list[str]] = defaultdict(list)
    roles: dict[str, list[str]] = defaultdict(list)
    for outcome in result.drift:
        role, _, node = outcome.step.partition("@")
        hosts[node].append(role)
        roles[role].append(node)
    lines = [f"{look.paint('Drift', Status.CHANGED)} on {count(len(hosts), 'node')}"]
    if len(hosts) <= HOSTS:
        lines += [f"  {node}: {', '.join(sorted(names))}" for node, names in sorted(hosts.items())]
    else:
        lines += [f"  {role}: {len(nodes):,} on {fold(nodes, RANGES)}" for role, nodes in sorted(roles.items())]
    step = min(outcome.step for outcome in result.drift)
    lines.append(f"  What would change: halligan log {site} {step.partition('@')[2]} --step {step} --run {result.run}")
    return "\n".join([*lines, ""])


def _alike(failures: Iterable[Outcome]) -> list[_Failure]:
    """Return failures of one role with the same problem as one, those that struck most nodes first."""
    kinds: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in failures:
        kinds.setdefault((outcome.step.partition("@")[0], outcome.problem), []).append(outcome)
    found = [
        _Failure(
            role=role,
            problem=problem,
            nodes=tuple(outcome.step.partition("@")[2] for outcome in outcomes),
            first=min(outcomes, key=lambda outcome: outcome.step),
        )
        for (role, problem), outcomes in kinds.items()
    ]
    return sorted(found, key=lambda failure: (-len(failure.nodes), failure.first.step))
