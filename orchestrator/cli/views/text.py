"""A plan as text for the operator who must decide in a minute whether to apply it.

Order of the sections: what (headline), what is lost (destructive steps), where (groups, roles), how long (waves,
longest chain), and then every step, folded by wave, role and reason. Few steps, or `verbose`, show each step with what
it waits for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from orchestrator.cli.views.words import EXECUTOR_WORDS, MARKS, Look, count, duration, joined, table, wrapped
from orchestrator.model import Action, Barrier, Plan, Step
from orchestrator.ranges import fold

if TYPE_CHECKING:
    from orchestrator.plan import ActionCount, Summary

__all__ = ["executor_text", "executors_text", "need_text", "plan_text", "step_lines"]

FEW = 12  # up to this many steps are shown one by one
ROWS = 15  # rows per table, and kinds of destructive steps, before "and N more"
KINDS = 40  # kinds of steps (wave, role, action, reasons) before "and N more"
RANGES = 8  # node ranges of one kind of steps before "and N more"
REASONS = 4  # of one kind of steps before "and N more"
CHAIN = 8  # steps of the longest chain before its middle is left out

_T = TypeVar("_T")


def plan_text(plan: Plan, summary: Summary, look: Look | None = None, *, verbose: bool = False) -> str:
    """Return the whole plan as text, ending in a newline."""
    look = look or Look()
    if not plan.steps:
        return "\n".join([*_nothing(plan, look), ""])
    sections = [
        _headline(plan, summary, look),
        _destructive(summary, look, verbose=verbose),
        _quorums(plan, look),
        _counts("By group", summary.groups, look, verbose=verbose),
        _counts("By role", summary.roles, look, verbose=verbose),
        _time(summary, look, verbose=verbose),
        _each(plan, summary, look) if verbose or len(plan.steps) <= FEW else _folded(plan, summary, look),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


# --- headline -----------------------------------------------------------------------------------------------------


def _nothing(plan: Plan, look: Look) -> list[str]:
    scope = f" among {' '.join(plan.selection)}" if plan.selection else ""
    return [
        look.head(f"Nothing to do for {plan.site}{scope}."),
        f"  {count(plan.unchanged, 'placement')} already as the spec wants, base revision {plan.base_revision}",
        *_incomplete(plan),
    ]


def _headline(plan: Plan, summary: Summary, look: Look) -> list[str]:
    parts = [
        look.paint(f"{summary.counts[action]:,} to {action}", action) for action in Action if summary.counts.get(action)
    ]
    unchanged = f"; {summary.unchanged:,} unchanged" if summary.unchanged else ""
    facts = [
        f"{summary.nodes:,} of {count(plan.total_nodes or summary.nodes, 'node')}",
        f"base revision {plan.base_revision}",
        f"plan {plan.id[:12]}",
    ]
    lines = [
        f"{look.head(f'Plan for {plan.site}:')} {joined(parts)}{unchanged}",
        f"  {', '.join(facts)}",
    ]
    if plan.selection:
        lines.append(f"  Only {' '.join(plan.selection)}, and what these need")
    return lines + _incomplete(plan)


def _incomplete(plan: Plan) -> list[str]:
    if plan.complete:
        return []
    if not plan.undiscovered:
        return ["  Incomplete: some nodes are chosen among discovered machines; plan again when discovery is done"]
    nodes = f"{count(len(plan.undiscovered), 'node')} ({fold(plan.undiscovered, 5)})"
    waiting = f", and {count(plan.deferred, 'step')} with them" if plan.deferred else ""
    return [
        f"  Incomplete: {nodes} are chosen by rules among machines that are yet to be discovered{waiting};",
        "  apply this plan, then plan again for the rest",
    ]


def _destructive(summary: Summary, look: Look, *, verbose: bool) -> list[str]:
    if not summary.destructive:
        return []
    kinds: dict[tuple[str, Action, str], list[str]] = defaultdict(list)
    for step in summary.destructive:
        kinds[step.role, step.action, step.destroys].append(step.node)
    lines = [look.paint(f"ERASES DATA: {count(len(summary.destructive), 'step')}, each needs your consent", "danger")]
    shown, hidden = _first(sorted(kinds.items()), 0 if verbose else ROWS)
    for (role, action, what), nodes in shown:
        where = fold(nodes, 0 if verbose else RANGES)
        lines += wrapped(f"{MARKS[action]} {action} {role} on {where}: {what}", look, first="  ", rest="      ")
    return lines + _more(hidden, "kinds of destructive steps")


def _quorums(plan: Plan, look: Look) -> list[str]:
    from orchestrator.plan import losses

    found = losses(plan)
    if not found:
        return []
    lines = [look.paint("LOSES A QUORUM: apply refuses it without your consent", "danger")]
    for problem in found:
        lines += wrapped(problem.summary, look, first="  ", rest="      ")
        lines += wrapped(problem.hint, look, first="      ")
    return lines


# --- tables and time ----------------------------------------------------------------------------------------------


def _counts(title: str, rows: Sequence[ActionCount], look: Look, *, verbose: bool) -> list[str]:
    """Return a table of what happens per group or per role, the busiest first; the empty ones are left out."""
    named = [(row.name, (row.create, row.update, row.remove)) for row in rows if row.create or row.update or row.remove]
    named.sort(key=lambda row: (-sum(row[1]), row[0]))
    shown, hidden = _first(named, 0 if verbose else ROWS)
    head = (title, "create", "update", "remove")
    cells = [(f"  {name}", *(f"{number:,}" if number else "." for number in numbers)) for name, numbers in shown]
    return table(head, cells, look, numbers=(1, 2, 3)) + _more(hidden, "with fewer steps") if cells else []


def _time(summary: Summary, look: Look, *, verbose: bool) -> list[str]:
    known = f"about {duration(summary.expected_s)}" if summary.expected_s else "unknown, nothing was recorded yet"
    expected = f"Expected    {known}"
    if summary.unknown and summary.expected_s:
        names, hidden = _first(summary.unknown, 0 if verbose else ROWS)
        more = [f"{hidden} more"] if hidden else []
        expected += f"; unknown for {joined([*names, *more])}: no history"
    chain: list[str] = list(summary.critical_path)
    if len(chain) > CHAIN and not verbose:
        left_out = len(chain) - CHAIN + 2
        chain = [*chain[: CHAIN - 4], f"({left_out} more)", *chain[-2:]]
    length = f", {duration(summary.critical_s)}" if summary.critical_s else ""
    path = f"Longest     {count(len(summary.critical_path), 'step')}{length}: {' > '.join(chain)}"
    return [
        *wrapped(expected, look, rest=" " * 12),
        f"Waves       {summary.waves}",
        *wrapped(path, look, rest=" " * 12),
        *wrapped(f"Executors   {executors_text(summary, verbose=verbose)}", look, rest=" " * 12),
    ]


def executors_text(summary: Summary, *, verbose: bool = False) -> str:
    """Return how many steps each executor does and why: `by carry: 90 steps; by push: 2 steps (2 Windows)`."""
    parts = []
    for executor in EXECUTOR_WORDS:
        reasons = summary.executors.get(executor, {})
        if not reasons:
            continue
        named = sorted(((reason, number) for reason, number in reasons.items() if reason), key=lambda r: (-r[1], r[0]))
        shown, hidden = _first(named, 0 if verbose else REASONS)
        why = [f"{number:,} {reason}" for reason, number in shown] + ([f"and {hidden} more reasons"] if hidden else [])
        total = count(sum(reasons.values()), "step")
        parts.append(f"by {EXECUTOR_WORDS[executor]}: {total}" + (f" ({', '.join(why)})" if why else ""))
    return "; ".join(parts)


# --- steps, folded ------------------------------------------------------------------------------------------------


def _folded(plan: Plan, summary: Summary, look: Look) -> list[str]:
    """Return the steps by wave, then by role, action and reasons, with their nodes as ranges."""
    kinds: dict[tuple[int, str, Action, tuple[str, ...]], list[Step]] = defaultdict(list)
    for step in plan.steps:
        kinds[summary.wave_of.get(step.id, 0), step.role, step.action, step.reasons].append(step)
    per_wave: dict[int, int] = defaultdict(int)
    for (wave, *_), steps in kinds.items():
        per_wave[wave] += len(steps)
    shared = _shared_reason(kinds)
    lines = [look.head("Steps, in order") + (f" (every one: {shared})" if shared else "")]
    shown, hidden = _first(sorted(kinds.items()), KINDS)
    role_width = max(len(role) for (_, role, _, _), _ in shown)
    last_wave = -1
    for (wave, role, action, reasons), steps in shown:
        if wave != last_wave:
            lines.append(f"  Wave {wave}  {look.dim(count(per_wave[wave], 'step'))}")
            last_wave = wave
        lines += _kind(role.ljust(role_width), action, () if shared else reasons, steps, look)
    return lines + _more(hidden, "kinds of steps (--verbose shows every step)")


def _kind(role: str, action: Action, reasons: Sequence[str], steps: Sequence[Step], look: Look) -> list[str]:
    head = f"    {MARKS[action]} {action.ljust(6)}  {role}  "
    shown, hidden = _first(reasons, REASONS)
    why = "; ".join([*shown, *([f"and {hidden} more"] if hidden else [])])
    nodes = fold((step.node for step in steps), RANGES)
    body = f"{len(steps):>6,}  {nodes}  ({why})" if why else f"{len(steps):>6,}  {nodes}"
    lines = wrapped(body, look, first=head, rest=" " * (len(head) + 8))
    lines[0] = look.paint(lines[0][: len(head)], action) + lines[0][len(head) :]
    return lines


def _shared_reason(kinds: Iterable[tuple[int, str, Action, tuple[str, ...]]]) -> str:
    """Return the reasons of all steps where they all have the same, as on a new site."""
    reasons = {kind[3] for kind in kinds}
    return "; ".join(next(iter(reasons))) if len(reasons) == 1 else ""


# --- steps, one by one --------------------------------------------------------------------------------------------


def _each(plan: Plan, summary: Summary, look: Look) -> list[str]:
    barriers = {str(barrier.id): barrier for barrier in plan.barriers}
    by_wave: dict[int, list[Step]] = defaultdict(list)
    for step in plan.steps:
        by_wave[summary.wave_of.get(step.id, 0)].append(step)
    lines = [look.head("Steps, in order")]
    for wave, steps in sorted(by_wave.items()):
        lines.append(f"  Wave {wave}  {look.dim(count(len(steps), 'step'))}")
        for step in steps:
            lines += step_lines(step, barriers, look, indent="    ")
    return lines


def step_lines(step: Step, barriers: Mapping[str, Barrier], look: Look, indent: str = "") -> list[str]:
    """Return one step in full: why it exists, what it needs, what it erases, how long it took before."""
    lines = [indent + look.paint(f"{MARKS[step.action]} {step.action.ljust(6)}  {step.id}", step.action)]
    rows = [("because", reason) for reason in step.reasons]
    if step.destroys:
        rows.append(("erases", step.destroys))
    rows += [("needs", need_text(need, barriers)) for need in step.needs]
    rows += [("after", need_text(need, barriers)) for need in step.after]
    if step.expected_s:
        rows.append(("expected", duration(step.expected_s)))
    rows.append(("executor", executor_text(step)))
    last = ""
    for name, text in rows:
        label = f"{indent}      {'' if name == last else name:<9} "
        lines += [look.dim(line[: len(label)]) + line[len(label) :] for line in wrapped(text, look, first=label)]
        last = name
    return lines


def executor_text(step: Step) -> str:
    """Return who does a step, and why if that is no matter of course."""
    return EXECUTOR_WORDS[step.executor] + (f": {step.executor_reason}" if step.executor_reason else "")


def need_text(need: str, barriers: Mapping[str, Barrier]) -> str:
    """Return the capability with its providers for a barrier, the id itself for a step."""
    barrier = barriers.get(need)
    if barrier is None:
        return need
    roles: dict[str, list[str]] = defaultdict(list)
    for provider in barrier.needs:
        role, _, node = provider.partition("@")
        roles[role].append(node)
    providers = joined(f"{role}@{fold(nodes, RANGES)}" for role, nodes in sorted(roles.items()))
    return f"{barrier.capability} from {providers}"


# --- cutting ------------------------------------------------------------------------------------------------------


def _first(items: Iterable[_T], limit: int) -> tuple[list[_T], int]:
    """Return the first `limit` items and how many are left; 0 means all. One over the limit is no reason to cut."""
    everything = list(items)
    if not limit or len(everything) <= limit + 1:
        return everything, 0
    return everything[:limit], len(everything) - limit


def _more(hidden: int, what: str) -> list[str]:
    return [f"  and {hidden:,} more {what}"] if hidden else []
