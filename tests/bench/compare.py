"""The same work by plain Ansible, Mitogen, pyinfra and our executors, side by side: what it costs either side.

`python -m tests.bench compare` measures all of it into docs/performance.md; `python -m tests.bench.compare WHO HOSTS
TASKS [TIMES]` measures one of them and prints its figures. WHO may be carry-alone: hosts that run nothing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import pickle
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from orchestrator.model import CARRY, PUSH
from tests.bench.drive import PARCELS
from tests.bench.hosts import Hosts, Usage
from tests.bench.measure import ROOT
from tests.bench.work import COLD_PORT, OTHER_PORT, Work

__all__ = [
    "ALONE",
    "CASES",
    "LONG",
    "PHASES",
    "QUICK",
    "WHO",
    "Case",
    "Figures",
    "Found",
    "ToolError",
    "compare",
    "measure",
    "measure_alone",
    "pack",
    "there",
]

OTHERS = ROOT / ".cache" / "bench" / "venv"  # what we compare with and do not depend on
_OTHERS = ("mitogen==0.3.54", "pyinfra==3.10.0")
ALONE = "carry-alone"
PHASES = {"first": COLD_PORT, "again": COLD_PORT, "change": OTHER_PORT}


class ToolError(Exception):
    """A tool did not do the work; this is what it said."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """How a tool is called, and how many changed tasks it claims."""

    arguments: Sequence[object]
    environment: Mapping[str, str]
    changed: Callable[[str], int]


# --- who does the work ------------------------------------------------------------------------------------------------


def _plain(strategy: str) -> Callable[[Work, int], Command]:
    return lambda work, port: _playbook(work, port, ROOT / ".venv", {"ANSIBLE_STRATEGY": strategy})


def _mitogen(work: Work, port: int) -> Command:
    plugins = next(others().glob("lib/python*/site-packages/ansible_mitogen/plugins/strategy"))
    environment = {"ANSIBLE_STRATEGY": "mitogen_linear", "ANSIBLE_STRATEGY_PLUGINS": str(plugins)}
    return _playbook(work, port, others(), environment)


def _playbook(work: Work, port: int, home: Path, environment: Mapping[str, str]) -> Command:
    inventory, playbook = work.playbook(port)
    return Command(
        arguments=[home / "bin" / "ansible-playbook", "--inventory", inventory, playbook],
        environment={
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_ROLES_PATH": str(work.roles),
            "ANSIBLE_NOCOLOR": "true",
            **environment,
        },
        changed=lambda said: sum(map(int, re.findall(r" changed=(\d+) ", said))),
    )


def _pyinfra(work: Work, port: int) -> Command:
    return Command(
        arguments=[others() / "bin" / "pyinfra", "--yes", *work.deploy(port)], environment={}, changed=_pyinfra_changed
    )


def _pyinfra_changed(said: str) -> int:
    """Return the second column of its table's last row."""
    total = re.findall(r"^.*Grand total\D+(\d+)\D+(\d+)", said, re.MULTILINE)
    return int(total[-1][1]) if total else 0


def _ours(executor: str) -> Callable[[Work, int], Command]:
    def command(work: Work, port: int) -> Command:
        parcel = work.folder / "parcel.pickle"
        options = {"runs": work.folder / "runs", "roles": [work.roles], "place": f"{work.hosts.folder}/homes/{{node}}"}
        parcel.write_bytes(pickle.dumps((options, work.batch(port, executor))))
        name = "carry" if executor == CARRY else "push"
        if executor == CARRY:
            pack(PARCELS)
        return Command(
            arguments=[ROOT / ".venv/bin/python", "-m", "tests.bench.drive", name, parcel],
            environment={},
            changed=lambda said: int(json.loads(said.splitlines()[-1])["changed"]),
        )

    return command


WHO: Mapping[str, Callable[[Work, int], Command]] = {
    "linear": _plain("linear"),
    "host_pinned": _plain("host_pinned"),
    "free": _plain("free"),
    "mitogen": _mitogen,
    "pyinfra": _pyinfra,
    "push": _ours(PUSH),
    "carry": _ours(CARRY),
}


