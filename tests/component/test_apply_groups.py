"""Limits of groups under failures and recoveries: no place may get lost, no step may start twice."""

from __future__ import annotations

from support.sites import catalog, role, site

from orchestrator import plan
from orchestrator.model import Limits, Outcome, Policy, Retry, Rollout, Share, Snapshot, Status, StepId
from orchestrator.schedule import Schedule
from orchestrator.topology import resolve


def started(schedule, now=0.0):
    return [run.step for batch in schedule.next(now).batches for run in batch.runs]


def end(schedule, step, status, now=0.0):
    return schedule.record(schedule.verdict(Outcome(step=StepId(step), status=status)), now)


def test_a_stopped_rollout_does_not_take_the_groups_free_place_with_it():
    """What waits for the group behind steps that are skipped must still start."""
    policy = Policy(
        limits=Limits(groups={"g": 1}),
        rollout={"a": Rollout(first=Share(percent=100.0), stop_after=1)},
    )
    nodes = {f"n{i}": ["g", "many"] for i in range(3)} | {"one": ["g", "few"]}
    spec = site({"g": [], "many": ["a"], "few": ["b"]}, nodes, policy=policy)
    schedule = Schedule(plan.make(resolve(spec, catalog(role("a"), role("b"))), Snapshot()))
    first = started(schedule)
    assert len(first) == 1
    end(schedule, first[0], Status.FAILED if first[0].startswith("a") else Status.CHANGED)
    for _ in range(5):
        for step in started(schedule):
            end(schedule, step, Status.FAILED if step.startswith("a") else Status.CHANGED)
    assert schedule.done
    assert schedule.outcomes["b@one"].status is Status.CHANGED


def test_a_recovered_step_that_is_tried_again_starts_once():
    policy = Policy(limits=Limits(per_node=2), retry=Retry(failed=1, backoff_s=1.0))
    schedule = Schedule(
        plan.make(resolve(site({"g": ["a"]}, {"n": ["g"]}, policy=policy), catalog(role("a"))), Snapshot())
    )
    end(schedule, "a@n", Status.FAILED)  # reached before the crash, seen by recover
    assert [started(schedule, now) for now in (0.0, 1.0, 2.0)] == [["a@n"], [], []]


def test_a_recovered_canary_holds_its_place_in_the_rollout():
    policy = Policy(rollout={"a": Rollout(first=Share(count=1), then=Share(count=1))})
    spec = site({"g": ["a"]}, {f"n{i}": ["g"] for i in range(5)}, policy=policy)
    schedule = Schedule(plan.make(resolve(spec, catalog(role("a"))), Snapshot()))
    end(schedule, "a@n0", Status.CHANGED)  # reached before the crash, seen by recover
    assert len(started(schedule)) == 1
