"""Dispatch: batches go where their plan says, and nothing is made before it is needed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from orchestrator.executors.dispatch import Dispatch
from orchestrator.model import (
    CARRY,
    METAL,
    PUSH,
    Action,
    Batch,
    Connection,
    Outcome,
    PlanNode,
    PlanRole,
    Process,
    Status,
    StepId,
    StepRun,
)


@dataclass
class Recorder:
    """An executor that does nothing but remember."""

    name: str
    gather_s: float
    calls: list[tuple] = field(default_factory=list)

    def submit(self, batch, report):
        self.calls.append(("submit", batch.id))
        self.report = report

    def cancel(self, batch):
        self.calls.append(("cancel", batch))

    def recover(self, process, runs):
        self.calls.append(("recover", process.batch))
        return (outcome(runs[0]),)

    def close(self):
        self.calls.append(("close",))


def batch(name="b1", executor=PUSH, hosts=2):
    nodes = [PlanNode(name=f"n{n}", platform="debian-12", address="-", connection=Connection()) for n in range(hosts)]
    runs = tuple(StepRun(step=StepId(f"web@{node.name}"), node=node, inputs={}) for node in nodes)
    role = PlanRole(name="web", digest="d")
    return Batch(id=name, role=role, action=Action.CREATE, runs=runs, timeout_s=1.0, executor=executor)


def outcome(run):
    return Outcome(step=run.step, status=Status.OK, outputs={}, problem="", log="", seconds=0.0, attempt=run.attempt)


@pytest.fixture
def push():
    return Recorder(PUSH, 0.5)


@pytest.fixture
def carry():
    return Recorder(CARRY, 0.0)


def test_each_batch_goes_where_its_plan_says(push, carry):
    dispatch = Dispatch(push, {CARRY: lambda: carry})
    dispatch.submit(batch("b1"), print)
    dispatch.submit(batch("b2", CARRY), print)
    assert (push.calls, carry.calls) == ([("submit", "b1")], [("submit", "b2")])


def test_life_cycle_steps_are_recovered_by_metal_alone(push, carry):
    metal = Recorder(METAL, 0.0)
    runs = [replace(run, step=StepId(f"install@{run.node.name}")) for run in batch().runs]
    process = Process(batch="b1", pid=0, start_time=0.0, folder="")
    found = Dispatch(push, {CARRY: lambda: carry, METAL: lambda: metal}).recover(process, runs)
    assert [outcome.step for outcome in found] == ["install@n0"]
    assert (push.calls, carry.calls, metal.calls) == ([], [], [("recover", "b1")])


def test_the_second_executor_is_made_when_it_is_asked_for_and_once(push, carry):
    made = []
    dispatch = Dispatch(push, {CARRY: lambda: made.append(1) or carry})
    dispatch.submit(batch(), print)
    dispatch.cancel("b1")
    dispatch.close()
    assert made == []
    dispatch.submit(batch("b2", CARRY), print)
    dispatch.submit(batch("b3", CARRY), print)
    dispatch.cancel("b2")
    dispatch.close()
    assert made == [1]
    assert carry.calls[2:] == [("cancel", "b2"), ("close",)]


def test_it_gathers_as_long_as_whoever_has_work_would(push, carry):
    dispatch = Dispatch(push, {CARRY: lambda: carry})
    heard = []
    assert dispatch.gather_s == 0.0
    dispatch.submit(batch("b1", CARRY), heard.append)
    assert dispatch.gather_s == 0.0
    pushed = batch("b2")
    dispatch.submit(pushed, heard.append)
    assert dispatch.gather_s == 0.5
    push.report(Process(batch="b2", pid=1, start_time=0.0, folder=""))
    push.report(outcome(pushed.runs[0]))
    assert dispatch.gather_s == 0.5
    push.report(outcome(pushed.runs[1]))
    assert dispatch.gather_s == 0.0
    assert len(heard) == 3


def test_both_are_asked_what_a_dead_controller_left(push, carry):
    runs = batch().runs
    found = Dispatch(push, {CARRY: lambda: carry}).recover(Process(batch="b1", pid=0, start_time=0.0, folder=""), runs)
    assert (push.calls, carry.calls) == ([("recover", "b1")], [("recover", "b1")])
    assert len(found) == 2
    assert found[0] == replace(found[1])