def pack(cache: Path) -> Mapping[str, float]:
    """Pack ansible-core for carry in a process of its own, unless it is packed; return what that took."""
    command = [sys.executable, "-m", "tests.bench.drive", "pack", str(cache)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def there(who: str) -> bool:
    return who not in ("carry", ALONE) or importlib.util.find_spec("orchestrator.executors.carry") is not None


def others() -> Path:
    """Return a virtual environment with Mitogen and pyinfra beside the ansible-core that we use; made once."""
    wanted = [f"ansible-core=={importlib.metadata.version('ansible-core')}", *_OTHERS]
    made = OTHERS / "made"
    if not made.exists() or made.read_text().split() != wanted:
        venv.create(OTHERS, clear=True, with_pip=True)
        subprocess.run([OTHERS / "bin" / "pip", "install", "--quiet", *wanted], check=True)
        made.write_text("\n".join(wanted))
    return OTHERS


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One run of a tool over all hosts; `changed` is how many tasks it says changed something."""

    usage: Usage
    changed: int


def measure(
    who: str, hosts: int, tasks: int, folder: Path, phases: Sequence[str] = tuple(PHASES)
) -> Iterator[tuple[str, Figures]]:
    """Let one tool do the work on new hosts, again, and after a change; yield the figures of each run."""
    work = Work(Hosts(folder, hosts), tasks)
    with tempfile.TemporaryDirectory(prefix="bench-") as sockets:  # a short path: a socket's has 108 bytes at most
        for phase in phases:
            port = PHASES[phase]
            command = WHO[who](work, port)
            usage = work.hosts.watch(
                command.arguments, {"ANSIBLE_SSH_CONTROL_PATH_DIR": sockets, **command.environment}
            )
            if usage.code or not work.shows(port):
                raise ToolError(f"{phase} run, exit code {usage.code}: {_last_words(usage.said)}")
            yield phase, Figures(usage=replace(usage, said=""), changed=command.changed(usage.said))


def measure_alone(hosts: int, tasks: int, folder: Path) -> Iterator[tuple[str, Figures]]:
    """Let carry do the work on hosts that answer at once with what one real host said: the controller's side alone."""
    dict(measure("carry", 1, tasks, folder / "real", ("first",)))
    record = (folder / "real" / "given" / "runs" / f"b{COLD_PORT}" / "events.jsonl").read_text().splitlines()
    events = folder / "events"
    said = [line for line in record if "end" not in json.loads(line)]
    events.write_text("\n".join([*said, json.dumps({"end": {"rc": 0, "why": "", "said": ""}}), ""]))
    work = Work(Hosts(folder / "replayed", hosts), tasks)
    for phase, kind in (("first", "fresh"), ("again", "kept")):
        replay = [sys.executable, "-m", "tests.bench.replay", work.hosts.folder, work.hosts.server.port, events, kind]
        work.hosts.commands = [[str(argument) for argument in replay]]
        command = WHO["carry"](work, COLD_PORT)
        usage = work.hosts.watch(command.arguments, command.environment)
        if usage.code or not usage.said:
            raise ToolError(f"{phase} run, exit code {usage.code}: {_last_words(usage.said)}")
        yield phase, Figures(usage=replace(usage, said=""), changed=command.changed(usage.said))


def _last_words(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = [line for line in lines if "ERROR" in line or "FAILED" in line or "fatal:" in line]
    return " ".join((told or lines)[-3:])[:500]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A size, who is measured there, and how often each: the first run, the one without a change, and that with one."""

    hosts: int
    tasks: int
    who: Sequence[str]
    times: Sequence[int]


_ALL = tuple(WHO)
_QUICK_ONES = ("mitogen", "pyinfra", "carry")
CASES = (  # plain Ansible takes a third of a CPU second per host and task, so not everything at every size
    Case(hosts=10, tasks=21, who=("linear", "push"), times=(3, 1, 1)),
    Case(hosts=10, tasks=21, who=("host_pinned", "free"), times=(1,)),
    Case(hosts=10, tasks=21, who=_QUICK_ONES, times=(3, 1, 1)),
    Case(hosts=50, tasks=21, who=("linear", "push", *_QUICK_ONES), times=(1,)),
    Case(hosts=200, tasks=21, who=("pyinfra", "carry"), times=(1,)),
    Case(hosts=10, tasks=100, who=("linear", "push", *_QUICK_ONES), times=(1,)),
    Case(hosts=1000, tasks=21, who=(ALONE,), times=(1, 1)),
)
LONG = (
    Case(hosts=10, tasks=21, who=_ALL, times=(3, 3, 3)),
    Case(hosts=50, tasks=21, who=_ALL, times=(3, 3, 3)),
    Case(hosts=200, tasks=21, who=_ALL, times=(1, 1, 1)),
    Case(hosts=10, tasks=100, who=_ALL, times=(3, 3, 3)),
    Case(hosts=1000, tasks=21, who=(ALONE,), times=(3, 3)),
)
QUICK = (Case(hosts=10, tasks=21, who=("linear", *_QUICK_ONES, "push"), times=(1,)),)

# (hosts, tasks, phase, who) -> its figures, or what it said when it could not do it
Found = dict[tuple[int, int, str, str], list[Figures] | str]


def compare(cases: Sequence[Case]) -> Found:
    """Measure the cases, a turn of each tool after the other, so that what else the machine does is spread over all."""
    found: Found = {}
    for turn in range(max(max(case.times) for case in cases)):
        for case in cases:
            phases = [phase for phase, times in zip(PHASES, case.times, strict=False) if turn < times]
            for who in filter(there, case.who if phases else ()):
                try:
                    with tempfile.TemporaryDirectory() as folder:
                        given = case.hosts, case.tasks, Path(folder) / "b"
                        for phase, figures in measure_alone(*given) if who == ALONE else measure(who, *given, phases):
                            found.setdefault((case.hosts, case.tasks, phase, who), []).append(figures)
                            print(f"{who}, {case.hosts} x {case.tasks}, {phase}", file=sys.stderr, flush=True)
                except ToolError as problem:
                    found[case.hosts, case.tasks, phases[0], who] = str(problem)
    return found


def main() -> None:
    who, hosts, tasks, *times = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(int(times[0]) if times else 1):
            given = int(hosts), int(tasks), Path(folder) / str(turn)
            for phase, figures in measure_alone(*given) if who == ALONE else measure(who, *given):
                told = asdict(figures.usage) | {"changed": figures.changed}
                del told["said"], told["code"]
                print(phase, json.dumps({name: round(value, 2) for name, value in told.items()}), flush=True)


if __name__ == "__main__":
    main()
