"""Which steps may start now: readiness, limits, roll-outs, retries and what a failure skips. Pure: time is an argument.

Rules, in the order they are applied
  1. A step is ready when everything it `needs` succeeded and everything it comes `after` is finished either way.
  2. A final failure skips what needs it, directly or not; each skip names the root cause. `after` only orders.
  3. Of the ready roles, the one with most startable steps goes first, as one batch; longest remaining chain on ties.
     A batch has one executor: a role that some hosts run by another one is as two roles here.
  4. Never more in flight than the policy's limits: steps, per node, role and group, installs; pushed batches and their
     hosts, too, since each is a process here, while a carried batch is only a name for steps that start together.
  5. A role with a roll-out starts its next share only when the share before is finished, and stops after its limit.
  6. Members of a role with a quorum are touched one at a time, whatever its roll-out says: first those that are down,
     the others only while the rest is a majority without them (`plan/quorum.py`). What can never start is skipped.
  7. A step whose inputs turn out as at its last success is settled without running (late no-op).
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from orchestrator import graph
from orchestrator.fingerprint import digest_of, fingerprint, is_known
from orchestrator.model import (
    PUSH,
    Action,
    Batch,
    Fingerprint,
    Json,
    Outcome,
    OutputRef,
    Plan,
    Rollout,
    Status,
    Step,
    StepId,
    StepRun,
    Value,
)
from orchestrator.plan.make import resolve_value
from orchestrator.plan.quorum import guards
from orchestrator.plan.summary import step_graph

__all__ = ["Decision", "Schedule", "Verdict"]

_INSTALL = "install"
_Quota = tuple[str, str]  # the role that it counts ("" for all) and the group
_Lane = tuple[str, Action, str]  # role, action and executor: steps of one lane can share a batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do next: batches to start, and steps that came to their outcome without running."""

    batches: tuple[Batch, ...] = ()
    settled: tuple[Outcome, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.batches or self.settled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an outcome means: final, or another try after a pause."""

    outcome: Outcome
    retry_in_s: float | None = None

    @property
    def final(self) -> bool:
        return self.retry_in_s is None


@dataclass(slots=True)
class _Progress:
    """How far a role with a roll-out has come."""

    rollout: Rollout
    total: int
    admitted: int
    started: int = 0
    finished: int = 0
    failures: int = 0
    stopped_by: StepId | None = None

    def room(self) -> int:
        if self.finished >= self.admitted:
            self.admitted += max(1, self.rollout.then.of(self.total))
        return self.admitted - self.started


@dataclass(slots=True)
class _Node:
    """A vertex at run time: a step or a barrier. A closed barrier has a provider that failed."""

    unmet: int = 0
    closed: bool = False
    needed_by: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)  # those that only come after this


class Schedule:
    """The run-time state of a plan. Mutable by design; everything that changes it is a method of it."""

    def __init__(
        self,
        plan: Plan,
        *,
        outputs: Mapping[StepId, Mapping[str, Json]] | None = None,
        finished: Sequence[Outcome] = (),
        attempts: Mapping[StepId, int] | None = None,
        check: bool = False,
        prefix: str = "",
        quorum_loss: Collection[str] = (),
    ) -> None:
        """Start a plan, or go on with it: `finished` are the final outcomes that an earlier process committed.

        `attempts` are the tries that it made of others, so that none gets more than the policy grants.
        `prefix` starts the ids of batches; give another one to each process that goes on with a run.
        `quorum_loss` are shell globs on roles whose majority nobody has to keep.
        """
        self._plan = plan
        # A check that is resumed is still a check: the plan says so, whoever runs it.
        self._check = check or any(step.action is Action.CHECK for step in plan.steps)
        self._prefix = prefix
        self._limits = plan.policy.limits
        self._steps = {step.id: step for step in plan.steps}
        self._outputs: dict[StepId, Mapping[str, Json]] = dict(outputs or {})
        self._vertices = _vertices(plan)
        self._remaining = graph.remaining(step_graph(plan), self._weight)
        self._lanes: dict[_Lane, list[tuple[float, StepId]]] = defaultdict(list)
        self._parked_node: dict[str, list[StepId]] = defaultdict(list)
        self._parked_quota: dict[_Quota, deque[StepId]] = defaultdict(deque)
        self._retries: list[tuple[float, StepId]] = []
        self._attempts: Counter[StepId] = Counter(attempts or {})
        self._in_flight: dict[StepId, str] = {}
        self._pushes: Counter[str] = Counter()  # batches that are a process on the controller each
        self._busy_nodes: Counter[str] = Counter()
        self._busy_roles: Counter[str] = Counter()
        self._busy_quotas: Counter[_Quota] = Counter()
        self._quotas: dict[_Quota, int] = {("", group): limit for group, limit in plan.policy.limits.groups.items()}
        self._quotas |= {(_INSTALL, group): limit for group, limit in plan.policy.limits.installs.items()}
        self._late: dict[int, dict[str, Value]] = {}
        self._prints: dict[tuple[str, str, int], tuple[str, Fingerprint]] = {}
        self._numbers = count(1)
        self._draining = False
        self._unsettled: list[Outcome] = []
        self._rollouts = _rollouts(plan)
        self._guards = {} if self._check else guards(plan, quorum_loss)
        self._guarded: dict[str, list[StepId]] = defaultdict(list)  # steps of a role that its guard holds back
        self.outcomes: dict[StepId, Outcome] = {}
        for name in [name for name, vertex in self._vertices.items() if not vertex.unmet]:
            self._met(name)
        committed = {outcome.step for outcome in finished}
        for outcome in finished:
            self._take_up(outcome)
        self._unsettled = [outcome for outcome in self._unsettled if outcome.step not in committed]

    @property
    def done(self) -> bool:
        """Whether nothing is left to start or to wait for."""
        if self._in_flight or self._unsettled:
            return False
        return self._draining or len(self.outcomes) == len(self._steps)

    @property
    def in_flight(self) -> Mapping[StepId, str]:
        """Steps that run now, and the batch of each."""
        return self._in_flight

    def drain(self) -> None:
        """Start nothing any more; what runs may finish."""
        self._draining = True

    def wake_at(self) -> float | None:
        """When the next retry is due, or None."""
        return self._retries[0][0] if self._retries and not self._draining else None

    def next(self, now: float) -> Decision:
        """Return what may start now. The caller commits and starts all of it."""
        settled, self._unsettled = self._unsettled, []
        while self._retries and self._retries[0][0] <= now and not self._draining:
            self._ready(heapq.heappop(self._retries)[1])
        self._offer_quotas()
        for role in self._guarded:
            self._offer_guarded(role)
        batches: list[Batch] = []
        while not self._draining and (lane := self._best_lane()):
            if runs := self._fill(lane, settled):
                batches.append(self._batch(lane, runs))
        if not (batches or settled or self._in_flight or self._retries or self._draining):
            settled += self._give_up()
        return Decision(batches=tuple(batches), settled=tuple(settled))

    def verdict(self, outcome: Outcome) -> Verdict:
        """Say what an outcome means; changes nothing, so that it can be committed before `record`."""
        retry = self._plan.policy.retry
        tries = {Status.UNREACHABLE: retry.unreachable, Status.FAILED: retry.failed}.get(outcome.status, 0)
        if self._check or self._draining or outcome.attempt > tries:
            return Verdict(outcome=outcome)
        return Verdict(outcome=outcome, retry_in_s=retry.backoff_s * 2 ** (outcome.attempt - 1))

    def step_run(self, step: StepId) -> StepRun | None:
        """Return a step as it would be handed to an executor; None when it would not be run at all."""
        run = self._run(self._steps[step])
        return run if isinstance(run, StepRun) else None

    def record(self, verdict: Verdict, now: float) -> tuple[Outcome, ...]:
        """Take in a committed verdict; return the skips that it causes, which the caller commits too."""
        outcome = verdict.outcome
        ran = outcome.step in self._in_flight  # else an earlier process ran it, and here it is still ready
        self._release_slot(outcome.step)
        progress = self._rollouts.get(self._steps[outcome.step].role)
        if verdict.retry_in_s is not None:
            self._attempts[outcome.step] = outcome.attempt
            if ran:
                heapq.heappush(self._retries, (now + verdict.retry_in_s, outcome.step))
                if progress:
                    progress.started -= 1  # its next try takes the place again
            return ()
        if progress and not ran:
            progress.started += 1
        return self._finish(outcome)

    # --- readiness ------------------------------------------------------------------------------------------------

    def _finish(self, outcome: Outcome) -> tuple[Outcome, ...]:
        step = self._steps[outcome.step]
        self.outcomes[outcome.step] = outcome
        if guard := self._guards.get(step.role):
            guard.end(step, outcome)
        if outcome.status.good:
            if outcome.outputs or not self._check:
                self._outputs[outcome.step] = {**self._outputs.get(outcome.step, {}), **outcome.outputs}
            self._release(outcome.step)
            self._count_rollout(step, failed=False)
            return ()
        skips = self._skip_dependants(outcome.step, outcome.cause or outcome.step)
        if outcome.status is not Status.SKIPPED:
            skips += self._count_rollout(step, failed=True)
        return tuple(skips)

    def _take_up(self, outcome: Outcome) -> None:
        """Put a committed outcome in place when a run is resumed."""
        if outcome.step in self._steps and outcome.step not in self.outcomes:
            progress = self._rollouts.get(self._steps[outcome.step].role)
            if progress:
                progress.started += 1
            self._unsettled.extend(self._finish(outcome))

    def _release(self, name: str) -> None:
        vertex = self._vertices[name]
        for other in vertex.before if vertex.closed else (*vertex.needed_by, *vertex.before):
            self._meet(other)

    def _meet(self, name: str) -> None:
        vertex = self._vertices[name]
        vertex.unmet -= 1
        if not vertex.unmet:
            self._met(name)

    def _met(self, name: str) -> None:
        if name not in self._steps:
            self._release(name)
        elif name not in self.outcomes:
            self._ready(StepId(name))

    def _ready(self, step: StepId) -> None:
        found = self._steps[step]
        heapq.heappush(self._lanes[found.role, found.action, found.executor], (-self._remaining[step], step))

    def _skip_dependants(self, name: str, cause: StepId) -> list[Outcome]:
        """Skip what needs `name`, through barriers too, and let those that only come after it go on."""
        skips: list[Outcome] = []
        failed = [name]
        while failed:
            vertex = self._vertices[failed.pop()]
            for other in vertex.before:
                self._meet(other)
            for other in vertex.needed_by:
                needy = [other]
                if other not in self._steps:
                    needy = self._close(other)
                for step in needy:
                    if step not in self.outcomes:
                        skips.append(self._skip(StepId(step), cause, f"needs {cause}, which failed"))
                        failed.append(step)
        return skips

    def _close(self, name: str) -> list[str]:
        """Close a barrier; return the steps that can never start now. Those only after it wait for its other needs."""
        barrier = self._vertices[name]
        needy = [] if barrier.closed else barrier.needed_by
        barrier.closed = True
        self._meet(name)
        return needy

    def _skip(self, step: StepId, cause: StepId, why: str) -> Outcome:
        outcome = Outcome(step=step, status=Status.SKIPPED, cause=cause, problem=why)
        self.outcomes[step] = outcome
        return outcome

    # --- roll-outs ------------------------------------------------------------------------------------------------

    def _count_rollout(self, step: Step, *, failed: bool) -> list[Outcome]:
        progress = self._rollouts.get(step.role)
        if progress is None or self._check:
            return []
        progress.finished += 1
        progress.failures += failed
        limit = progress.rollout.stop_after
        if not failed or not limit or progress.failures < limit or progress.stopped_by:
            return []
        progress.stopped_by = step.id
        skips = []
        for other in self._plan.steps:
            if other.role == step.role and other.id not in self.outcomes and other.id not in self._in_flight:
                why = f"the roll-out of {step.role} stopped after {progress.failures} failures, last {step.id}"
                skips.append(self._skip(other.id, step.id, why))
                skips.extend(self._skip_dependants(other.id, step.id))
        return skips

    # --- quorums --------------------------------------------------------------------------------------------------

    def _hold(self, step: Step) -> bool:
        """Put a step aside that would cost its role the majority now."""
        guard = self._guards.get(step.role)
        if guard is None or guard.may_start(step):
            return False
        self._guarded[step.role].append(step.id)
        return True

    def _offer_guarded(self, role: str) -> None:
        waiting, self._guarded[role] = self._guarded[role], []
        for step in waiting:
            if step not in self.outcomes:
                self._ready(step)

    def _give_up(self) -> list[Outcome]:
        """Skip what is held back when nothing can change that any more, and what needs it."""
        skips: list[Outcome] = []
        for role, waiting in self._guarded.items():
            for step in waiting:
                if step not in self.outcomes:
                    cause, why = self._guards[role].why_not(self._steps[step])
                    skips += [self._skip(step, cause, why), *self._skip_dependants(step, cause)]
            waiting.clear()
        return skips

    # --- batches --------------------------------------------------------------------------------------------------

    def _best_lane(self) -> _Lane | None:
        """Return the lane with most steps to start, if a batch may start at all."""
        if len(self._in_flight) >= self._limits.steps:
            return None
        pushes = len(self._pushes) < self._limits.batches
        best: tuple[int, float, str, str, str] | None = None
        chosen = None
        for lane, queue in self._lanes.items():
            while queue and queue[0][1] in self.outcomes:
                heapq.heappop(queue)  # skipped while it waited
            size = min(len(queue), self._room(lane)) if queue else 0
            if size <= 0 or (lane[2] == PUSH and not pushes):
                continue
            rank = (-size, queue[0][0], lane[0], lane[1].value, lane[2])
            if best is None or rank < best:
                best, chosen = rank, lane
        return chosen

    def _room(self, lane: _Lane) -> int:
        role = lane[0]
        room = self._limits.steps - len(self._in_flight)
        if lane[2] == PUSH:
            room = min(room, self._limits.batch)
        if role in self._limits.roles:
            room = min(room, self._limits.roles[role] - self._busy_roles[role])
        if role in self._rollouts and not self._check:
            room = min(room, self._rollouts[role].room())
        return room

    def _fill(self, lane: _Lane, settled: list[Outcome]) -> list[StepRun]:
        """Take startable steps off a lane; park those whose node or group is busy, settle late no-ops."""
        runs: list[StepRun] = []
        queue = self._lanes[lane]
        room = self._room(lane)
        while queue and len(runs) < room:
            step = self._steps[heapq.heappop(queue)[1]]
            if step.id in self.outcomes or self._hold(step) or self._park(step):
                continue
            run = self._run(step)
            if isinstance(run, Outcome):
                if step.role in self._rollouts:
                    self._rollouts[step.role].started += 1
                settled.append(run)
                settled.extend(self._finish(run))
                continue
            self._occupy(step)
            runs.append(run)
        return runs

    def _park(self, step: Step) -> bool:
        if self._busy_nodes[step.node] >= self._limits.per_node:
            self._parked_node[step.node].append(step.id)
            return True
        for quota in self._quotas_of(step):
            if self._busy_quotas[quota] >= self._quotas[quota]:
                self._parked_quota[quota].append(step.id)
                return True
        return False

    def _quotas_of(self, step: Step) -> list[_Quota]:
        """Return the quotas that a step takes a place of: its node's groups', and as an install those of installs."""
        if not self._quotas:
            return []
        roles = ("", _INSTALL) if step.role == _INSTALL else ("",)
        groups = self._plan.nodes[step.node].groups
        return [(role, group) for role in roles for group in groups if (role, group) in self._quotas]

    def _offer_quotas(self) -> None:
        """Let as many of those that wait for a place in a quota try again as it has places."""
        for quota, limit in self._quotas.items():
            waiting, free = self._parked_quota[quota], limit - self._busy_quotas[quota]
            while waiting and free > 0:
                step = waiting.popleft()
                if step not in self.outcomes:
                    self._ready(step)
                    free -= 1

    def _occupy(self, step: Step) -> None:
        if guard := self._guards.get(step.role):
            guard.start(step)
        self._in_flight[step.id] = ""
        self._busy_nodes[step.node] += 1
        self._busy_roles[step.role] += 1
        self._busy_quotas.update(self._quotas_of(step))
        if step.role in self._rollouts:
            self._rollouts[step.role].started += 1

    def _release_slot(self, name: StepId) -> None:
        batch = self._in_flight.pop(name, None)
        if batch is None:
            return
        if batch in self._pushes:
            self._pushes[batch] -= 1
            if not self._pushes[batch]:
                del self._pushes[batch]
        step = self._steps[name]
        self._busy_nodes[step.node] -= 1
        self._busy_roles[step.role] -= 1
        for parked in self._parked_node.pop(step.node, ()):
            self._ready(parked)
        self._busy_quotas.subtract(self._quotas_of(step))

    def _batch(self, lane: _Lane, runs: list[StepRun]) -> Batch:
        role, action, executor = lane
        key = f"{self._prefix}b{next(self._numbers)}"
        for run in runs:
            self._in_flight[run.step] = key
        if executor == PUSH:
            self._pushes[key] = len(runs)
        timeouts = self._plan.policy.timeouts
        return Batch(
            id=key,
            role=self._plan.roles[role],
            action=action,
            runs=tuple(runs),
            timeout_s=timeouts.roles.get(role, timeouts.default_s),
            check=self._check or action is Action.CHECK,
            executor=executor,
            facts_age_s=self._plan.policy.facts_age_s,
        )

    def _run(self, step: Step) -> StepRun | Outcome:
        """Return the step ready to run, or its outcome when it need not or cannot run."""
        role = self._plan.roles[step.role]
        if step.action is Action.REMOVE and not role.removable:
            return Outcome(step=step.id, status=Status.OK, unrun=True)
        inputs = self._inputs(step)
        for name, value in inputs.items():
            if not is_known(value):
                return Outcome(step=step.id, status=Status.FAILED, problem=_no_output(name, value))
        digest, print_ = step.digest, self._plan.fingerprints.get(step.digest)
        if not digest and step.action in (Action.CREATE, Action.UPDATE):
            digest, print_ = self._digest(role.digest, self._plan.nodes[step.node].platform, inputs)
            if step.last == digest:
                return Outcome(step=step.id, status=Status.OK, outputs=self._outputs.get(step.id, {}), unrun=True)
        return StepRun(
            step=step.id,
            node=self._plan.nodes[step.node],
            inputs=inputs,
            attempt=self._attempts[step.id] + 1,
            digest=digest,
            fingerprint=print_,
        )

    def _inputs(self, step: Step) -> Mapping[str, Value]:
        """Return the step's inputs with all outputs filled in; steps that share inputs share the result."""
        if step.digest or all(is_known(value) for value in step.inputs.values()):
            return step.inputs
        key = id(step.inputs)
        if key not in self._late:
            values = {name: resolve_value(value, self._output) for name, value in step.inputs.items()}
            if not all(is_known(value) for value in values.values()):
                return values
            self._late[key] = values
        return self._late[key]

    def _output(self, provider: StepId, name: str) -> tuple[bool, Json]:
        outputs = self._outputs.get(provider, {})
        return name in outputs, outputs.get(name)

    def _digest(self, role: str, platform: str, inputs: Mapping[str, Value]) -> tuple[str, Fingerprint]:
        key = (role, platform, id(inputs))
        if key not in self._prints:
            print_ = fingerprint(role, platform, inputs)
            self._prints[key] = (digest_of(print_), print_)
        return self._prints[key]

    def _weight(self, name: str) -> float:
        step = self._steps.get(StepId(name))
        return (step.expected_s or 1.0) if step else 0.0


def _vertices(plan: Plan) -> dict[str, _Node]:
    vertices: dict[str, _Node] = {step.id: _Node() for step in plan.steps}
    vertices.update({barrier.id: _Node() for barrier in plan.barriers})
    for step in plan.steps:
        needs = set(step.needs)
        order = set(step.after) - needs
        for need in sorted(needs):
            vertices[need].needed_by.append(step.id)
        for earlier in sorted(order):
            vertices[earlier].before.append(step.id)
        vertices[step.id].unmet = len(needs) + len(order)
    for barrier in plan.barriers:
        for need in barrier.needs:
            vertices[need].needed_by.append(barrier.id)
        vertices[barrier.id].unmet = len(barrier.needs)
    return vertices


def _rollouts(plan: Plan) -> dict[str, _Progress]:
    totals = Counter(step.role for step in plan.steps)
    found = {}
    for name, role in plan.roles.items():
        if role.rollout:
            first = role.rollout.first.of(totals[name]) or totals[name]
            found[name] = _Progress(rollout=role.rollout, total=totals[name], admitted=first)
    return found


def _no_output(name: str, value: Value) -> str:
    if isinstance(value, OutputRef):
        return f"input {name} waits for output {value.output} of {', '.join(value.providers)}, which gave none"
    return f"input {name} has no value"
