"""What a run shows while it goes on: a line per outcome, or a live picture drawn from the tally."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from orchestrator.cli.views.tally import Tally
from orchestrator.cli.views.words import STATUS_ORDER, Look, count, duration, plain
from orchestrator.model import Action, Event, Outcome, Status
from orchestrator.ranges import fold

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["draw", "event_line"]

ROLES = 6  # roles with running steps on the live screen


def event_line(event: Event, outcome: Outcome | None, look: Look) -> str:
    """Return `ctl-1 keystone changed 12.3s`; empty for events that no operator waits for."""
    role = event.step.partition("@")[0]
    match event.kind:
        case "run.started":
            return f"run {event.run}: {count(int(event.data.get('steps', 0)), 'step')}"
        case "run.draining":
            running = count(int(event.data.get("running", 0)), "running step")
            return f"interrupted: {running} will finish, no new ones start; Ctrl-C again stops them"
        case "run.stopping":
            return f"interrupted again: stopping {count(int(event.data.get('running', 0)), 'running step')}"
        case "step.retry":
            problem = plain(str(event.data.get("problem", "")))
            wait_s = duration(float(event.data.get("wait_s", 0.0)))
            return f"{event.node} {role} retry in {wait_s} after attempt {event.data.get('attempt', 1)}: {problem}"
    return f"{event.node} {role} {_outcome_words(event, outcome, look)}" if outcome else ""


def _outcome_words(event: Event, outcome: Outcome, look: Look) -> str:
    status = look.paint(str(outcome.status), outcome.status)
    if outcome.status is Status.SKIPPED:
        cause = f"{outcome.cause} failed" if outcome.cause else ""
        return f"{status}: {cause or plain(outcome.problem) or 'not run'}"
    if outcome.unrun and event.data.get("action") == Action.REMOVE:
        return f"{status} only forgotten: the role has no removal tasks, so nothing was removed from the host"
    if outcome.unrun:
        return f"{status} not run, its inputs turned out as last time"
    attempt = f" attempt {outcome.attempt}" if outcome.attempt > 1 else ""
    problem = f": {plain(outcome.problem)}" if outcome.problem and not outcome.status.good else ""
    return f"{status} {outcome.seconds:.1f}s{attempt}{problem}"


# --- the live picture ----------------------------------------------------------------------------------------------


def draw(tally: Tally, *, title: str, notice: str, now: float) -> RenderableType:
    """Return the picture: bar and times, counts, what runs where, the last failures."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble((title, "bold"), f"  {_share(tally)}", (_times(tally, now), "dim"))
    bar = Table.grid()  # a bar alone does not end its line
    bar.add_row(ProgressBar(total=tally.total or None, completed=tally.done, width=60, pulse=not tally.total))
    body = Table.grid(padding=(0, 2))
    for name, text, style in _rows(tally, now):
        body.add_row(Text(name, style="dim"), Text(text, style=style, overflow="ellipsis", no_wrap=True))
    parts: list[RenderableType] = [head, bar, body]
    if notice:
        parts.append(Text(notice, style="bold yellow"))
    return Group(*parts)


def _share(tally: Tally) -> str:
    if not tally.total:
        return count(tally.done, "step")
    return f"{tally.done:,} of {count(tally.total, 'step')}, {100 * tally.done // tally.total} %"


def _times(tally: Tally, now: float) -> str:
    if not tally.total:
        return ""
    left_s = tally.left_s(now)
    left = f", about {duration(left_s)} left" if left_s >= 1 else ""
    return f", {duration(max(now - tally.started_at, 0.0))}{left}"


def _rows(tally: Tally, now: float) -> Iterator[tuple[str, str, str]]:
    """Yield (name, text, style) of the lines under the bar."""
    counts = [f"{status} {tally.counts[status]:,}" for status in STATUS_ORDER if tally.counts[status]]
    counts += [f"retries {tally.retries:,}"] if tally.retries else []
    yield "done", "  ".join(counts) or "nothing yet", ""
    nodes: dict[str, list[str]] = defaultdict(list)
    for step, role in tally.running.items():
        nodes[role].append(step.partition("@")[2])
    busiest = sorted(nodes.items(), key=lambda item: (-len(item[1]), item[0]))
    name = "running"
    for role, names in busiest[:ROLES]:
        yield name, f"{role} {len(names):,}  {fold(names, 4)}", "cyan"
        name = ""
    if len(busiest) > ROLES:
        yield "", f"and {count(len(busiest) - ROLES, 'more role')}", "cyan"
    due = [at for at in tally.waiting.values() if at > now]
    if due:
        yield "waiting", f"{count(len(due), 'step')}, next attempt in {duration(min(due) - now)}", "yellow"
    name = "failed"
    for outcome in reversed(tally.recent):
        yield name, f"{outcome.step}  {plain(outcome.problem)}", "red"
        name = ""
