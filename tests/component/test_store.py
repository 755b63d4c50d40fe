"""The store as the apply loop and the readers of other processes use it; the same on SQLite and PostgreSQL."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.synchronize import Event as Event_
from pathlib import Path

import pytest

from orchestrator.errors import StoreError
from orchestrator.fingerprint import digest_of, fingerprint
from orchestrator.model import (
    Action,
    Connection,
    Event,
    Outcome,
    PlanNode,
    Process,
    SecretRef,
    Snapshot,
    Status,
    Step,
    StepId,
)
from orchestrator.store import Run, RunStatus, StepLog, Store, kinds

PRINT = fingerprint("role-digest", "debian-12", {"port": 5000, "region": "lyon"})
DIGEST = digest_of(PRINT)
RUN = Run(id="r1", plan_id="p1", command="halligan apply lab", started=10.0, host="ctl", pid=42, steps=3)


def step(id_: str, action: Action = Action.CREATE) -> Step:
    role, _, node = id_.partition("@")
    return Step(id=StepId(id_), action=action, role=role, node=node, reasons=(), inputs={}, digest=DIGEST)


def started(id_: str, *, at: float = 20.0, run: str = "r1", batch: str = "b1", attempt: int = 1) -> Event:
    return kinds.step_started(step(id_), run=run, at=at, batch=batch, attempt=attempt, executor="fake")


def ended(
    id_: str,
    status: Status = Status.CHANGED,
    *,
    at: float = 30.0,
    action: Action = Action.CREATE,
    outputs: dict[str, object] | None = None,
    seconds: float = 2.0,
    problem: str = "",
    unrun: bool = False,
    node: PlanNode | None = None,
    run: str = "r1",
) -> Event:
    outcome = Outcome(
        step=StepId(id_), status=status, outputs=outputs or {}, problem=problem, seconds=seconds, unrun=unrun
    )
    return kinds.step_finished(step(id_, action), outcome, run=run, at=at, node=node)


def plan_node(name: str, address: str = "10.0.0.1") -> PlanNode:
    return PlanNode(
        name=name,
        platform="debian-12",
        address=address,
        connection=Connection(user="halligan"),
        groups=("all",),
        addresses={"mgmt": address},
    )


@pytest.fixture
def running(store: Store) -> Store:
    """A store in which run r1 of plan p1 has begun."""
    store.save_plan("p1", b"the plan")
    store.begin_run(RUN)
    return store


# --- a new store --------------------------------------------------------------------------------------------------


def test_new_store_knows_nothing(store: Store) -> None:
    assert store.snapshot() == Snapshot()
    assert (store.revision(), store.last_seq()) == (0, 0)
    assert list(store.events()) == []
    assert (store.runs(), store.last_run(), store.open_run()) == ([], None, None)
    assert store.check() == []


def test_content_outlives_the_process(running: Store, store_url: str) -> None:
    running.append([ended("web@n1")], fingerprints={DIGEST: PRINT})
    before = running.snapshot()
    running.close()
    with Store.open(store_url, create=False) as again:
        assert again.snapshot() == before
        assert again.check() == []


def test_opening_without_create_wants_a_store(store_url: str) -> None:
    with pytest.raises(StoreError, match="There is no store at"):
        Store.open(store_url, create=False)


def _open_and_append(url: str) -> None:
    with Store.open(url) as store:
        store.append([kinds.node_forgotten("n1", at=1.0)])


def test_eight_processes_make_the_same_store_at_once(store_url: str, processes: ForkServerContext) -> None:
    """Whoever comes second waits for the first and then uses its store."""
    openers = [processes.Process(target=_open_and_append, args=(store_url,)) for _ in range(8)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join()
    assert [opener.exitcode for opener in openers] == [0] * 8
    with Store.open(store_url, create=False) as store:
        assert store.last_seq() == 8
        assert store.check() == []


# --- append and the fold ------------------------------------------------------------------------------------------


def test_success_is_remembered_with_what_it_was_made_of(running: Store) -> None:
    revision = running.append(
        [ended("web@n1", outputs={"url": "http://n1"}, node=plan_node("n1"))], fingerprints={DIGEST: PRINT}
    )
    snapshot = running.snapshot()
    state = snapshot.placements[StepId("web@n1")]
    assert (state.role, state.node, state.status, state.digest) == ("web", "n1", Status.CHANGED, DIGEST)
    assert (state.outputs, state.at, state.seconds, state.run) == ({"url": "http://n1"}, 30.0, 2.0, "r1")
    assert snapshot.nodes["n1"].node == plan_node("n1")
    assert snapshot.fingerprints == {DIGEST: PRINT}
    assert snapshot.durations == {"web": 2.0}
    assert snapshot.revision == running.revision() == revision


def test_failure_keeps_the_last_good_fingerprint_and_outputs(running: Store) -> None:
    running.append([ended("web@n1", outputs={"url": "u"})], fingerprints={DIGEST: PRINT})
    running.append([ended("web@n1", Status.UNREACHABLE, at=40.0, problem="no route to host")])
    state = running.snapshot().placements[StepId("web@n1")]
    assert (state.status, state.digest, state.outputs, state.at) == (Status.UNREACHABLE, DIGEST, {"url": "u"}, 40.0)


def test_removed_placement_is_forgotten_and_its_fingerprint_not_told(running: Store) -> None:
    running.append([ended("web@n1"), ended("web@n2")], fingerprints={DIGEST: PRINT})
    running.append([ended("web@n1", action=Action.REMOVE), ended("web@n2", action=Action.REMOVE)])
    assert running.snapshot().placements == {}
    assert running.snapshot().fingerprints == {}
    assert running.check() == []


def test_late_no_op_keeps_what_the_last_real_run_gave(running: Store) -> None:
    running.append([ended("web@n1", outputs={"url": "u"}, seconds=9.0)], fingerprints={DIGEST: PRINT})
    running.append([ended("web@n1", Status.OK, at=50.0, seconds=0.0, unrun=True)])
    snapshot = running.snapshot()
    state = snapshot.placements[StepId("web@n1")]
    assert (state.status, state.outputs, state.seconds, state.at) == (Status.OK, {"url": "u"}, 9.0, 50.0)
    assert snapshot.durations == {"web": 9.0}


def test_a_check_notes_drift_until_it_is_gone(running: Store) -> None:
    """The first check that finds it counts; a later one that finds none, or a success, ends it."""
    running.append([ended("web@n1"), ended("web@n1", Status.CHANGED, action=Action.CHECK, at=60.0)])
    running.append([ended("web@n1", Status.CHANGED, action=Action.CHECK, at=61.0)])
    assert running.snapshot().placements[StepId("web@n1")].drifted_at == 60.0
    running.append([ended("web@n1", Status.OK, action=Action.CHECK, at=62.0)])
    assert running.snapshot().placements[StepId("web@n1")].drifted_at == 0.0
    running.append([ended("web@n1", Status.CHANGED, action=Action.CHECK, at=63.0), ended("web@n1", at=64.0)])
    assert running.snapshot().placements[StepId("web@n1")].drifted_at == 0.0


def test_check_and_skip_change_nothing_that_is_believed(running: Store) -> None:
    revision = running.append([ended("web@n1")], fingerprints={DIGEST: PRINT})
    before = running.snapshot()
    running.append(
        [
            ended("web@n1", Status.OK, action=Action.CHECK, at=60.0),
            ended("web@n2", Status.UNREACHABLE, action=Action.CHECK),
            kinds.step_skipped(step("app@n1"), run="r1", at=61.0, cause=StepId("web@n1"), reason="web@n1 failed"),
            kinds.check_finished(run="r1", at=62.0, checked=2, drift=[StepId("web@n1")]),
        ],
    )
    assert running.snapshot() == before
    assert running.revision() == revision
    assert running.check() == []


def test_start_of_a_step_makes_older_plans_stale(running: Store) -> None:
    """The host may have changed even if the outcome never came."""
    before = running.revision()
    assert running.append([started("web@n1")]) > before


def test_forgotten_node_takes_its_placements_along(running: Store) -> None:
    running.append(
        [ended("web@n1", node=plan_node("n1")), ended("db@n1"), ended("web@n2", node=plan_node("n2"))],
        fingerprints={DIGEST: PRINT},
    )
    running.append([kinds.node_forgotten("n1", at=70.0, reason="scrapped")])
    snapshot = running.snapshot()
    assert list(snapshot.placements) == ["web@n2"]
    assert list(snapshot.nodes) == ["n2"]
    assert running.check() == []


def test_node_record_is_kept_in_the_events_only_where_it_changes(running: Store) -> None:
    new = plan_node("n1", "10.0.0.2")
    running.append([ended("a@n1", node=plan_node("n1")), ended("b@n1", node=plan_node("n1"))])
    running.append([ended("c@n1", node=plan_node("n1")), ended("d@n1", node=new), ended("e@n1", node=new)])
    assert [e.step for e in running.events() if "node" in e.data] == ["a@n1", "d@n1"]
    assert running.snapshot().nodes["n1"].node == new


def test_unreachable_node_does_not_replace_the_connection_that_worked(running: Store) -> None:
    running.append([ended("a@n1", node=plan_node("n1"))])
    running.append([ended("a@n1", Status.UNREACHABLE, node=plan_node("n1", "10.9.9.9"))])
    assert running.snapshot().nodes["n1"].node == plan_node("n1")


def test_same_step_may_end_twice_in_one_append(running: Store) -> None:
    running.append(
        [ended("web@n1", outputs={"v": 1}), ended("web@n1", Status.FAILED, at=31.0)], fingerprints={DIGEST: PRINT}
    )
    state = running.snapshot().placements[StepId("web@n1")]
    assert (state.status, state.outputs, state.digest) == (Status.FAILED, {"v": 1}, DIGEST)
    assert running.check() == []


def test_large_append_is_one_transaction(running: Store) -> None:
    events = [ended(f"web@n{number:04}") for number in range(1200)]
    running.append(events, fingerprints={DIGEST: PRINT})
    running.append([ended(f"web@n{number:04}", Status.FAILED, at=31.0) for number in range(1200)])
    snapshot = running.snapshot()
    assert {state.digest for state in snapshot.placements.values()} == {DIGEST}
    assert list(snapshot.placements) == sorted(snapshot.placements)
    assert running.check() == []


@pytest.mark.parametrize(
    "bad",
    [
        Event(kind="step.finnished", at=1.0),
        Event(kind=kinds.STEP_FINISHED, at=1.0, step="web@n1", data={"status": "changed"}),
        kinds.run_finished("never-begun", RunStatus.FAILED, at=1.0),
        ended("web@n1", outputs={"password": SecretRef(file="vault.yml", key="k", fingerprint="f")}),
    ],
    ids=["unknown kind", "keys missing", "unknown run", "secret"],
)
def test_event_that_makes_no_sense_is_refused_with_all_that_came_along(running: Store, bad: Event) -> None:
    before = list(running.events())
    with pytest.raises((ValueError, KeyError, TypeError)):
        running.append([ended("web@n2"), bad])
    assert list(running.events()) == before
    assert running.snapshot().placements == {}


@pytest.mark.parametrize("text", ["", "línea\n", "nul \x00 nul", "half \udce4 byte", "\U0001f600" * 10_000, '"{}"'])
def test_any_text_comes_back_as_it_was(running: Store, text: str) -> None:
    log = StepLog(run="r1", step=StepId("web@n1"), node="n1", attempt=1, at=30.0, text=text)
    running.append([ended("web@n1", outputs={text: [text]}, problem=text)], logs=[log], fingerprints={DIGEST: PRINT})
    assert [entry.text for entry in running.log()] == [text]
    assert running.snapshot().placements[StepId("web@n1")].outputs == {text: [text]}
    assert running.finished("r1")[StepId("web@n1")].problem == text


# --- reading events and logs --------------------------------------------------------------------------------------


def test_events_are_numbered_from_one_without_gaps_and_filtered(running: Store) -> None:
    running.append([started("web@n1"), started("db@n2", run="r2"), ended("web@n1")], fingerprints={DIGEST: PRINT})
    assert [e.seq for e in running.events()] == [1, 2, 3, 4]
    assert [e.seq for e in running.events(after=2)] == [3, 4]
    assert [e.seq for e in running.events(run="r2")] == [3]
    assert [e.seq for e in running.events(node="n1")] == [2, 4]
    assert [e.seq for e in running.events(step="web@n1", limit=1)] == [2]
    assert [e.seq for e in running.events(kinds=[kinds.STEP_STARTED])] == [2, 3]
    assert [e.seq for e in running.events(limit=0)] == []


def test_follower_sees_each_event_once(running: Store, store_url: str) -> None:
    """Pages and new events interleave: a reader in another process goes on from the last number."""
    running.append([started(f"web@n{number}") for number in range(2500)])
    with Store.open(store_url) as follower:
        seen = []
        for event in follower.events():
            seen.append(event.seq)
            if event.seq == 1500:
                running.append([started("late@n1")])
        running.append([started("later@n1")])
        seen += [event.seq for event in follower.events(after=seen[-1])]
    assert seen == list(range(1, 2504))


def test_log_tells_the_newest_attempt_first(running: Store) -> None:
    def entry(id_: str, attempt: int, text: str, run: str = "r1") -> StepLog:
        return StepLog(run=run, step=StepId(id_), node=id_.partition("@")[2], attempt=attempt, at=30.0, text=text)

    running.append([], logs=[entry("web@n1", 1, "refused"), entry("db@n2", 1, "ok")])
    running.append([], logs=[entry("web@n1", 2, "fine"), entry("db@n1", 1, "old run", run="r0")])
    assert [log.text for log in running.log(step="web@n1")] == ["fine", "refused"]
    assert [log.text for log in running.log(node="n1")] == ["old run", "fine", "refused"]
    assert [log.text for log in running.log(run="r1", limit=2)] == ["fine", "ok"]
    assert next(running.log()).attempt == 1


# --- plans and runs -----------------------------------------------------------------------------------------------


def test_plan_comes_back_byte_for_byte(store: Store) -> None:
    document = bytes(range(256)) * 1000
    store.save_plan("p1", document)
    store.save_plan("p1", document)
    assert store.load_plan("p1") == document
    with pytest.raises(StoreError, match="There is no plan 'p2'"):
        store.load_plan("p2")


def test_run_begins_and_finishes(running: Store) -> None:
    assert running.open_run() == running.last_run() == RUN
    running.finish_run("r1", RunStatus.FAILED, at=99.0, counts={"changed": 2, "failed": 1})
    assert running.open_run() is None
    run = running.last_run()
    assert run is not None
    assert (run.status, run.finished, run.counts) == (RunStatus.FAILED, 99.0, {"changed": 2, "failed": 1})
    assert running.run("r1") == run
    assert running.check() == []


def test_resumed_run_is_open_again_and_keeps_its_start(running: Store) -> None:
    running.finish_run("r1", RunStatus.INTERRUPTED, at=50.0)
    running.begin_run(Run(id="r1", plan_id="p1", command="halligan apply --resume lab", started=60.0, pid=77))
    run = running.open_run()
    assert run is not None
    assert (run.id, run.started, run.finished, run.pid) == ("r1", 10.0, 0.0, 77)


def test_runs_are_listed_newest_first(running: Store) -> None:
    running.begin_run(Run(id="r2", started=20.0))
    assert [run.id for run in running.runs()] == ["r2", "r1"]
    assert [run.id for run in running.runs(limit=1)] == ["r2"]


def test_run_needs_its_plan_in_the_store(store: Store) -> None:
    with pytest.raises(StoreError, match="plan"):
        store.begin_run(RUN)
    assert list(store.events()) == []


def test_finishing_an_unknown_run_is_an_error(store: Store) -> None:
    with pytest.raises(StoreError, match="There is no run 'r9'"):
        store.finish_run("r9", RunStatus.FAILED, at=1.0)


def test_resume_learns_what_was_in_flight_and_what_is_done(running: Store) -> None:
    process = Process(batch="b1", pid=4711, start_time=19.5, folder="runs/r1/b1")
    running.append(
        [
            started("web@n1", at=20.0),
            started("web@n2", at=20.5),
            started("web@n3", at=21.0),
            kinds.batch_process(process, run="r1", at=21.0),
            ended("web@n1", outputs={"url": "u"}),
            kinds.step_retry(step("web@n3"), run="r1", at=31.0, attempt=1, problem="unreachable", wait_s=5.0),
            kinds.step_skipped(step("app@n1"), run="r1", at=32.0, cause=StepId("db@n1"), reason="db@n1 failed"),
            started("web@n9", run="another"),
        ],
        fingerprints={DIGEST: PRINT},
    )
    (flying,) = running.in_flight("r1")
    assert (flying.step, flying.node, flying.action, flying.batch) == ("web@n2", "n2", "create", "b1")
    assert (flying.attempt, flying.at, flying.executor, flying.process) == (1, 20.5, "fake", process)
    done = running.finished("r1")
    assert list(done) == ["web@n1", "app@n1"]
    assert done[StepId("web@n1")] == Outcome(
        step=StepId("web@n1"), status=Status.CHANGED, outputs={"url": "u"}, seconds=2.0
    )
    assert done[StepId("app@n1")].cause == "db@n1"


def test_step_that_starts_again_is_in_flight_and_not_done(running: Store) -> None:
    running.append([started("web@n1"), ended("web@n1", Status.FAILED), started("web@n1", attempt=2, batch="b2")])
    assert [(item.step, item.attempt, item.process) for item in running.in_flight("r1")] == [("web@n1", 2, None)]
    assert running.finished("r1") == {}


# --- several at once ----------------------------------------------------------------------------------------------


def test_two_writers_never_share_a_number(running: Store, store_url: str) -> None:
    other = Store.open(store_url)

    def write(store: Store, name: str) -> None:
        for number in range(40):
            store.append([started(f"{name}@n{number}"), ended(f"{name}@n{number}")], fingerprints={DIGEST: PRINT})

    threads = [threading.Thread(target=write, args=(s, n)) for s, n in ((running, "a"), (other, "b"), (running, "c"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    assert [event.seq for event in running.events()] == list(range(1, 242))
    assert len(running.snapshot().placements) == 120
    assert running.check() == []


def _write(url: str, ready: Event_, stop: Event_) -> None:
    with Store.open(url) as store:
        number = 0
        while not stop.is_set():
            number += 1
            pair = [ended(f"{role}@n{number}", outputs={"pair": number}) for role in ("a", "b")]
            store.append(pair, fingerprints={DIGEST: PRINT})
            if number == 5:
                ready.set()


def test_snapshot_in_another_process_is_never_half_of_an_append(
    store: Store, store_url: str, processes: ForkServerContext
) -> None:
    ready, stop = processes.Event(), processes.Event()
    writer = processes.Process(target=_write, args=(store_url, ready, stop))
    writer.start()
    try:
        assert ready.wait(60)
        for _ in range(30):
            snapshot = store.snapshot()
            placements = list(snapshot.placements.values())
            assert len(placements) == snapshot.revision  # two events and two placements per append
            assert sum(state.role == "a" for state in placements) * 2 == len(placements)
    finally:
        stop.set()
        writer.join(60)
    assert writer.exitcode == 0
    assert store.check() == []


# --- the files ----------------------------------------------------------------------------------------------------


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "site" / "state.db"
    with Store.open(path) as store:
        store.append([started("web@n1")])
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_store_survives_power_loss_by_its_settings(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state.db") as store, store._database.read() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


def test_sqlite_url_is_a_path(tmp_path: Path) -> None:
    Store.open(f"sqlite:///{tmp_path}/state.db").close()
    Store.open(tmp_path / "state.db", create=False).close()


def test_importing_the_store_does_not_load_sqlalchemy() -> None:
    """The command line starts in a fifth of a second, and sqlalchemy alone takes longer."""
    code = "import sys, orchestrator.store; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the integrity check ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("UPDATE placements SET status = 'ok' WHERE id = 'web@n1'", "placement web@n1 is stored as"),
        ("DELETE FROM placements WHERE id = 'web@n1'", "placement web@n1 is in the events, but not stored"),
        ("UPDATE placements SET outputs = '{'", "a row cannot be read: JSONDecodeError"),
        ("DELETE FROM nodes", "node n1 is in the events, but not stored"),
        ("UPDATE durations SET total_s = 1", "duration of role web is stored as"),
        ("UPDATE runs SET status = 'failed'", "run r1 is stored as"),
        ("UPDATE head SET revision = 1", "the revision is 1, the events say 3"),
        ("UPDATE head SET seq = 9", "the last event is 3, but the head says 9"),
        ("DELETE FROM events WHERE seq = 2", "event 2 is missing, the next is 3"),
        ("UPDATE events SET data = '{}' WHERE seq = 3", "the events cannot be folded: KeyError"),
        ("DELETE FROM fingerprints", f"fingerprint {DIGEST} of a placement is missing"),
        ("UPDATE fingerprints SET platform = 'windows'", f"fingerprint {DIGEST} does not match its digest"),
    ],
)
def test_check_tells_what_is_wrong(running: Store, damage: str, told: str) -> None:
    running.append([started("web@n1"), ended("web@n1", node=plan_node("n1"))], fingerprints={DIGEST: PRINT})
    assert running.check() == []
    with running._database.write() as connection:
        connection.exec_driver_sql(damage)
    assert any(line.startswith(told) for line in running.check()), running.check()


def test_check_finds_a_damaged_page(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with Store.open(path) as store:
        store.append([started(f"web@n{number}") for number in range(2000)])
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 512] = b"\xff" * 512
    path.write_bytes(content)
    with Store.open(path) as store:
        assert store.check() != []


def test_check_shows_only_the_first_of_many_differences(running: Store) -> None:
    running.append([ended(f"web@n{number:02}") for number in range(30)], fingerprints={DIGEST: PRINT})
    with running._database.write() as connection:
        connection.exec_driver_sql("DELETE FROM placements")
    assert running.check()[-1] == "... and 10 more of placement"


# --- what is no store ---------------------------------------------------------------------------------------------


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(StoreError) as caught:
        action()
    return str(caught.value)


def test_store_of_a_newer_version_is_refused(store_url: str) -> None:
    with Store.open(store_url) as store, store._database.write() as connection:
        connection.exec_driver_sql("UPDATE meta SET value = '7'")
    assert "was made by a newer Halligan (schema 7, this one knows 2)" in refusal(lambda: Store.open(store_url))


def test_text_file_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yml"
    path.write_text("spec: 1\n" * 1000)
    assert "it is not a Halligan store, nor any SQLite database" in refusal(lambda: Store.open(path))
    assert path.read_text() == "spec: 1\n" * 1000


def test_database_of_another_program_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE songs (name TEXT)")
    other.commit()
    other.close()
    assert "is a database, but not a Halligan store" in refusal(lambda: Store.open(path))


def test_meta_table_of_another_program_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE meta (name TEXT, value TEXT)")
    other.commit()
    other.close()
    assert "is a database, but not a Halligan store" in refusal(lambda: Store.open(path))


def test_cut_off_file_is_a_damaged_store(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with Store.open(path) as store:
        store.append([started(f"web@n{number}") for number in range(2000)])
    path.write_bytes(path.read_bytes()[:5000])
    text = refusal(lambda: Store.open(path).snapshot())
    assert f"the store {path}: the file is damaged" in text
    assert "Restore it from a backup" in text


def test_folder_is_no_store(tmp_path: Path) -> None:
    assert str(tmp_path) in refusal(lambda: Store.open(tmp_path))


def test_file_in_place_of_the_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "site").write_text("")
    assert "Cannot make the store" in refusal(lambda: Store.open(tmp_path / "site" / "state.db"))


def test_empty_file_becomes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.touch()
    with Store.open(path) as store:
        assert store.check() == []


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://root@db/halligan", "A store cannot live in 'mysql'"),
        ("://", "The address of the store is not a URL"),
        ("sqlite://", "A store is a file"),
        ("sqlite:///:memory:", "A store is a file"),
    ],
)
def test_other_addresses_are_refused(url: str, told: str) -> None:
    assert told in refusal(lambda: Store.open(url))


def test_unreachable_server_is_an_error_without_the_password(postgres: str, tmp_path: Path) -> None:
    url = f"postgresql://halligan:sesame@/postgres?host={tmp_path}"
    text = refusal(lambda: Store.open(url))
    assert "Cannot" in text
    assert "sesame" not in text
