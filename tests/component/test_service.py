"""The use cases over real files: a site's folder, its roles, its store; only the hosts are scripted."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.folders import small_cluster, write, write_site
from support.stand import Recorder, good

from orchestrator import plan as plans
from orchestrator.errors import HalliganError, LockedError, ProblemsError, StalePlanError, StoreError
from orchestrator.executors.fake import FakeExecutor, Script
from orchestrator.model import Batch, Event, Status, StepId, StepRun
from orchestrator.plan import Selection
from orchestrator.service import Site, load_plan, open_site
from orchestrator.store import RunStatus, Store

EVERY = ["agent@kvm-01", "agent@kvm-02", "api@ctl-1", "base@ctl-1", "base@kvm-01", "base@kvm-02", "db@ctl-1"]


@dataclass
class Room:
    """A site on disk, and the executor that each of its runs got."""

    folder: Path
    script: Callable[[Batch, StepRun], Script] = good
    events: list[Event] = field(default_factory=list)
    executors: list[Recorder] = field(default_factory=list)

    def open(self) -> Site:
        def factory(_site, _run):
            self.executors.append(Recorder(FakeExecutor(self.script, self.folder / "effects")))
            return self.executors[-1]

        return open_site(str(self.folder), executor=factory)

    def apply(self, **options):
        site = self.open()
        return site.apply(site.plan(), on_event=self.events.append, **options)

    def break_off(self, after: int) -> None:
        """Leave a run as a kill would: its first commits are there, its end is not."""
        site = self.open()
        seen = 0

        def watch(event):
            nonlocal seen
            seen += event.kind == "step.finished"
            if seen == after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            site.apply(site.plan(), on_event=watch)

    def change(self, **sections) -> None:
        write(self.folder / "cluster.yml", {**small_cluster(), **sections})


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    return Room(write_site(tmp_path))


# --- looking ----------------------------------------------------------------------------------------------------------


def test_looking_at_a_site_that_was_never_applied_leaves_nothing_behind(room):
    site = room.open()
    before = sorted(room.folder.rglob("*"))
    assert sorted(site.load().placements) == EVERY
    assert len(site.plan().steps) == 7
    assert site.status().runs == ()
    assert list(site.events()) == []
    assert list(site.log()) == []
    assert site.check_store() == []
    assert site.settle() is None
    assert site.explain("api@ctl-1").planned
    assert sorted(room.folder.rglob("*")) == before


def test_problems_of_the_spec_and_of_the_roles_come_together(room):
    write(room.folder / "cluster.yml", {**small_cluster(), "nodez": {}})
    write(room.folder.parent.parent / "roles/api/meta/contract.yml", {"contract": 1, "requirs": []})
    with pytest.raises(ProblemsError) as caught:
        room.open().load()
    text = str(caught.value)
    assert "nodez" in text
    assert "requirs" in text
    assert "cluster.yml:" in text


def test_a_pattern_that_matches_nothing_is_most_likely_a_mistake(room):
    with pytest.raises(HalliganError, match=r'nothing is called agnet.*Did you mean "agent"'):
        room.open().plan(Selection(roles=("agnet",)))


def test_explain_tells_why_and_what_it_waits_for(room):
    found = room.open().explain("agent@kvm-01")
    assert found.planned.reasons == ("new node",)
    assert {(need.provider, need.pending) for need in found.needs} == {("base@kvm-01", True), ("api@ctl-1", True)}
    assert found.wave == 4
    room.apply()
    settled = room.open().explain("agent@kvm-01")
    assert settled.planned is None
    assert settled.state.status is Status.CHANGED
    assert not any(need.pending for need in settled.needs)
    with pytest.raises(HalliganError, match='Did you mean "agent@kvm-01"'):
        room.open().explain("agent@kvm-1")


# --- applying ---------------------------------------------------------------------------------------------------------


def test_apply_then_the_second_plan_is_empty_and_everything_is_on_record(room):
    result = room.apply()
    assert result.status is RunStatus.SUCCEEDED
    site = room.open()
    assert site.plan().steps == ()
    status = site.status()
    assert [run.status for run in status.runs] == [RunStatus.SUCCEEDED]
    assert sorted(status.snapshot.placements) == EVERY
    assert status.holder is None
    assert next(e.kind for e in site.events()) == "run.started"
    assert [(e.kind, e.step) for e in room.events] == [(e.kind, e.step) for e in site.events()]
    assert site.check_store() == []
    assert {e.node for e in site.events(node="kvm-01")} == {"kvm-01"}


def test_the_site_can_be_moved_and_its_runs_are_private(room):
    room.apply()
    assert (room.folder / ".halligan").stat().st_mode & 0o077 == 0


def test_a_plan_file_is_the_plan(room, tmp_path):
    site = room.open()
    made = site.plan()
    path = tmp_path / "plan.json"
    path.write_bytes(plans.dump(made))
    assert load_plan(str(path)) == made
    assert site.apply(load_plan(str(path)), on_event=room.events.append).status is RunStatus.SUCCEEDED


def test_a_selection_brings_what_it_needs_and_nothing_else(room):
    site = room.open()
    made = site.plan(Selection(nodes=("kvm-01",)))
    assert [s.id for s in made.steps] == ["agent@kvm-01", "api@ctl-1", "base@ctl-1", "base@kvm-01", "db@ctl-1"]
    site.apply(made, on_event=room.events.append)
    assert [s.id for s in site.plan().steps] == ["agent@kvm-02", "base@kvm-02"]


def test_a_changed_group_variable_plans_the_placements_it_reaches(room):
    room.apply()
    write(room.folder / "group_vars/compute.yml", {"agent_size": 5, "unrelated": 1})
    made = room.open().plan()
    assert {s.id: s.reasons for s in made.steps} == dict.fromkeys(
        ("agent@kvm-01", "agent@kvm-02"), ("input agent_size newly set",)
    )


def test_check_reports_drift_and_a_second_plan_repairs_it(room):
    room.apply()
    room.script = lambda batch, run: Script(status=Status.CHANGED if run.step == "base@kvm-01" else Status.OK)
    site = room.open()
    checked = site.apply(site.plan(check=True), on_event=room.events.append, command="check", check=True)
    assert [o.step for o in checked.drift] == ["base@kvm-01"]
    assert all(batch.check for batch in room.executors[-1].batches)
    assert [s.id for s in room.open().plan().steps] == ["base@kvm-01"]
    assert room.apply().counts == {Status.CHANGED: 1}
    assert room.open().plan().steps == ()


# --- what apply refuses -----------------------------------------------------------------------------------------------


def refused(room, made, error, **options):
    with pytest.raises(error) as caught:
        room.open().apply(made, on_event=room.events.append, **options)
    assert not (room.executors and room.executors[-1].batches)
    return str(caught.value)


def test_a_locked_store_says_who_holds_it(room):
    site = room.open()
    made = site.plan()
    messages = []

    def second(event):
        if event.kind == "run.started":
            with pytest.raises(LockedError) as caught:
                room.open().apply(made, on_event=room.events.append)
            messages.append(str(caught.value))
            assert room.open().status().holder.command == "halligan apply"

    assert site.apply(made, on_event=second).status is RunStatus.SUCCEEDED
    assert "site room is locked by" in messages[0]
    assert "halligan apply" in messages[0]


def test_a_plan_for_an_older_revision_is_stale(room):
    old = room.open().plan()
    room.apply()
    room.executors.clear()
    assert "which is at revision" in refused(room, old, StalePlanError)


def test_a_plan_made_for_other_role_files_is_stale(room):
    made = room.open().plan()
    tasks = room.folder.parent.parent / "roles/api/tasks/main.yml"
    tasks.write_text(tasks.read_text() + "# another\n")
    assert "files of role api changed" in refused(room, made, StalePlanError)


def test_a_plan_for_another_site_is_refused(room, tmp_path):
    other = Room(write_site(tmp_path / "elsewhere", name="attic"))
    assert "is for site attic, not for room" in refused(room, other.open().plan(), StalePlanError)


def test_a_truncated_plan_file_is_refused(room, tmp_path):
    document = plans.dump(room.open().plan())
    for name, content in {
        "cut": document[:-200],
        "edited": document.replace(b"kvm-01", b"kvm-03"),
        "empty": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StalePlanError, match=name):
            load_plan(str(tmp_path / name))
    with pytest.raises(HalliganError, match="No such file"):
        load_plan(str(tmp_path / "missing"))


def without_the_database(room):
    """Take db and api off: the agents have no provider then, so they go, too."""
    groups = {"linux": {"roles": ["base"], "children": ["controller", "compute"]}, "controller": {}, "compute": {}}
    room.change(groups=groups)
    return room.open().plan()


def test_destruction_wants_consent_by_name(room):
    room.apply()
    room.executors.clear()
    made = without_the_database(room)
    told = refused(room, made, ProblemsError)
    assert "1 step would destroy data without your consent" in told
    assert "db@ctl-1: Every database." in told
    assert refused(room, made, ProblemsError, consent=("api@*",))
    assert room.open().apply(made, on_event=room.events.append, consent=("db",)).status is RunStatus.SUCCEEDED
    assert sorted(room.open().snapshot().placements) == [s for s in EVERY if s.startswith("base")]


def test_consumers_are_removed_before_their_providers(room):
    room.apply()
    without = without_the_database(room)
    by_id = {step.id: step for step in without.steps}
    assert by_id[StepId("db@ctl-1")].after == ("removed<api",)
    assert by_id[StepId("api@ctl-1")].after == ("removed<agent",)


def test_the_blast_radius_is_a_limit_no_consent_lifts(room):
    room.change(policy={"blast_radius": {"change": 1}})
    told = refused(room, room.open().plan(), ProblemsError, consent=("*",))
    assert "would change 3 of 3 nodes (ctl-1, kvm-[01:02])" in told
    assert "policy.blast_radius.change allows 1" in told


def test_a_store_of_a_newer_halligan_is_not_touched(room):
    room.apply()
    room.executors.clear()
    path = room.folder / ".halligan/state.db"
    with sqlite3.connect(path) as database:
        database.execute("UPDATE meta SET value = '99'")
    database.close()
    for use in (Site.status, Site.plan, Site.check_store):
        with pytest.raises(StoreError, match="made by a newer Halligan"):
            use(room.open())


# --- after a crash ----------------------------------------------------------------------------------------------------


def test_resume_goes_on_where_the_run_broke_off(room):
    room.break_off(after=3)
    done = {e.step for e in room.open().events() if e.kind == "step.finished"}
    assert room.open().status().runs[0].status is RunStatus.RUNNING
    result = room.open().resume(on_event=room.events.append)
    assert result.status is RunStatus.SUCCEEDED
    assert not done & set(room.executors[-1].steps)
    assert room.open().plan().steps == ()
    assert len(room.open().status().runs) == 1
    assert room.open().check_store() == []


def test_apply_refuses_over_an_interrupted_run_and_says_what_to_do(room):
    room.break_off(after=1)
    room.executors.clear()
    told = refused(room, room.open().plan(), HalliganError)
    assert "was interrupted" in told
    assert "--resume" in told


def test_settling_closes_the_run_and_keeps_what_it_reached(room):
    room.break_off(after=3)
    settled = room.open().settle()
    assert settled is not None
    site = room.open()
    assert site.status().runs[0].status is RunStatus.INTERRUPTED
    assert len(site.plan().steps) == 7 - len(site.snapshot().placements)
    assert room.apply().status is RunStatus.SUCCEEDED
    ends = [line.split()[1] for line in (room.folder / "effects").read_text().splitlines() if line.startswith("end")]
    assert sorted(ends) == EVERY
    assert room.open().check_store() == []


def test_a_resumed_run_grants_no_further_tries(room):
    """The policy's two further tries of an unreachable host are two, however often the controller dies."""
    room.change(policy={"retry": {"unreachable": 2, "backoff": 0.001}})
    tries: list[int] = []

    def lost(batch: Batch, run: StepRun) -> Script:
        if run.step == "db@ctl-1":
            tries.append(run.attempt)
            return Script(status=Status.UNREACHABLE, problem="no route to host")
        return good(batch, run)

    def dies(event: Event) -> None:
        if event.kind == "step.retry" and event.data["attempt"] == 2:
            raise KeyboardInterrupt

    room.script = lost
    site = room.open()
    with pytest.raises(KeyboardInterrupt):
        site.apply(site.plan(), on_event=dies)
    assert room.open().resume(on_event=room.events.append).status is RunStatus.FAILED
    assert tries == [1, 2, 3]


