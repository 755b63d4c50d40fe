"""The measurements at tiny sizes: that they still run, and the figures that do not depend on the machine."""

from __future__ import annotations

import pytest

from orchestrator.model import Action, Limits, Status, Step, StepId
from tests.bench.__main__ import answers, measurements, metal_plans, storms
from tests.bench.compare import measure
from tests.bench.simulation import FAR, Virtual, dice, linear, twenty_roles
from tests.bench.tables import tables


def test_every_measurement_runs(tmp_path):
    rows = [str(row) for row in measurements((20,), tmp_path)]
    assert "first plan, 20 nodes x 10, range (227 steps)" in rows[0]
    assert any("nothing changed, full history (0 steps)" in row for row in rows)
    assert any("one role changed, full history (23 steps)" in row for row in rows)


def test_the_measurements_of_bare_metal_run(tmp_path):
    rows = [str(row) for row in (*storms(10, 1), *answers((10, 20), 5), *metal_plans((20,), tmp_path))]
    assert "10, 10; 0, 0; 0 | 10, 10; 0, 0; 0 |" in rows[0]  # all claimed, nothing asked again, the store intact
    assert any("30 of 30, 0 |" in row for row in rows) or "no DHCP" in rows[1]
    assert any("by MAC, nothing known (100 steps)" in row for row in rows)
    assert any("two rules, nothing known (20 steps)" in row for row in rows)  # to be discovered: more is not known yet
    assert sum("20 machines discovered (100 steps)" in row for row in rows) == 2


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_scheduler_keeps_the_slots_busy(seed):
    """Virtual time, so the same on every machine: at most a tenth above what no scheduler could beat."""
    result = Virtual(twenty_roles(200, 20, Limits(steps=40, batches=FAR)), dice(seed)).run()
    assert result.ratio <= 1.10
    assert result.counts == {Status.CHANGED: 4018}
    assert result.attempts > 4018  # some failed, and were tried again


def test_a_thousand_hosts_take_half_of_what_linear_takes():
    """1,000 hosts x 20 roles on 300 slots, carried: as good as can be, and what Ansible's order would take instead."""
    result = Virtual(twenty_roles(1000, 20, Limits(steps=300)), dice(1)).run()
    assert result.ratio <= 1.05
    assert result.linear_s / result.makespan_s >= 2.0
    assert result.lockstep_s >= result.linear_s


def test_linear_waits_for_the_slowest_host_of_each_role():
    steps = [
        Step(id=StepId(f"{role}@n{n}"), action=Action.CREATE, role=role, node=f"n{n}", reasons=(), inputs={})
        for role in ("one", "two")
        for n in range(4)
    ]
    worked = {step.id: 1.0 + 4.0 * (step.node == "n0") for step in steps}
    assert linear(steps, worked, 2) == 2 * 5.0  # the other fork does the three others meanwhile
    assert linear(steps, worked, 2, serial=True) == 2 * (5.0 + 1.0)
    assert linear(steps, worked, 4) == 2 * 5.0


def test_the_same_seed_gives_the_same_run():
    made = twenty_roles(20, 20, Limits(steps=10, batches=4))
    assert Virtual(made, dice(7)).run() == Virtual(made, dice(7)).run()


def test_no_host_bears_more_than_its_bound():
    """With more slots than hosts, the longest host is what is left to wait for."""
    made = twenty_roles(10, 20, Limits(steps=FAR, batches=FAR))
    walk = Virtual(made, dice(1))
    result = walk.run()
    longest = max(sum(walk.worked[s.id] for s in made.steps if s.node == node) for node in made.nodes)
    assert result.bound_s >= longest
    assert result.makespan_s <= longest * 1.25


@pytest.mark.parametrize("who", ["linear", "push"])
def test_the_comparison_counts_what_a_tool_does_on_hosts(who, tmp_path):
    found = dict(measure(who, 2, 6, tmp_path / "bench", ("first",)))["first"]
    assert found.changed == 2 * 5
    assert found.usage.connections == 2
    assert found.usage.sessions >= 2 * 6  # one at least for each task
    assert min(found.usage.controller_s, found.usage.hosts_s, found.usage.peak_mb) > 0
    *_, row = tables({(2, 6, "first", who): [found]})
    assert row.endswith(f" | 5 | `python -m tests.bench.compare {who} 2 6` |")
