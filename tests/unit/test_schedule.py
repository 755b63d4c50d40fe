"""The scheduler's promises, on examples and on random plans with random outcomes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from support.sites import after_success, catalog, role, site, small_catalog, small_topology, with_digest

from orchestrator import plan
from orchestrator.model import (
    CARRY,
    EXECUTORS,
    PUSH,
    Action,
    Barrier,
    BarrierId,
    Batch,
    Connection,
    Limits,
    Outcome,
    Plan,
    PlanNode,
    PlanRole,
    Policy,
    Retry,
    Rollout,
    Share,
    Snapshot,
    Status,
    Step,
    StepId,
)
from orchestrator.schedule import Schedule
from orchestrator.topology import resolve

OUTPUTS = {"db": {"db_host": "10.0.0.1"}, "api": {"api_url": "http://10.0.0.1"}}


def started(decision):
    return sorted(run.step for batch in decision.batches for run in batch.runs)


def finish(schedule, step, status=Status.CHANGED, now=0.0, attempt=1, outputs=None):
    given = OUTPUTS.get(step.partition("@")[0], {}) if outputs is None else outputs
    outcome = Outcome(step=StepId(step), status=status, attempt=attempt, outputs=given if status.good else {})
    return schedule.record(schedule.verdict(outcome), now)


def fresh(computes=2, contracts=None, **policy):
    topology = small_topology(computes, contracts, policy=Policy(**policy))
    return plan.make(topology, Snapshot())


def test_what_needs_nothing_starts_first_in_one_batch():
    decision = Schedule(fresh()).next(0.0)
    assert started(decision) == ["base@ctl-1", "base@kvm-1", "base@kvm-2"]
    assert len(decision.batches) == 1


def test_a_role_with_two_executors_makes_two_batches():
    made = fresh()
    carried = [replace(s, executor=CARRY if s.node == "kvm-1" else PUSH) for s in made.steps]
    decision = Schedule(replace(made, steps=tuple(carried))).next(0.0)
    found = {batch.executor: [run.step for run in batch.runs] for batch in decision.batches}
    assert found == {PUSH: ["base@ctl-1", "base@kvm-2"], CARRY: ["base@kvm-1"]}


def test_a_fast_host_goes_on_while_a_slow_one_still_runs():
    schedule = Schedule(fresh())
    schedule.next(0.0)
    finish(schedule, "base@ctl-1")
    assert started(schedule.next(0.0)) == ["db@ctl-1"]


def test_outputs_reach_the_consumers_inputs():
    schedule = Schedule(fresh())
    schedule.next(0.0)
    finish(schedule, "base@ctl-1")
    schedule.next(0.0)
    finish(schedule, "db@ctl-1")
    run = schedule.next(0.0).batches[0].runs[0]
    assert run.inputs["api_db"] == "10.0.0.1"
    assert run.digest
    assert run.fingerprint


def test_a_missing_output_fails_the_consumer_with_a_reason():
    schedule = Schedule(fresh())
    schedule.next(0.0)
    finish(schedule, "base@ctl-1")
    schedule.next(0.0)
    finish(schedule, "db@ctl-1", outputs={})
    settled = schedule.next(0.0).settled
    assert settled[0].status is Status.FAILED
    assert "output db_host of db@ctl-1, which gave none" in settled[0].problem
    assert [o.status for o in settled[1:]] == [Status.SKIPPED] * 2


def test_a_failure_skips_only_what_needs_it_and_names_the_root_cause():
    schedule = Schedule(fresh())
    schedule.next(0.0)
    finish(schedule, "base@kvm-1", Status.FAILED)
    finish(schedule, "base@ctl-1")
    schedule.next(0.0)
    skips = finish(schedule, "db@ctl-1", Status.FAILED)
    assert {(s.step, s.cause) for s in skips} == {("api@ctl-1", "db@ctl-1"), ("agent@kvm-2", "db@ctl-1")}
    assert schedule.outcomes["agent@kvm-1"].cause == "base@kvm-1"


def test_after_only_orders():
    contracts = catalog(role("a", provides=["a"]), role("b", after=("a",)))
    topology = resolve(site({"g": ["a", "b"]}, {"n": ["g"]}), contracts)
    schedule = Schedule(plan.make(topology, Snapshot()))
    assert started(schedule.next(0.0)) == ["a@n"]
    assert finish(schedule, "a@n", Status.FAILED) == ()
    assert started(schedule.next(0.0)) == ["b@n"]


def test_the_late_noop_is_settled_unrun():
    done = after_success(plan.make(small_topology(), Snapshot()))
    made = plan.make(small_topology(contracts=with_digest(small_catalog(), "db", "new")), done)
    schedule = Schedule(made, outputs={k: s.outputs for k, s in done.placements.items()})
    assert started(schedule.next(0.0)) == ["db@ctl-1"]
    finish(schedule, "db@ctl-1")
    decision = schedule.next(0.0)
    assert not decision.batches
    assert sorted(o.step for o in decision.settled) == ["agent@kvm-1", "agent@kvm-2", "api@ctl-1"]
    assert all(o.unrun and o.status is Status.OK for o in decision.settled)
    assert schedule.done


def test_unreachable_hosts_are_tried_again_with_growing_pauses():
    schedule = Schedule(fresh(retry=Retry(unreachable=2, backoff_s=5.0)))
    schedule.next(0.0)
    for other in ("base@ctl-1", "base@kvm-2"):
        finish(schedule, other, Status.FAILED)
    finish(schedule, "base@kvm-1", Status.UNREACHABLE, now=100.0)
    assert schedule.wake_at() == 105.0
    assert not schedule.next(104.0).batches
    assert schedule.next(105.0).batches[0].runs[0].attempt == 2
    finish(schedule, "base@kvm-1", Status.UNREACHABLE, now=110.0, attempt=2)
    assert schedule.wake_at() == 120.0
    schedule.next(120.0)
    assert [s.step for s in finish(schedule, "base@kvm-1", Status.UNREACHABLE, now=121.0, attempt=3)] == []
    assert schedule.done


def test_limits_hold():
    limits = Limits(steps=5, batch=3, batches=2, roles={"agent": 1}, groups={"compute": 2})
    schedule = Schedule(fresh(8, limits=limits))
    first = schedule.next(0.0)
    assert [len(b.runs) for b in first.batches] == [3]  # the controller and two computes: the group's limit
    finish(schedule, "base@ctl-1")
    assert started(schedule.next(0.0)) == ["db@ctl-1"]


def test_one_step_per_node_at_a_time():
    contracts = catalog(role("a"), role("b"))
    topology = resolve(site({"g": ["a", "b"]}, {"n": ["g"], "m": ["g"]}), contracts)
    schedule = Schedule(plan.make(topology, Snapshot()))
    assert started(schedule.next(0.0)) == ["a@m", "a@n"]
    finish(schedule, "a@n")
    assert started(schedule.next(0.0)) == ["b@n"]


def test_a_rollout_starts_with_its_canaries_and_stops_at_its_limit():
    rollout = Rollout(first=Share(count=1), then=Share(percent=50.0), stop_after=2)
    schedule = Schedule(fresh(9, rollout={"base": rollout}))
    assert started(schedule.next(0.0)) == ["base@ctl-1"]
    finish(schedule, "base@ctl-1")
    wave = [s for s in started(schedule.next(0.0)) if s.startswith("base")]
    assert len(wave) == 5
    finish(schedule, wave[0], Status.FAILED)
    skips = finish(schedule, wave[1], Status.FAILED)
    stopped = [s for s in skips if s.step.startswith("base")]
    assert len(stopped) == 4
    assert "roll-out of base stopped after 2 failures" in stopped[0].problem


def test_a_plan_of_checks_runs_in_check_mode_whoever_starts_it():
    topology = small_topology()
    checked = plan.make_check(topology, after_success(plan.make(topology, Snapshot())))
    assert all(batch.check for batch in Schedule(checked).next(0.0).batches)


def test_draining_starts_nothing_more():
    schedule = Schedule(fresh())
    schedule.next(0.0)
    schedule.drain()
    finish(schedule, "base@ctl-1")
    assert not schedule.next(0.0)
    assert not schedule.done
    finish(schedule, "base@kvm-1")
    finish(schedule, "base@kvm-2")
    assert schedule.done


def test_resume_runs_nothing_that_finished():
    made = fresh()
    finished = [
        Outcome(step=StepId(s), status=Status.CHANGED, outputs=OUTPUTS.get(s[:2], {}))
        for s in ("base@ctl-1", "db@ctl-1")
    ]
    schedule = Schedule(made, finished=finished, prefix="r2-")
    decision = schedule.next(0.0)
    assert started(decision) == ["api@ctl-1", "base@kvm-1", "base@kvm-2"]
    assert decision.batches[0].id == "r2-b1"


def test_resume_after_a_failure_skips_again_only_what_was_not_committed():
    made = fresh()
    failed = Outcome(step=StepId("base@kvm-1"), status=Status.FAILED)
    skip = Outcome(step=StepId("agent@kvm-1"), status=Status.SKIPPED, cause=StepId("base@kvm-1"))
    assert [o.step for o in Schedule(made, finished=[failed]).next(0.0).settled] == ["agent@kvm-1"]
    assert Schedule(made, finished=[failed, skip]).next(0.0).settled == ()


# --- random plans -----------------------------------------------------------------------------------------------------


@st.composite
def plans(draw):
    """A random plan of up to 40 steps with needs, orders and barriers, and a random policy."""
    size = draw(st.integers(1, 40))
    nodes = [f"n{i}" for i in range(draw(st.integers(1, 6)))]
    roles = [f"r{i}" for i in range(draw(st.integers(1, 5)))]
    steps: list[Step] = []
    barriers: list[Barrier] = []
    taken: set[str] = set()
    for _ in range(size):
        name = f"{draw(st.sampled_from(roles))}@{draw(st.sampled_from(nodes))}"
        if name in taken:
            continue
        taken.add(name)
        earlier = [s.id for s in steps] + [b.id for b in barriers]
        pick = st.lists(st.sampled_from(earlier), max_size=3, unique=True) if earlier else st.just([])
        steps.append(
            Step(
                id=StepId(name),
                action=Action.CREATE,
                role=name.partition("@")[0],
                node=name.partition("@")[2],
                reasons=("new",),
                inputs={},
                needs=tuple(draw(pick)),
                after=tuple(draw(pick)),
                digest="d",
                executor=draw(st.sampled_from(EXECUTORS)),
            )
        )
        if len(steps) > 2 and draw(st.booleans()):
            needs = draw(st.lists(st.sampled_from([s.id for s in steps]), min_size=1, max_size=4, unique=True))
            barriers.append(Barrier(id=BarrierId(f"c{len(barriers)}"), capability="c", needs=tuple(needs)))
    limits = Limits(
        steps=draw(st.integers(1, 10)),
        batches=draw(st.integers(1, 4)),
        batch=draw(st.integers(1, 5)),
        per_node=draw(st.integers(1, 2)),
        roles={"r0": draw(st.integers(1, 3))},
        groups={"g": draw(st.integers(1, 3))},
    )
    rollout = Rollout(first=Share(count=1), then=Share(percent=40.0), stop_after=draw(st.integers(0, 2)))
    return Plan(
        id="p",
        site="s",
        base_revision=0,
        spec_digest="",
        complete=True,
        steps=tuple(sorted(steps, key=lambda s: s.id)),
        barriers=tuple(barriers),
        nodes={
            n: PlanNode(name=n, platform="", address="", connection=Connection(), groups=("all", "g")[: 1 + (n > "n2")])
            for n in nodes
        },
        roles={r: PlanRole(name=r, digest="", rollout=rollout if r == "r1" else None) for r in roles},
        policy=Policy(limits=limits, retry=Retry(unreachable=1, failed=0, backoff_s=2.0)),
    )


ENDINGS = st.sampled_from([Status.CHANGED, Status.OK, Status.OK, Status.FAILED, Status.UNREACHABLE])


@settings(max_examples=300, deadline=None)
@given(plans(), st.data())
def test_random_runs_keep_every_promise(made, data):  # noqa: C901 - one run, watched from all sides
    """Every step ends; none starts before its needs; order and limits hold; skips name a failed root."""
    schedule = Schedule(made)
    steps = {s.id: s for s in made.steps}
    barriers = {b.id: b.needs for b in made.barriers}
    limits = made.policy.limits
    flying: dict[StepId, int] = {}
    batch_of: dict[StepId, Batch] = {}
    ended: dict[str, Status] = {}
    good: set[str] = set()

    def flat(names):
        return [s for n in names for s in barriers.get(n, (n,))]

    def note(outcome):
        assert outcome.step not in ended
        ended[outcome.step] = outcome.status
        if outcome.status.good:
            good.add(outcome.step)
        if outcome.status is Status.SKIPPED:
            assert ended[outcome.cause] in (Status.FAILED, Status.UNREACHABLE)

    now = 0.0
    for _ in range(10_000):
        decision = schedule.next(now)
        for outcome in decision.settled:
            note(outcome)
        for batch in decision.batches:
            assert batch.runs
            assert batch.executor == CARRY or len(batch.runs) <= limits.batch
            assert {steps[run.step].executor for run in batch.runs} == {batch.executor}
            for run in batch.runs:
                step = steps[run.step]
                assert run.step not in flying
                assert run.step not in ended
                assert all(need in good for need in flat(step.needs))
                assert all(earlier in ended for earlier in flat(step.after))
                flying[run.step] = run.attempt
                batch_of[run.step] = batch
        assert len(flying) <= limits.steps
        assert len({batch_of[s].id for s in flying if batch_of[s].executor == PUSH}) <= limits.batches
        busy = Counter(steps[s].node for s in flying)
        assert all(n <= limits.per_node for n in busy.values())
        assert Counter(steps[s].role for s in flying)["r0"] <= limits.roles["r0"]
        assert Counter(g for s in flying for g in made.nodes[steps[s].node].groups)["g"] <= limits.groups["g"]
        if schedule.done:
            break
        if not flying:
            assert schedule.wake_at() is not None, "stuck"
            now = max(now, schedule.wake_at())
            continue
        step = data.draw(st.sampled_from(sorted(flying)))
        outcome = Outcome(step=step, status=data.draw(ENDINGS), attempt=flying.pop(step))
        verdict = schedule.verdict(outcome)
        if verdict.final:
            note(outcome)
        for skip in schedule.record(verdict, now):
            note(skip)
        now += 1.0
    assert set(ended) == set(steps)
    assert schedule.done


@settings(max_examples=100, deadline=None)
@given(plans(), st.data())
def test_a_resumed_run_ends_like_an_unbroken_one(made, data):
    """Stop anywhere, start again from the committed outcomes: every step ends once, none that finished runs again."""
    calm = replace(made, roles={n: replace(r, rollout=None) for n, r in made.roles.items()})
    fate = {s.id: data.draw(st.sampled_from([Status.CHANGED, Status.CHANGED, Status.FAILED])) for s in calm.steps}
    committed: list[Outcome] = []
    runs: Counter[str] = Counter()
    for part in range(3):
        schedule = Schedule(calm, finished=committed, prefix=f"{part}-")
        budget = data.draw(st.integers(0, 20)) if part < 2 else 10_000
        while budget and not schedule.done:
            decision = schedule.next(0.0)
            committed += decision.settled
            for batch in decision.batches:
                for run in batch.runs:
                    if not budget:
                        continue
                    budget -= 1
                    runs[run.step] += 1
                    verdict = schedule.verdict(Outcome(step=run.step, status=fate[run.step]))
                    committed += [verdict.outcome, *schedule.record(verdict, 0.0)]
    assert sorted(o.step for o in committed) == sorted(s.id for s in calm.steps)
    assert max(runs.values(), default=0) <= 1
