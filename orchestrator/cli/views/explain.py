"""Why a step exists, what it waits for, and what waits for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from orchestrator.cli.views.text import executor_text
from orchestrator.cli.views.words import MARKS, Look, count, duration, joined, when, wrapped
from orchestrator.ranges import fold

if TYPE_CHECKING:
    from orchestrator.service import Explanation, Need

__all__ = ["explain_text"]

RANGES = 8


def explain_text(found: Explanation, look: Look) -> str:
    sections = [_what(found, look), _waits("Needs", found.needs, look), _waits("Comes after", found.after, look)]
    if found.unlocks:
        waiting = f"{count(len(found.unlocks), 'step')}: {_steps(found.unlocks)}"
        sections.append([look.head("Waiting for it"), *wrapped(waiting, look, first="  ")])
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def _what(found: Explanation, look: Look) -> list[str]:
    step = found.planned
    if step is None:
        lines = [f"{look.head(found.step)}: nothing to do, it is as the spec wants it"]
    else:
        lines = [
            look.paint(f"{MARKS[step.action]} {step.action}  {found.step}", step.action) + f"  (wave {found.wave})"
        ]
        for reason in step.reasons:
            lines += wrapped(reason, look, first="  because   ", rest=" " * 12)
        if step.destroys:
            lines += wrapped(step.destroys, look, first="  erases    ", rest=" " * 12)
        if step.expected_s:
            lines.append(f"  expected  {duration(step.expected_s)}")
        lines += wrapped(executor_text(step), look, first="  executor  ", rest=" " * 12)
    if found.placement is None:
        lines.append("  The spec does not place it any more.")
    state = found.state
    if state:
        took = f" in {duration(state.seconds)}" if state.seconds else ""
        lines.append(f"  last      {look.paint(state.status, state.status)}{took}, {when(state.at)}, run {state.run}")
    else:
        lines.append("  last      it never ran")
    return lines


def _waits(title: str, needs: Iterable[Need], look: Look) -> list[str]:
    """Return a line per capability and whether its providers are still to be done."""
    kinds: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for need in needs:
        kinds[need.capability, need.pending].append(need.provider)
    if not kinds:
        return []
    lines = [look.head(title)]
    for (capability, pending), providers in sorted(kinds.items(), key=lambda item: (not item[0][1], item[0][0])):
        word = "waits for" if pending else "done     "
        lines += wrapped(f"{capability} from {_steps(providers)}", look, first=f"  {word}  ", rest=" " * 13)
    return lines


def _steps(steps: Iterable[str]) -> str:
    """Return steps folded by role: `base@ctl-[1:3] and nova@kvm-1`."""
    nodes: dict[str, list[str]] = defaultdict(list)
    for step in steps:
        role, _, node = step.partition("@")
        nodes[role].append(node)
    return joined(f"{role}@{fold(names, RANGES)}" for role, names in sorted(nodes.items()))
