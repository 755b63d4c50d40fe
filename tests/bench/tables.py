"""The comparison as tables for docs/performance.md: what it says of the goals, then every figure."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.compare import ALONE, PHASES, WHO, Figures, Found, pack, there

__all__ = ["tables"]

_NAMES = {
    "linear": "`ansible-playbook`, linear",
    "host_pinned": "`ansible-playbook`, host_pinned",
    "free": "`ansible-playbook`, free",
    "mitogen": "Mitogen, mitogen_linear",
    "pyinfra": "pyinfra",
    "push": "Halligan, push",
    "carry": "Halligan, carry",
    ALONE: "Halligan, carry, hosts that run nothing",
}
_RUNS = {"first": "first", "again": "no change", "change": "one change"}
_MISSING = "not measured yet"
_HEAD = (
    "| hosts x tasks | run | who | wall s | controller CPU s | per host and task ms | hosts' CPU s | controller MB | "
    "logins, sessions per host | changed per host | repeat |"
)
# What other issues bring.
_TO_COME = (("WinRM / PSRP (issue Hyper-V)", "", ""),)


def tables(found: Found) -> Iterator[str]:
    """Yield the lines."""
    yield from ("| goal | wanted | measured | repeat |", "|---|---|---|---|")
    for hosts, tasks in sorted({key[:2] for key in found if key[3] != ALONE}, key=lambda size: size[::-1]):
        for goal in _GOALS:
            yield _goal(goal, found, hosts, tasks)
    yield from _memory(found)
    yield from _alone(found)
    if there("carry"):
        yield _packing()
    for what, wanted, repeat in _TO_COME:
        yield f"| {what} | {wanted} | {_MISSING} | {repeat} |"
    yield from ("", _HEAD, "|---|---|---|" + "---:|" * 7 + "---|")
    place = {name: number for number, name in enumerate([*PHASES, *WHO, ALONE])}
    for key in sorted(found, key=lambda key: (key[1], key[0], place[key[2]], place[key[3]])):
        yield _row(*key, found[key])


# --- the goals --------------------------------------------------------------------------------------------------------

Median = Callable[[str, str], float]  # (who, a field of Usage) -> median of the first runs


@dataclass(frozen=True, kw_only=True)
class _Goal:
    what: str
    wanted: Callable[[int], str]  # by number of tasks
    measured: Callable[[Median, int], str]


_GOALS = (
    _Goal(
        what="controller CPU, carry / plain",
        wanted=lambda tasks: "1/20" if tasks < 100 else "1/60",
        measured=lambda median, _: f"1/{median('linear', 'controller_s') / median('carry', 'controller_s'):.1f}",
    ),
    _Goal(
        what="SSH sessions per host, carry",
        wanted=lambda _: "1",
        measured=lambda median, hosts: f"{median('carry', 'sessions') / hosts:g}",
    ),
    _Goal(
        what="wall time, carry / plain",
        wanted=lambda _: "1",
        measured=lambda median, _: f"{median('carry', 'wall_s') / median('linear', 'wall_s'):.2f}",
    ),
    _Goal(
        what="hosts' CPU, carry / plain",
        wanted=lambda _: "1",
        measured=lambda median, _: f"{median('carry', 'hosts_s') / median('linear', 'hosts_s'):.2f}",
    ),
)


def _goal(goal: _Goal, found: Found, hosts: int, tasks: int) -> str:
    def median(who: str, field: str) -> float:
        figures = found[hosts, tasks, "first", who]
        if isinstance(figures, str):
            raise KeyError(who)
        return statistics.median(getattr(item.usage, field) for item in figures)

    try:
        measured = goal.measured(median, hosts)
    except KeyError:
        measured = _MISSING
    repeat = f"`python -m tests.bench.compare carry {hosts} {tasks}`, then `linear`"
    return f"| {goal.what}, {hosts} hosts, {tasks} tasks | {goal.wanted(tasks)} | {measured} | {repeat} |"


def _memory(found: Found) -> Iterator[str]:
    """Yield what one host more takes of the controller's memory: what the smallest run takes is no host's."""
    peaks: dict[int, float] = {}
    for (hosts, tasks, phase, who), figures in found.items():
        if (tasks, phase, who) == (21, "first", "carry") and not isinstance(figures, str):
            peaks[hosts] = statistics.median(item.usage.peak_mb for item in figures)
    for hosts in sorted(peaks)[1:]:
        least = min(peaks)
        each = (peaks[hosts] - peaks[least]) / (hosts - least)
        what = f"controller memory per host, carry, {hosts} hosts beside {least}"
        yield f"| {what} | 1 MB | {each:.2f} MB | `python -m tests.bench.compare carry {hosts} 21` |"


def _alone(found: Found) -> Iterator[str]:
    """Yield what the controller holds with hosts that run nothing: all of its memory, shared by all of them."""
    for (hosts, tasks, phase, who), figures in found.items():
        if (phase, who) == ("first", ALONE) and not isinstance(figures, str):
            each = statistics.median(item.usage.peak_mb for item in figures) / hosts
            what = f"controller memory per host, carry, {hosts} hosts that run nothing"
            repeat = f"`python -m tests.bench.compare {ALONE} {hosts} {tasks}`"
            yield f"| {what} | 1 MB | {each:.2f} MB | {repeat} |"


def _packing() -> str:
    with tempfile.TemporaryDirectory() as folder:
        packed = pack(Path(folder))
    told = f"{packed['cpu_s']:.1f} s CPU, {packed['mb']:.1f} MB"
    return f"| packing ansible-core for carry once | | {told} | `python -m tests.bench.drive pack FOLDER` |"


# --- every figure -----------------------------------------------------------------------------------------------------


def _row(hosts: int, tasks: int, phase: str, who: str, found: list[Figures] | str) -> str:
    start = f"| {hosts} x {tasks} | {_RUNS[phase]} | {_NAMES[who]} |"
    repeat = f"`python -m tests.bench.compare {who} {hosts} {tasks}`"
    if isinstance(found, str):
        return f"{start} {found.replace('|', '/')} | | | | | | | {repeat} |"
    usages = [figures.usage for figures in found]
    cells = [
        _spread([usage.wall_s for usage in usages]),
        _spread([usage.controller_s for usage in usages]),
        _spread([usage.controller_s / hosts / tasks * 1000 for usage in usages]),
        _spread([usage.hosts_s for usage in usages]),
        _spread([usage.peak_mb for usage in usages], digits=0),
        f"{usages[0].connections / hosts:g}, {usages[0].sessions / hosts:g}",
        f"{found[0].changed / hosts:g}",
    ]
    return f"{start} {' | '.join(cells)} | {repeat} |"


def _spread(values: Sequence[float], digits: int = 1) -> str:
    """Return the median, and of several the lowest and the highest."""
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"
