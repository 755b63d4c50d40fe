"""An apply in virtual time: the real scheduler and the real store, hosts that are only dice with a seed.

`Virtual` walks from event to event as `orchestrator.apply` does (one commit per turn: outcomes, then starts), but its
clock jumps. So a day of a thousand hosts takes seconds, and the same seed gives the same run on every machine.

Two ways to the hosts are simulated. CARRY: a batch costs the controller nothing, so it goes on at once. PUSH: a batch
is a process, so there are few, and the next one waits for outcomes to gather.
"""

from __future__ import annotations

import heapq
import math
import random
import resource
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator import graph, plan
from orchestrator.executors.ansible import AnsibleExecutor
from orchestrator.executors.fake import FakeExecutor, Script
from orchestrator.model import (
    CARRY,
    PUSH,
    Action,
    Batch,
    Catalog,
    Contract,
    Event,
    Executors,
    Fingerprint,
    Group,
    Limits,
    Node,
    Option,
    Outcome,
    Output,
    Plan,
    Policy,
    Requirement,
    Retry,
    Scope,
    Snapshot,
    Spec,
    Status,
    Step,
    StepId,
    StepRun,
    Wire,
)
from orchestrator.schedule import Schedule, Verdict
from orchestrator.store import Run, RunStatus, Store, kinds
from orchestrator.topology import resolve

__all__ = ["FAR", "Result", "Virtual", "append", "apply", "dice", "linear", "simulate", "succeed", "twenty_roles"]

Fate = Callable[[Batch, StepRun], Outcome]  # `seconds` says how long the attempt takes

