"""`python -m tests.bench [table] [metal] [compare] [--quick | --long]`: measure and print tables, all or those named.

Without --quick they are written into docs/performance.md; --long compares every tool at every size. Every row is a
process of its own. CPU seconds count, not wall time: the machine may have other work.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.model import CARRY, PUSH
from tests.bench import fleet
from tests.bench.compare import CASES, LONG, QUICK, compare
from tests.bench.measure import ROOT, Figures, in_fresh_process
from tests.bench.site import write_site
from tests.bench.tables import tables

PAGE = ROOT / "docs" / "performance.md"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table; `goal` is that of the product, empty where there is none."""

    what: str
    found: str
    goal: str
    repeat: str

    def __str__(self) -> str:
        return f"| {self.what} | {self.found} | {self.goal} | `{self.repeat}` |"


_GOALS = {1000: "2 s, 250 MB", 10000: "20 s, 1536 MB"}


def measurements(sizes: tuple[int, ...], folder: Path) -> Iterator[Row]:
    yield from plans(sizes, folder)
    yield from simulations(sizes, folder)
    yield from applies(sizes, folder)
    yield from appends(folder)


def plans(sizes: tuple[int, ...], folder: Path) -> Iterator[Row]:
    first = 0.0
    for size in sizes:
        for listed in (False, True):
            form = "listed" if listed else "range"
            project = folder / f"{form}{size}"
            site, out = write_site(project, size, listed=listed), project / "plan.json"
            cold = _best("plan", size, site, out)
            yield _plan_row(f"first plan, {size:,} nodes x 10, {form}", cold, size)
            if not listed:
                first = first or cold.cpu_s / size
                yield Row(
                    what=f"growth to {size:,} nodes: CPU per node / CPU per node at {sizes[0]:,}",
                    found=f"{cold.cpu_s / size / first:.2f}",
                    goal="about 1",
                    repeat="the rows above",
                )
                continue
            in_fresh_process("record", site)
            again = _best("plan", size, site, out)
            assert again.facts["steps"] == 0
            yield _plan_row(f"second plan, {size:,} nodes, nothing changed, full history", again, size)
            yield Row(
                what=f"no-op apply, {size:,} hosts: `halligan apply SITE --yes`",
                found=_used(_best("noop", size, site)),
                goal="2 s" if size == 1000 else "",
                repeat="python -m tests.bench.measure noop SITE",
            )
            _change_a_role(project)
            changed = _best("plan", size, site, out)
            yield _plan_row(f"second plan, {size:,} nodes, one role changed, full history", changed, size)
            ansible = in_fresh_process("inventory", site, project / "plain.yml").facts
            yield Row(
                what=f"`ansible-inventory --list` of the same {size:,} nodes; first plan / that",
                found=f"{ansible['cpu_s']:.1f} s, {ansible['peak_mb']:.0f} MB; {cold.cpu_s / ansible['cpu_s']:.2f}",
                goal="",
                repeat="python -m tests.bench.measure inventory SITE FILE",
            )


def simulations(sizes: tuple[int, ...], folder: Path) -> Iterator[Row]:
    for nodes, roles, executor, steps, batches in _SIMULATIONS:
        if nodes > max(sizes):
            continue
        path = folder / f"simulated{nodes}-{executor}-{steps}-{batches}.db"
        found = in_fresh_process("simulate", nodes, roles, executor, steps, batches, path).facts
        limits = f"{steps} slots, " + ("carry" if executor == CARRY else f"push in {batches} batches")
        yield Row(
            what=f"simulated apply, {nodes:,} nodes x {roles} roles, {limits}: makespan / lower bound; "
            "linear / makespan (with `serial`); CPU per step",
            found=f"{found['ratio']:.3f}; {found['linear']:.1f} ({found['lockstep']:.1f}); "
            f"{found['cpu_ms_per_step']:.2f} ms ({found['batches']:,} batches)",
            goal="1.05; 2; 1 ms" if executor == CARRY else "1 ms",
            repeat=f"python -m tests.bench.measure simulate {nodes} {roles} {executor} {steps} {batches} FILE",
        )


