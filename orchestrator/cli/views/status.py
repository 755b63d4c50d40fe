"""What we believe of a site now: the runs, the placements by role, and what needs attention."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.cli.views.words import Look, count, duration, joined, table, when
from orchestrator.model import Snapshot, Status
from orchestrator.ranges import fold

if TYPE_CHECKING:
    from orchestrator.service import Status as SiteStatus
    from orchestrator.store.values import Run

__all__ = ["status_text"]

RUNS = 5
TROUBLES = 20
RANGES = 8


def status_text(status: SiteStatus, look: Look) -> str:
    """Return the state of the site as its store has it."""
    site, snapshot = status.site, status.snapshot
    if not snapshot.placements and not status.runs:
        return f"Nothing was applied to {site} yet. Look at what would happen: halligan plan {site}\n"
    nodes = {placement.node for placement in snapshot.placements.values()}
    counts = Counter(placement.status for placement in snapshot.placements.values())
    placed = f"{count(len(snapshot.placements), 'placement')} on {count(len(nodes), 'node')}"
    lines = [f"{look.head(site)}: {placed}, revision {snapshot.revision}"]
    words = [look.paint(f"{counts[kind]:,} {kind}", kind) for kind in Status if counts[kind]]
    lines += [f"  {joined(words)}"] if words else []
    if status.holder:
        lines.append(f"  At work: {status.holder}")
    elif any(str(run.status) == "running" for run in status.runs):
        lines.append(f"  A run was interrupted; go on with: halligan apply {site} --resume")
    sections = [lines, _runs(status.runs, look), _roles(snapshot, look), _troubles(snapshot, site, look)]
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def _runs(runs: Sequence[Run], look: Look) -> list[str]:
    rows = []
    for run in runs[:RUNS]:
        took = duration(run.finished - run.started) if run.finished else f"pid {run.pid} on {run.host}"
        counts = ", ".join(f"{number:,} {status}" for status, number in sorted(run.counts.items()) if number)
        rows.append((f"  {run.id}", str(run.status), when(run.started), took, f"{run.steps:,}", counts))
    return table(("Runs", "status", "started", "took", "steps", "outcomes"), rows, look, numbers=(4,)) if rows else []


def _roles(snapshot: Snapshot, look: Look) -> list[str]:
    counts: dict[str, Counter[Status]] = defaultdict(Counter)
    for placement in snapshot.placements.values():
        counts[placement.role][placement.status] += 1
    shown = [status for status in Status if any(counter[status] for counter in counts.values())]
    rows = [
        (f"  {role}", *(f"{counter[status]:,}" if counter[status] else "." for status in shown))
        for role, counter in sorted(counts.items())
    ]
    head = ("Roles", *(str(status) for status in shown))
    return table(head, rows, look, numbers=range(1, len(head))) if rows else []


def _troubles(snapshot: Snapshot, site: str, look: Look) -> list[str]:
    kinds: dict[tuple[Status, str], list[str]] = defaultdict(list)
    for placement in snapshot.placements.values():
        if not placement.status.good:
            kinds[placement.status, placement.role].append(placement.node)
    if not kinds:
        return []
    lines = [look.head("Needs attention")]
    for (status, role), nodes in sorted(kinds.items())[:TROUBLES]:
        lines.append(f"  {look.paint(status.ljust(11), status)} {role} on {fold(nodes, RANGES)}")
    if len(kinds) > TROUBLES:
        lines.append(f"  and {len(kinds) - TROUBLES:,} more")
    (_, role), nodes = min(kinds.items())
    lines.append(f"  See why: halligan log {site} {min(nodes)} --step {role}@{min(nodes)}")
    return lines