FAR = 10**9  # a limit that never holds


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a simulated run came to, in virtual seconds.

    `bound_s` is what no scheduler could beat: the longest chain of steps, the host with most work, or all the work
    shared by all slots, retries and their pauses included. `linear_s` is what Ansible would take, see `linear`.
    """

    makespan_s: float
    bound_s: float
    linear_s: float
    lockstep_s: float
    counts: Mapping[Status, int]
    attempts: int
    batches: int

    @property
    def ratio(self) -> float:
        return self.makespan_s / self.bound_s


@dataclass
class Virtual:
    """One run of one plan."""

    made: Plan
    fate: Fate
    store: Store | None = None
    gather_s: float = 0.0  # as that of an executor
    now: float = 0.0
    batches: int = 0
    attempts: int = 0
    worked: Counter[str] = field(default_factory=Counter)  # step -> seconds of all its attempts
    paused: Counter[str] = field(default_factory=Counter)  # step -> seconds between them

    def run(self) -> Result:
        schedule = Schedule(self.made)
        self._steps: dict[StepId, Step] = {step.id: step for step in self.made.steps}
        self._started: dict[StepId, StepRun] = {}
        running: list[tuple[float, int, Outcome]] = []
        self._begin()
        events: list[Event] = []
        prints: dict[str, Fingerprint] = {}
        while True:
            decision = schedule.next(self.now)
            for outcome in decision.settled:
                self._note(outcome, events, prints)
            for batch in decision.batches:
                self._start(batch, events, running)
            if self.store and events:
                self.store.append(events, fingerprints=prints)
            events, prints = [], {}
            if decision.settled:
                continue
            if schedule.done:
                break
            wake = schedule.wake_at()
            if running and (wake is None or running[0][0] <= wake):
                self._take(schedule, running, events, prints)
            else:
                assert wake is not None
                self.now = max(self.now, wake)
        self._finish()
        return self._result(schedule)

    def _begin(self) -> None:
        if self.store:
            self.store.save_plan(self.made.id, plan.dump(self.made))
            run = Run(id="bench", plan_id=self.made.id, command="apply", started=0.0, steps=len(self.made.steps))
            self.store.begin_run(run)

    def _finish(self) -> None:
        if self.store:
            self.store.finish_run("bench", RunStatus.SUCCEEDED, at=self.now)

    def _start(self, batch: Batch, events: list[Event], running: list[tuple[float, int, Outcome]]) -> None:
        self.batches += 1
        for run in batch.runs:
            self._started[run.step] = run
            self.attempts += 1
            outcome = self.fate(batch, run)
            self.worked[run.step] += outcome.seconds
            heapq.heappush(running, (self.now + outcome.seconds, self.attempts, outcome))
            step = self._steps[run.step]
            events.append(
                kinds.step_started(step, run="bench", at=self.now, batch=batch.id, attempt=run.attempt, executor="dice")
            )

    def _take(
        self,
        schedule: Schedule,
        running: list[tuple[float, int, Outcome]],
        events: list[Event],
        prints: dict[str, Fingerprint],
    ) -> None:
        """Let the next outcome come, and those that come soon enough after it."""
        until = running[0][0] + self.gather_s
        while running and running[0][0] <= until:
            self.now, _, outcome = heapq.heappop(running)
            self._end(schedule, schedule.verdict(outcome), events, prints)
        self.now = until if running else self.now

    def _end(self, schedule: Schedule, verdict: Verdict, events: list[Event], prints: dict[str, Fingerprint]) -> None:
        outcome = verdict.outcome
        if verdict.retry_in_s is None:
            self._note(outcome, events, prints)
        else:
            self.paused[outcome.step] += verdict.retry_in_s
            events.append(
                kinds.step_retry(
                    self._steps[outcome.step],
                    run="bench",
                    at=self.now,
                    attempt=outcome.attempt,
                    problem=outcome.problem,
                    wait_s=verdict.retry_in_s,
                )
            )
        for skip in schedule.record(verdict, self.now):
            self._note(skip, events, prints)

    def _note(self, outcome: Outcome, events: list[Event], prints: dict[str, Fingerprint]) -> None:
        step = self._steps[outcome.step]
        if outcome.status is Status.SKIPPED:
            events.append(
                kinds.step_skipped(step, run="bench", at=self.now, cause=outcome.cause, reason=outcome.problem)
            )
            return
        run = self._started.get(step.id)
        if run and run.fingerprint and outcome.status.good:
            prints[run.digest] = run.fingerprint
        events.append(
            kinds.step_finished(
                step,
                outcome,
                run="bench",
                at=self.now,
                digest=run.digest if run else step.last,
                node=self.made.nodes[step.node] if outcome.status.good else None,
            )
        )

    def _result(self, schedule: Schedule) -> Result:
        limits, steps = self.made.policy.limits, self.made.steps
        chain_s, _ = graph.critical_path(plan.step_graph(self.made), lambda item: self.worked[item] + self.paused[item])
        host_s: Counter[str] = Counter()
        for step in steps:
            host_s[step.node] += self.worked[step.id] / limits.per_node
        return Result(
            makespan_s=self.now,
            bound_s=max(chain_s, self.worked.total() / limits.steps, *host_s.values()),
            linear_s=linear(steps, self.worked, limits.steps),
            lockstep_s=linear(steps, self.worked, limits.steps, serial=True),
            counts=Counter(outcome.status for outcome in schedule.outcomes.values()),
            attempts=self.attempts,
            batches=self.batches,
        )


def linear(steps: Sequence[Step], worked: Mapping[str, float], forks: int, *, serial: bool = False) -> float:
    """Return the seconds that Ansible's linear strategy takes for the same steps, each as long as here, without pauses.

    Role by role: no host begins one before all hosts have ended the one before it. A fork that is free takes the next
    host; with `serial` (as of a play) it waits until as many hosts as there are forks are done.
    """
    roles: dict[str, list[float]] = defaultdict(list)
    for step in steps:
        roles[step.role].append(worked[step.id])
    total_s = 0.0
    for durations in roles.values():
        if serial:
            total_s += sum(max(durations[start : start + forks]) for start in range(0, len(durations), forks))
            continue
        busy_until = [0.0] * min(forks, len(durations))
        for seconds in durations:
            heapq.heapreplace(busy_until, busy_until[0] + seconds)
        total_s += max(busy_until)
    return total_s


def dice(seed: int, *, failures: float = 0.02, spread: float = 0.6) -> Fate:
    """Log-normal durations with a mean of the role's own, and a share of attempts that fail or find no host."""

    def fate(batch: Batch, run: StepRun) -> Outcome:
        die = random.Random(f"{seed} {run.step} {run.attempt}")
        mean_s = 10.0 + random.Random(f"{seed} {batch.role.name}").random() * 50.0
        seconds = die.lognormvariate(math.log(mean_s) - spread**2 / 2, spread)
        status, problem = Status.CHANGED, ""
        if die.random() < failures:
            status, problem = die.choice([Status.FAILED, Status.UNREACHABLE]), "bad luck"
        outputs = {name: f"{name} of {run.node.name}" for name in batch.role.outputs} if status.good else {}
        return Outcome(
            step=run.step, status=status, outputs=outputs, problem=problem, seconds=seconds, attempt=run.attempt
        )

    return fate