_SIMULATIONS = (
    (1000, 20, CARRY, 300, 0),
    (1000, 20, CARRY, 100, 0),
    (1000, 20, PUSH, 100, 24),
    (1000, 20, PUSH, 100, 8),
    (10000, 10, CARRY, 1000, 0),
)


def applies(sizes: tuple[int, ...], folder: Path) -> Iterator[Row]:
    """The real loop, store and timers; memory must grow with the plan and not with what happens."""
    first = 0.0
    for size in sizes:
        site = write_site(folder / f"applied{size}", size, listed=False)
        found = in_fresh_process("apply", site).facts
        first = first or found["mb_per_step"]
        yield Row(
            what=f"apply with the fake executor, {size:,} nodes x 10 ({found['steps']:,} steps): CPU per step; memory "
            f"after its first tenth and its last; memory per step / that at {sizes[0]:,}",
            found=f"{found['cpu_ms_per_step']:.2f} ms; {found['early_mb']:.0f} MB, {found['late_mb']:.0f} MB; "
            f"{found['mb_per_step'] / first:.2f}",
            goal="1 ms; at most 1",
            repeat="python -m tests.bench.measure apply SITE",
        )


def appends(folder: Path) -> Iterator[Row]:
    for batch in (1, 10, 100):
        path = folder / f"append{batch}"
        path.mkdir()
        found = in_fresh_process("append", batch * 200, batch, path).facts
        yield Row(
            what=f"store: CPU per outcome, {batch} per commit",
            found=f"{found['us_per_event']:.0f} us",
            goal="",
            repeat=f"python -m tests.bench.measure append {batch * 200} {batch} FOLDER",
        )


def _best(name: str, size: int, *arguments: object) -> Figures:
    """Measure short runs three times and keep the best: other work on the machine only ever adds."""
    tries = [in_fresh_process(name, *arguments) for _ in range(3 if size == 1000 else 1)]
    return min(tries, key=lambda figures: figures.cpu_s)


def _plan_row(what: str, figures: Figures, size: int) -> Row:
    return Row(
        what=f"{what} ({figures.facts['steps']:,} steps)",
        found=_used(figures),
        goal=_GOALS.get(size, ""),
        repeat="python -m tests.bench.measure plan SITE FILE",
    )


def _used(figures: Figures) -> str:
    return f"{figures.cpu_s:.1f} s, {figures.peak_mb:.0f} MB"


def _change_a_role(project: Path) -> None:
    path = project / "roles" / "logs" / "tasks" / "main.yml"
    path.write_text(path.read_text() + "# changed\n")


