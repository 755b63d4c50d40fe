"""The loop between scheduler, executor and store: the real store on disk, executors that are told what to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.sites import catalog, role, site, small_catalog, small_topology, with_digest
from support.stand import OUTPUTS, Held, Recorder, Stand, failing, good

from orchestrator.errors import StoreError
from orchestrator.executors.fake import FakeExecutor, Script
from orchestrator.model import (
    PUSH,
    Cardinality,
    Executors,
    Limits,
    Outcome,
    Policy,
    Retry,
    Rollout,
    Share,
    Status,
    StepId,
)
from orchestrator.plan import Selection, refusals
from orchestrator.store import RunStatus, Store
from orchestrator.topology import resolve

ROOT = Path(__file__).parents[2]
EVERY_STEP = ["agent@kvm-1", "agent@kvm-2", "api@ctl-1", "base@ctl-1", "base@kvm-1", "base@kvm-2", "db@ctl-1"]


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with Store.open(tmp_path / "state.db") as store:
        yield Stand(store)


# --- success ----------------------------------------------------------------------------------------------------------


def test_after_success_a_second_plan_is_empty(stand):
    result = stand.apply(stand.plan(small_topology(2)))
    assert result.status is RunStatus.SUCCEEDED
    assert result.counts == {Status.CHANGED: 7}
    again = stand.plan(small_topology(2))
    assert again.steps == ()
    assert again.unchanged == 7


def test_an_empty_plan_is_a_success_that_runs_nothing(stand):
    stand.apply(stand.plan(small_topology(2)))
    executor = Recorder(FakeExecutor(good))
    assert stand.apply(stand.plan(small_topology(2)), executor=executor).status is RunStatus.SUCCEEDED
    assert executor.batches == []


def test_outputs_travel_to_the_consumers_and_into_the_store(stand):
    executor = Recorder(FakeExecutor(good))
    stand.apply(stand.plan(small_topology(2)), executor=executor)
    assert executor.run_of("api@ctl-1").inputs["api_db"] == "10.0.0.1"
    assert executor.run_of("agent@kvm-2").inputs["agent_url"] == "http://10.0.0.1"
    assert stand.store.snapshot().placements[StepId("api@ctl-1")].outputs == OUTPUTS["api"]


def test_a_step_without_its_promised_output_fails_the_consumer_and_says_which(stand):
    result = stand.apply(stand.plan(small_topology(1)), lambda batch, run: Script())
    assert [o.step for o in result.failures] == ["api@ctl-1"]
    assert "waits for output db_host of db@ctl-1, which gave none" in result.failures[0].problem


def test_the_run_its_steps_and_their_order_are_in_the_store(stand):
    stand.apply(stand.plan(small_topology(1)))
    told = [(event.kind, event.step) for event in stand.store.events()]
    assert told[0] == ("run.started", "")
    assert told[-1] == ("run.finished", "")
    assert told[1:] == [(e.kind, e.step) for e in stand.events[:-1]] + told[-1:]
    assert stand.store.check() == []


def test_steps_of_one_role_share_a_batch(stand):
    executor = Recorder(FakeExecutor(good))
    stand.apply(stand.plan(small_topology(30)), executor=executor)
    assert max(len(b.runs) for b in executor.batches) == 31


# --- what changes -----------------------------------------------------------------------------------------------------


def test_a_changed_variable_plans_only_what_it_reaches(stand):
    stand.apply(stand.plan(small_topology(2)))
    changed = small_topology(2, node_vars={"kvm-2": {"agent_size": 9}})
    made = stand.plan(changed)
    assert [(s.id, s.reasons) for s in made.steps] == [("agent@kvm-2", ("input agent_size newly set",))]
    stand.apply(made)
    assert stand.plan(changed).steps == ()


def test_a_late_no_op_is_committed_without_running(stand):
    stand.apply(stand.plan(small_topology(2)))
    changed = small_topology(2, contracts=with_digest(small_catalog(), "db", "new"))
    executor = Recorder(FakeExecutor(good))
    result = stand.apply(stand.plan(changed), executor=executor)
    assert executor.steps == ["db@ctl-1"]
    assert result.counts == {Status.CHANGED: 1, Status.OK: 3}
    assert stand.plan(changed).steps == ()
    assert stand.store.check() == []


def test_a_changed_output_runs_its_consumers(stand):
    stand.apply(stand.plan(small_topology(1)))
    changed = small_topology(1, contracts=with_digest(small_catalog(), "db", "new"))
    executor = Recorder(
        FakeExecutor(lambda b, run: Script(outputs={"db_host": "10.9.9.9"}) if b.role.name == "db" else good(b, run))
    )
    stand.apply(stand.plan(changed), executor=executor)
    assert executor.steps == ["db@ctl-1", "api@ctl-1"]  # the api's url stays, so the agents are late no-ops
    assert executor.run_of("api@ctl-1").inputs["api_db"] == "10.9.9.9"


def test_a_node_gone_from_the_spec_is_removed_and_then_unknown(stand):
    contracts = small_catalog()
    contracts = {**contracts, "agent": replace(contracts["agent"], removable=True)}
    stand.apply(stand.plan(small_topology(2, contracts)))
    executor = Recorder(FakeExecutor(good))
    result = stand.apply(stand.plan(small_topology(1, contracts)), executor=executor)
    assert executor.steps == ["agent@kvm-2"]  # base has nothing to run for its removal
    assert result.status is RunStatus.SUCCEEDED
    assert not [p for p in stand.store.snapshot().placements.values() if p.node == "kvm-2"]
    assert stand.plan(small_topology(1, contracts)).steps == ()


# --- failure ----------------------------------------------------------------------------------------------------------


def test_a_failing_step_skips_what_needs_it_and_the_others_finish(stand):
    result = stand.apply(stand.plan(small_topology(2)), failing({"base@kvm-1": [Status.FAILED]}))
    assert result.status is RunStatus.FAILED
    assert [(o.step, o.problem) for o in result.failures] == [("base@kvm-1", "it broke")]
    assert result.skipped == {"base@kvm-1": 1}
    assert result.counts == {Status.CHANGED: 5, Status.FAILED: 1, Status.SKIPPED: 1}
    assert stand.status_of("agent@kvm-2") == "changed"


def test_after_a_failure_the_next_plan_has_what_is_left_and_heals(stand):
    stand.apply(stand.plan(small_topology(2)), failing({"api@ctl-1": [Status.FAILED]}))
    made = stand.plan(small_topology(2))
    assert [s.id for s in made.steps] == ["agent@kvm-1", "agent@kvm-2", "api@ctl-1"]
    assert made.steps[2].reasons[0] == "last run failed"
    assert stand.apply(made).status is RunStatus.SUCCEEDED
    assert stand.plan(small_topology(2)).steps == ()


def test_an_unreachable_host_is_tried_again_after_growing_pauses(stand):
    topology = small_topology(1, policy=Policy(retry=Retry(unreachable=3, backoff_s=0.001)))
    lost = failing({"base@kvm-1": [Status.UNREACHABLE, Status.UNREACHABLE, Status.CHANGED]})
    executor = Recorder(FakeExecutor(lost))
    result = stand.apply(stand.plan(topology), executor=executor)
    assert result.status is RunStatus.SUCCEEDED
    assert [r.attempt for b in executor.batches for r in b.runs if r.step == "base@kvm-1"] == [1, 2, 3]
    told = [(e.data["attempt"], e.data["wait_s"]) for e in stand.of_kind("step.retry")]
    assert told == [(1, 0.001), (2, 0.002)]


def test_when_the_tries_are_used_up_the_host_is_unreachable(stand):
    topology = small_topology(1, policy=Policy(retry=Retry(unreachable=1, backoff_s=0.001)))
    result = stand.apply(stand.plan(topology), failing({"base@kvm-1": [Status.UNREACHABLE]}, "no route to host"))
    assert [(o.status, o.attempt, o.problem) for o in result.failures] == [(Status.UNREACHABLE, 2, "no route to host")]
    assert stand.status_of("base@kvm-1") == "unreachable"


def test_a_rollout_stops_after_its_failures(stand):
    rollout = {"base": Rollout(first=Share(count=1), then=Share(count=2), stop_after=1)}
    fates = {f"base@kvm-{n}": [Status.FAILED] for n in range(1, 9)}
    result = stand.apply(stand.plan(small_topology(8, policy=Policy(rollout=rollout))), failing(fates))
    assert 1 <= len(result.failures) <= 2  # both of the share that was under way
    assert result.counts[Status.CHANGED] == 3  # the controller: base, db, api
    assert stand.store.check() == []


def test_a_cluster_keeps_its_majority_when_a_member_falls_and_until_it_is_back(stand):
    """The run stops short of a second member, the next plan is refused, and the way out that it names is open."""
    contracts = catalog(role("db", cardinality=Cardinality(quorum=True)))
    changed = with_digest(contracts, "db", "new")
    policy = Policy(rollout={"db": Rollout(first=Share(percent=100.0))}, retry=Retry(unreachable=0))
    cluster = site({"dbs": ["db"]}, {f"ctl-{n}": ["dbs"] for n in (1, 2, 3)}, policy=policy)
    stand.apply(stand.plan(resolve(cluster, contracts)))
    executor = Recorder(FakeExecutor(failing({"db@ctl-2": [Status.UNREACHABLE]})))
    result = stand.apply(stand.plan(resolve(cluster, changed)), executor=executor)
    assert [run.step for batch in executor.batches for run in batch.runs] == ["db@ctl-1", "db@ctl-2"]
    assert result.skipped == {"db@ctl-2": 1}
    (refused,) = refusals(stand.plan(resolve(cluster, changed)), ())
    assert "changes db@ctl-3 while db@ctl-2 is down" in refused.summary
    mended = stand.plan(resolve(cluster, changed), Selection(nodes=("ctl-2",), roles=("db",)))
    assert refusals(mended, ()) == ()
    assert stand.apply(mended).status is RunStatus.SUCCEEDED
    rest = stand.plan(resolve(cluster, changed))
    assert refusals(rest, ()) == ()
    assert stand.apply(rest).counts == {Status.CHANGED: 1}
    assert stand.store.check() == []


# --- limits -----------------------------------------------------------------------------------------------------------


class Peaks(list):  # type: ignore[type-arg]
    """Events, and the most of each kind that ever ran at once."""

    def __init__(self) -> None:
        self._batch_of: dict[str, str] = {}
        self.most: Counter[str] = Counter()

    def append(self, event):
        super().append(event)
        if event.kind == "step.started":
            self._batch_of[event.step] = event.data["batch"]
            for what, now in self._running().items():
                self.most[what] = max(self.most[what], now)
        elif event.kind in ("step.finished", "step.retry"):
            self._batch_of.pop(event.step, None)

    def _running(self):
        steps = list(self._batch_of)
        sizes = Counter(self._batch_of.values())
        return {
            "steps": len(steps),
            "batches": len(sizes),
            "batch": max(sizes.values()),
            "agent": sum(s.startswith("agent") for s in steps),
            "compute": sum("kvm" in s for s in steps),
        }


def test_never_more_runs_at_once_than_the_limits_allow(stand):
    limits = Limits(steps=5, batches=2, batch=3, roles={"agent": 2}, groups={"compute": 4})
    pushed = Executors(default=PUSH)  # batches are limited where each is a process of the controller
    made = stand.plan(small_topology(12, policy=Policy(limits=limits, executors=pushed)))
    stand.events = Peaks()
    result = stand.apply(made, lambda b, r: Script(seconds=0.002, outputs=good(b, r).outputs))
    assert result.status is RunStatus.SUCCEEDED
    assert stand.events.most == {"steps": 5, "batches": 2, "batch": 3, "agent": 2, "compute": 4}


def test_one_host_runs_one_step_at_a_time(stand):
    topology = resolve(
        site({"g": [f"r{n}" for n in range(6)]}, {"n": ["g"]}), catalog(*(role(f"r{n}") for n in range(6)))
    )
    stand.events = Peaks()
    assert stand.apply(stand.plan(topology)).status is RunStatus.SUCCEEDED
    assert stand.events.most["steps"] == 1


# --- commit before release --------------------------------------------------------------------------------------------


class OrderedStore:
    """A store that writes down what was committed, in one list with what was submitted."""

    def __init__(self, inner: Store, told: list[tuple[str, str]]) -> None:
        self._inner = inner
        self._told = told

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def append(self, events, **rest):
        revision = self._inner.append(events, **rest)
        self._told += [(event.kind, event.step) for event in events]
        return revision


def test_a_start_is_committed_before_it_happens_and_an_outcome_before_what_waits_for_it(stand):
    told: list[tuple[str, str]] = []
    executor = Recorder(FakeExecutor(good), lambda batch: told.extend(("submit", run.step) for run in batch.runs))
    made = stand.plan(small_topology(3))
    stand.apply(made, executor=executor, store=OrderedStore(stand.store, told))
    at = {what: place for place, what in enumerate(told)}
    barriers = {b.id: b.needs for b in made.barriers}
    for step in made.steps:
        assert at["step.started", step.id] < at["submit", step.id] < at["step.finished", step.id]
        for need in step.needs:
            for waited in barriers.get(need, (need,)):
                assert at["step.finished", waited] < at["step.started", step.id]


# --- a store that refuses ---------------------------------------------------------------------------------------------


class FullStore:
    """A store that takes so many commits and then finds its disk full."""

    def __init__(self, inner: Store, commits: int) -> None:
        self._inner = inner
        self._left = commits

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def append(self, events, **rest):
        if not self._left:
            raise StoreError("the disk is full")
        self._left -= 1
        return self._inner.append(events, **rest)


@pytest.mark.parametrize("commits", range(6))
def test_when_the_store_refuses_work_stops_and_a_resumed_run_loses_and_repeats_nothing(stand, commits, tmp_path):
    effects = tmp_path / "effects"
    made = stand.plan(small_topology(2))
    first = FakeExecutor(good, effects)
    with pytest.raises(StoreError, match="disk is full"):
        stand.apply(made, executor=first, store=FullStore(stand.store, commits))
    committed = {e.step for e in stand.store.events() if e.kind == "step.finished"}
    assert stand.run_status() is RunStatus.RUNNING
    assert stand.store.check() == []
    executor = Recorder(FakeExecutor(good))
    assert stand.resume(executor=executor).status is RunStatus.SUCCEEDED
    assert sorted({*executor.steps, *committed}) == EVERY_STEP
    assert not committed & set(executor.steps)
    assert stand.plan(small_topology(2)).steps == ()


def test_a_refused_commit_stops_what_runs(stand):
    def script(batch, run):
        return Script(seconds=0.0 if run.step == "base@ctl-1" else 3600.0)

    executor = Told(FakeExecutor(script))
    with pytest.raises(StoreError):
        stand.apply(stand.plan(small_topology(2)), executor=executor, store=FullStore(stand.store, 1))
    assert sorted(o.step for o in executor.outcomes if o.problem == "cancelled") == ["base@kvm-1", "base@kvm-2"]


class Told(Recorder):
    """Keeps what the executor reported."""

    def __init__(self, inner):
        super().__init__(inner)
        self.outcomes = []

    def submit(self, batch, report):
        def keep(item):
            if isinstance(item, Outcome):
                self.outcomes.append(item)
            report(item)

        super().submit(batch, keep)


# --- check mode -------------------------------------------------------------------------------------------------------


def test_a_check_reports_drift_and_believes_nothing_else(stand):
    stand.apply(stand.plan(small_topology(2)))
    before = stand.store.snapshot()
    drifted = {"base@kvm-1": Status.CHANGED, "db@ctl-1": Status.FAILED}
    executor = Recorder(FakeExecutor(lambda _, run: Script(status=drifted.get(run.step, Status.OK))))
    result = stand.apply(stand.check_plan(small_topology(2)), executor=executor, check=True)
    assert all(batch.check for batch in executor.batches)
    assert [o.step for o in result.drift] == ["base@kvm-1"]
    assert [o.step for o in result.failures] == ["db@ctl-1"]
    assert result.skipped == {}  # nothing waits for anything when nothing changes
    after = stand.store.snapshot()
    changed = [step for step, state in after.placements.items() if state != before.placements[step]]
    assert changed == ["base@kvm-1"]
    assert after.placements[StepId("base@kvm-1")].drifted_at
    assert [s.id for s in stand.plan(small_topology(2)).steps] == ["base@kvm-1"]


def test_an_interrupted_check_stays_a_check_when_it_goes_on(stand):
    """Never may `apply --resume` carry out for real what was only to be looked at."""
    stand.apply(stand.plan(small_topology(2)))
    made = stand.check_plan(small_topology(2))
    with pytest.raises(StoreError):
        stand.apply(made, store=FullStore(stand.store, 1), check=True)
    executor = Recorder(FakeExecutor(lambda *_: Script(status=Status.OK)))
    stand.resume(executor=executor)
    assert executor.batches
    assert all(batch.check for batch in executor.batches)


# --- signals ----------------------------------------------------------------------------------------------------------


class Child:
    """An apply in a process of its own, whose steps end when `release` is called."""

    def __init__(self, path: Path) -> None:
        env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
        command = [sys.executable, "-m", "support.held_apply", str(path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def until(self, wanted: str) -> list[str]:
        """Read what it says up to a line that starts with `wanted`."""
        lines = []
        for line in self._process.stdout:
            lines.append(line.strip())
            if line.startswith(wanted):
                return lines
        raise AssertionError(f"it ended without saying {wanted!r}: {lines}")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def release(self) -> None:
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> int:
        self._process.communicate(timeout=60)
        return self._process.returncode


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    started = Child(tmp_path / "state.db")
    yield started
    started._process.kill()
    started._process.communicate()


def test_the_first_ctrl_c_lets_what_runs_finish_and_starts_nothing(child, stand):
    child.until("step.started base@kvm-2")
    child.signal(signal.SIGINT)
    child.until("run.draining")
    child.release()
    assert child.until("result")[-1] == "result cancelled 4"
    assert child.end() == 0
    assert sorted(stand.store.snapshot().placements) == ["base@ctl-1", "base@kvm-1", "base@kvm-2"]
    assert stand.run_status() is RunStatus.CANCELLED
    assert stand.store.check() == []
    assert stand.apply(stand.plan(small_topology(2))).counts == {Status.CHANGED: 4}


@pytest.mark.parametrize("signals", [[signal.SIGINT, signal.SIGINT], [signal.SIGTERM]])
def test_the_second_ctrl_c_or_a_sigterm_stops_what_runs(child, stand, signals):
    child.until("step.started base@kvm-2")
    for number in signals:
        child.signal(number)
        child.until("run.")
    assert child.until("result")[-1].startswith("result cancelled")
    assert child.end() == 0
    assert {stand.status_of(f"base@{node}") for node in ("ctl-1", "kvm-1", "kvm-2")} == {"failed"}
    assert stand.store.check() == []
    assert stand.apply(stand.plan(small_topology(2))).counts == {Status.CHANGED: 7}


class Signalling(OrderedStore):
    """A store during whose commit of the first starts a signal comes in."""

    def append(self, events, **rest):
        if any(event.kind == "step.started" for event in events) and not self._told:
            os.kill(os.getpid(), signal.SIGTERM)
            self._told.append(("signal", ""))
        return super().append(events, **rest)


def test_a_signal_between_commit_and_start_still_stops_the_batch(stand):
    held = Held()
    result = stand.apply(stand.plan(small_topology(2)), executor=held, store=Signalling(stand.store, []))
    assert result.status is RunStatus.CANCELLED
    assert held.running == 0


def test_stopping_the_last_steps_is_a_cancelled_run_too(stand):
    """Nothing is left to start, but the user stopped it: not a failure of the hosts."""
    stand.apply(stand.plan(small_topology(0)))
    changed = small_topology(0, with_digest(small_catalog(), "base", "new"))
    result = stand.apply(stand.plan(changed), executor=Held(), store=Signalling(stand.store, []))
    assert result.left == 0
    assert result.status is RunStatus.CANCELLED


# --- outcomes that come together --------------------------------------------------------------------------------------


def test_where_a_batch_is_dear_hosts_that_end_one_by_one_go_on_together(stand):
    def script(batch, run):
        return Script(seconds=0.01 * int(run.node.name[-1]), outputs=good(batch, run).outputs)

    spec = site({"g": ["a", "b"]}, {f"n{i}": ["g"] for i in range(1, 6)})
    contracts = catalog(role("a", provides=["a"]), role("b", requires=["a/node"]))
    executor = Recorder(FakeExecutor(script))
    executor.gather_s = 5.0  # far longer than the hosts differ, however loaded the machine
    stand.apply(stand.plan(resolve(spec, contracts)), executor=executor)
    assert [(b.role.name, len(b.runs)) for b in executor.batches] == [("a", 5), ("b", 5)]