# --- the site that is simulated ---------------------------------------------------------------------------------------

_CONTROLLERS = ("database", "queue", "identity", "image", "network")


def twenty_roles(nodes: int, roles: int, limits: Limits, executor: str = CARRY) -> Plan:
    """Return the plan of a new site: three controllers, and nodes with that many roles each, in layers of four."""
    contracts: dict[str, Contract] = {"base": _role("base")}
    for name in _CONTROLLERS:
        earlier = list(contracts)
        contracts[name] = _role(name, on_site=earlier[-1:] if name != "database" else (), on_node=["base"], gives=True)
    common = ["base"]
    for number in range(1, roles):
        name = f"role{number:02}"
        below = "base" if number <= 4 else f"role{number - 4:02}"
        contracts[name] = _role(name, on_node=[below], on_site=["network"] if number == roles // 2 else ())
        common.append(name)
    groups = {
        "all": Group(name="all"),
        "controllers": Group(name="controllers", roles=("base", *_CONTROLLERS)),
        "computes": Group(name="computes", roles=tuple(common)),
    }
    names = {f"ctl-{n}": "controllers" for n in range(1, 4)} | {f"kvm-{n:05}": "computes" for n in range(1, nodes + 1)}
    spec = Spec(
        site="bench",
        networks={},
        profiles={},
        groups=groups,
        nodes={name: Node(name=name, address="10.0.0.1", groups=("all", group)) for name, group in names.items()},
        policy=Policy(
            limits=limits,
            retry=Retry(failed=3, unreachable=3, backoff_s=5.0),
            executors=Executors(default=executor),
        ),
        digest="bench",
    )
    catalog: Catalog = contracts
    return plan.make(resolve(spec, catalog), _history(contracts))


def _history(contracts: Catalog) -> Snapshot:
    """Earlier runs of other nodes: durations are known, so that the longest chain is."""
    return Snapshot(durations={name: 10.0 + random.Random(f"1 {name}").random() * 50.0 for name in contracts})


def _role(name: str, *, on_node: Sequence[str] = (), on_site: Sequence[str] = (), gives: bool = False) -> Contract:
    wires = {f"{name}_{other}": Wire(capability=other, output=f"{other}_url") for other in on_site if other != "base"}
    return Contract(
        role=name,
        digest=f"digest of {name}",
        provides=(name,),
        requires=(
            *(Requirement(capability=other, scope=Scope.NODE) for other in on_node),
            *(Requirement(capability=other) for other in on_site),
        ),
        inputs=wires,
        outputs={f"{name}_url": Output(name=f"{name}_url", value="{{ node_address }}")} if gives else {},
        options={wire: Option(name=wire, type="raw") for wire in wires},
    )


# --- measurements -----------------------------------------------------------------------------------------------------


def simulate(
    nodes: int, roles: int, *, executor: str, store: str | None, limits: Limits, seed: int = 1
) -> dict[str, Any]:
    """Return the figures of a simulated run; with `store`, committed to a new SQLite file there."""
    made = twenty_roles(nodes, roles, limits, executor)
    opened = Store.open(store) if store else None
    before = time.process_time()
    result = Virtual(made, dice(seed), opened, AnsibleExecutor.gather_s if executor == PUSH else 0.0).run()
    cpu_s = time.process_time() - before
    if opened:
        opened.close()
    return {
        "steps": len(made.steps),
        "attempts": result.attempts,
        "batches": result.batches,
        "makespan_s": result.makespan_s,
        "bound_s": result.bound_s,
        "ratio": result.ratio,
        "linear": result.linear_s / result.makespan_s,
        "lockstep": result.lockstep_s / result.makespan_s,
        "failed": result.counts.get(Status.FAILED, 0) + result.counts.get(Status.UNREACHABLE, 0),
        "cpu_ms_per_step": cpu_s / len(made.steps) * 1000,
    }


def succeed(site: str) -> dict[str, Any]:
    """Record the success of every step of a site's plan, as a real apply would have."""
    from orchestrator.service import open_site

    opened = open_site(site)
    made = opened.plan()
    opened.state_dir.mkdir(mode=0o700, exist_ok=True)
    limits = Limits(steps=FAR, batches=FAR, batch=1000, per_node=FAR)
    calm = dice(1, failures=0.0)
    with Store.open(opened.state_dir / "state.db") as store:
        policy = Policy(limits=limits)
        result = Virtual(replace(made, policy=policy), _at_once(calm), store).run()
    return {"steps": len(made.steps), "changed": result.counts[Status.CHANGED]}


def _at_once(fate: Fate) -> Fate:
    return lambda batch, run: replace(fate(batch, run), seconds=1.0)


def apply(site: str) -> dict[str, Any]:
    """Apply a site for the first time, with the real loop, store and timers, on hosts that are done at once."""
    from orchestrator.service import open_site

    def script(batch: Batch, run: StepRun) -> Script:
        return Script(outputs={name: f"{name} of {run.node.name}" for name in batch.role.outputs})

    opened = open_site(site, executor=lambda *_: FakeExecutor(script))
    made = opened.plan()
    resident_mb: list[float] = []
    finished = 0

    def watch(event: Event) -> None:
        nonlocal finished
        finished += event.kind == kinds.STEP_FINISHED
        if finished > len(resident_mb) * len(made.steps) / 10:
            resident_mb.append(_resident_mb())

    before = time.process_time()
    result = opened.apply(made, on_event=watch)
    cpu_s = time.process_time() - before
    early, late = resident_mb[1], _resident_mb()
    return {
        "steps": len(made.steps),
        "changed": result.counts[Status.CHANGED],
        "cpu_ms_per_step": cpu_s / len(made.steps) * 1000,
        "early_mb": early,
        "late_mb": late,
        "mb_per_step": late / len(made.steps),
    }


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def append(events: int, batch: int, folder: Path) -> dict[str, Any]:
    """Commit outcomes in groups of `batch`; return the CPU microseconds of each event."""
    step = [
        Step(id=StepId(f"web@n{n:05}"), action=Action.CREATE, role="web", node=f"n{n:05}", reasons=(), inputs={})
        for n in range(events)
    ]
    with Store.open(folder / "state.db") as store:
        before = time.process_time()
        for start in range(0, events, batch):
            store.append(
                [
                    kinds.step_finished(
                        s,
                        Outcome(step=s.id, status=Status.CHANGED, outputs={"url": "http://x"}, seconds=3.0),
                        run="r",
                        at=1.0,
                        digest="",
                    )
                    for s in step[start : start + batch]
                ]
            )
        cpu_s = time.process_time() - before
    return {"us_per_event": cpu_s / events * 1e6}