def own(quick: bool) -> Iterator[str]:
    """Yield the table of what needs no hosts: plans, simulated applies, the store."""
    yield from ("| what | measured | goal | repeat |", "|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        yield from map(str, measurements((200,) if quick else (1000, 3000, 10000), Path(folder)))


def compared(quick: bool) -> Iterator[str]:
    """Yield the tables of our executors beside others'."""
    cases = QUICK if quick else LONG if "--long" in sys.argv[1:] else CASES
    yield from tables(compare(cases))


def metal(quick: bool) -> Iterator[str]:
    """Yield the table of bare metal: what machines that come up cost, one answer, a plan."""
    yield from ("| what | measured | goal | repeat |", "|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        sizes = (10, 40) if quick else (10, 1000, 10000)
        yield from map(str, storms(20 if quick else 1000, 2 if quick else 60))
        yield from map(str, answers(sizes, 20 if quick else 200))
        yield from map(str, metal_plans(sizes[1:], Path(folder)))


def storms(count: int, within_s: int) -> Iterator[Row]:
    """A room that is switched on; DHCP apart, because it needs root and a network of its own."""
    arguments = f"{count} {within_s}"
    found = fleet.measured("storm", count, within_s)
    here, loop = found["service_s"] * 1000 / count, found["apply_s"] * 1000 / count
    asked = None if fleet.why_not_dhcp() else fleet.measured("dhcp", count, within_s)
    leased = asked["dnsmasq_ms"] + asked["service_ms"] if asked else 0.0
    yield Row(
        what=f"{count:,} machines within {within_s} s: claimed by the right node; requests asked again, refused; "
        "problems of the store",
        found=f"{found['claimed']:,}, {found['right']:,}; {found['again']}, {found['refused']}; "
        f"{len(found['problems'])}",
        goal=f"{count:,}, {count:,}; 0, 0; 0",
        repeat=f"python -m tests.bench.fleet storm {arguments}",
    )
    yield Row(
        what="controller CPU per machine: all of it (DHCP + boot service + apply)",
        found=f"{leased + here + loop:.1f} ms ({leased:.1f} + {here:.1f} + {loop:.1f})"
        + ("" if asked else ", no DHCP"),
        goal="50 ms",
        repeat="the rows above and below",
    )
    if asked:
        yield Row(
            what="DHCP, three rounds per machine: dnsmasq, the boot service that reads its log; rounds with the right "
            "answer, asked again",
            found=f"{asked['dnsmasq_ms']:.1f} ms, {asked['service_ms']:.1f} ms; {asked['told']:,} of {3 * count:,}, "
            f"{asked['again']}",
            goal="",
            repeat=f"python -m tests.bench.fleet dhcp {arguments}",
        )
    part = fleet.measured("parts", count, within_s // 4)
    yield Row(
        what="boot service, by part: script, archive, four pieces of files, enrolment, facts (basic and full)",
        found=", ".join(f"{part[f'{name}_ms']:.1f}" for name in ("script", "archive", "files", "enrol", "facts"))
        + " ms",
        goal="",
        repeat=f"python -m tests.bench.fleet parts {count} {within_s // 4}",
    )
    yield Row(
        what="a machine that waits for orders, per second: boot service, simulator",
        found=f"{found['idle_ms']:.2f} ms, {found['simulator_idle_ms']:.2f} ms",
        goal="1 ms (simulator)",
        repeat=f"python -m tests.bench.fleet storm {arguments}",
    )


def answers(sizes: tuple[int, ...], asks: int) -> Iterator[Row]:
    """Script and archive of a machine that was changed just before, beside how many others there are.

    The number of machines that ask is kept apart from the number that there are: either could make the difference.
    """
    for askers, words in ((10, "ten ask in turn"), (2 * asks, "each asks for the first time")):
        there = [size for size in sizes if size >= askers]
        found = {size: fleet.measured("answer", size, asks, askers)["ms"] for size in there}
        for size in there:
            asked = f"script and archive after a change of 1 of {size:,} machines, {words}"
            yield Row(
                what=f"{asked}: CPU; that / with {there[0]:,}",
                found=f"{found[size]:.1f} ms; {found[size] / found[there[0]]:.2f}",
                goal="about 1",
                repeat=f"python -m tests.bench.fleet answer {size} {asks} {askers}",
            )


def metal_plans(sizes: tuple[int, ...], folder: Path) -> Iterator[Row]:
    for size in sizes:
        for kind, words in (("mac", "named by MAC"), ("rule", "chosen by two rules")):
            project = folder / f"metal-{kind}{size}"
            site, out = fleet.write_site(project, size, kind), project / "plan.json"
            yield _plan_row(
                f"plan, {size:,} bare-metal nodes {words}, nothing known", _best("plan", size, site, out), size
            )
            fleet.discover_all(site, size)
            yield _plan_row(f"the same, all {size:,} machines discovered", _best("plan", size, site, out), size)


_SECTIONS: Mapping[str, Callable[[bool], Iterator[str]]] = {"table": own, "metal": metal, "compare": compared}


def main() -> None:
    quick = "--quick" in sys.argv[1:]
    asked = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    for name in asked or _SECTIONS:
        lines = []
        for line in _SECTIONS[name](quick):
            print(line, flush=True)
            lines.append(line)
        if not quick:
            _write(name, lines)


def _write(section: str, lines: Sequence[str]) -> None:
    begin, end = (f"<!-- {section}: {side} -->\n" for side in ("begin", "end"))
    before, _, rest = PAGE.read_text().partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{begin}{chr(10).join(lines)}\n{end}{after}")


if __name__ == "__main__":
    main()
