"""A plan as one page that stands alone: open it, mail it, attach it to a change request. It loads nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.cli.views.diagram import Detail, diagram
from orchestrator.cli.views.svg import STYLE, svg
from orchestrator.cli.views.text import need_text
from orchestrator.cli.views.words import EXECUTOR_WORDS, MARKS, count, duration, joined
from orchestrator.model import Action, Json, Plan
from orchestrator.ranges import fold

if TYPE_CHECKING:
    from orchestrator.plan import ActionCount, Summary

__all__ = ["html"]

RANGES = 12


def html(plan: Plan, summary: Summary, detail: Detail = Detail.AUTO) -> str:
    """Return the page. Jinja is imported here because only this view needs it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("orchestrator.cli", "views"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    picture = svg(diagram(plan, summary, detail))
    return environment.get_template("plan.html.j2").render(
        plan=plan,
        style=Markup(STYLE),  # noqa: S704 - our own constant
        picture=Markup(picture),  # noqa: S704 - svg() escapes every text in it
        actions=[
            {"name": str(action), "mark": MARKS[action], "count": summary.counts[action]}
            for action in Action
            if summary.counts.get(action)
        ],
        cards=_cards(plan, summary),
        destructive=_destructive(summary),
        tables=[_table("group", "Groups", summary.groups), _table("role", "Roles", summary.roles)],
        chain=summary.critical_path,
        data=_data(plan, summary),
    )


def _cards(plan: Plan, summary: Summary) -> list[tuple[str, str, str]]:
    """Return (name, figure, remark) of each card."""
    expected = duration(summary.expected_s) if summary.expected_s else "unknown"
    remark = f"no history for {joined(summary.unknown[:3])}" if summary.unknown else "from recorded history"
    if len(summary.unknown) > 3:
        remark = f"no history for {count(len(summary.unknown), 'role')}"
    longest = duration(summary.critical_s) if summary.critical_s else "time unknown"
    return [
        ("Steps", f"{len(plan.steps):,}", f"{summary.unchanged:,} unchanged"),
        ("Nodes", f"{summary.nodes:,}", f"of {plan.total_nodes or summary.nodes:,}"),
        ("Waves", f"{summary.waves:,}", "steps that can run side by side"),
        ("Expected", expected, remark),
        ("Longest chain", count(len(summary.critical_path), "step"), longest),
        *_executors(summary),
    ]


def _executors(summary: Summary) -> list[tuple[str, str, str]]:
    """Return a card per executor, with the commonest reasons for it."""
    cards = []
    for executor, reasons in summary.executors.items():
        named = sorted((reason for reason in reasons if reason), key=lambda reason: (-reasons[reason], reason))
        more = [f"{len(named) - 2} more reasons"] if len(named) > 2 else []
        cards.append((f"By {EXECUTOR_WORDS[executor]}", f"{sum(reasons.values()):,}", joined([*named[:2], *more])))
    return cards


def _destructive(summary: Summary) -> list[dict[str, str]]:
    kinds: dict[tuple[str, str, str], list[str]] = {}
    for step in summary.destructive:
        kinds.setdefault((step.role, str(step.action), step.destroys), []).append(step.node)
    return [
        {"role": role, "action": action, "what": what, "nodes": fold(nodes, RANGES)}
        for (role, action, what), nodes in sorted(kinds.items())
    ]


def _table(kind: str, title: str, rows: Sequence[ActionCount]) -> Mapping[str, Json]:
    named = [(row.name, {name: getattr(row, name) for name in ("create", "update", "remove")}) for row in rows]
    busy = sorted(((n, c) for n, c in named if sum(c.values())), key=lambda row: (-sum(row[1].values()), row[0]))
    most = max((sum(counts.values()) for _, counts in busy), default=1)
    return {
        "kind": kind,
        "title": title,
        "rows": [
            {
                "name": name,
                "total": sum(counts.values()),
                "bars": [(action, number, f"{100 * number / most:.2f}") for action, number in counts.items() if number],
            }
            for name, counts in busy
        ],
    }


class _Words:
    """Numbers the texts of the step list, each of which stands once in the page. Holds that list."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers))

    def numbers(self, texts: Iterable[str]) -> list[int]:
        return [self.number(text) for text in texts]

    def all(self) -> list[str]:
        return list(self._numbers)


def _data(plan: Plan, summary: Summary) -> Mapping[str, Json]:
    """Return what the page's script lists: a row per step, its texts as numbers into one table."""
    words = _Words()
    barriers = {str(barrier.id): barrier for barrier in plan.barriers}
    needs = {need: need_text(need, barriers) for step in plan.steps for need in (*step.needs, *step.after)}
    steps = [
        [
            str(step.action),
            step.role,
            step.node,
            summary.wave_of.get(step.id, 0),
            words.numbers(plan.nodes[step.node].groups if step.node in plan.nodes else ()),
            words.numbers(step.reasons),
            words.numbers(needs[need] for need in step.needs),
            words.numbers(needs[need] for need in step.after),
            words.number(step.destroys) if step.destroys else -1,
            duration(step.expected_s) if step.expected_s else "",
        ]
        for step in sorted(plan.steps, key=lambda step: (summary.wave_of.get(step.id, 0), step.role, step.node))
    ]
    return {"marks": {str(action): mark for action, mark in MARKS.items()}, "words": words.all(), "steps": steps}