def test_there_is_nothing_to_resume_after_a_success(room):
    with pytest.raises(HalliganError, match="has never been applied"):
        room.open().resume(on_event=room.events.append)
    room.apply()
    with pytest.raises(HalliganError, match=r"no interrupted run: its last run, .*, succeeded"):
        room.open().resume(on_event=room.events.append)


def test_resume_refuses_roles_that_changed_meanwhile(room):
    room.break_off(after=3)
    write(room.folder.parent.parent / "roles/agent/tasks/more.yml", [])
    with pytest.raises(StalePlanError, match="files of role agent changed"):
        room.open().resume(on_event=room.events.append)


# --- forgetting -------------------------------------------------------------------------------------------------------


def test_a_forgotten_node_is_new_again(room):
    room.apply()
    room.open().forget("kvm-02")
    assert [(s.id, s.reasons) for s in room.open().plan().steps] == [
        ("agent@kvm-02", ("new node",)),
        ("base@kvm-02", ("new node",)),
    ]
    with pytest.raises(HalliganError, match=r'nothing is recorded of a node kvm-1.*Did you mean "kvm-01"'):
        room.open().forget("kvm-1")


def test_a_plan_holds_no_absolute_path_of_the_site(room):
    """So that a plan made on one machine can be compared and applied on another."""
    document = json.loads(plans.dump(room.open().plan()))
    assert str(room.folder.parent.parent) not in json.dumps(document)


def test_the_store_can_live_elsewhere(room, tmp_path):
    state = tmp_path / "elsewhere" / "state.db"
    site = open_site(str(room.folder), state=str(state), executor=lambda *_: FakeExecutor(good))
    site.apply(site.plan(), on_event=room.events.append)
    with Store.open(state, create=False) as store:
        assert store.last_run().status is RunStatus.SUCCEEDED
    assert not (room.folder / ".halligan/state.db").exists()
