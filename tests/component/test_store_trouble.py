"""What must never cost an outcome: kill -9, a full disk, a read-only one, an interrupted creation or upgrade."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.synchronize import Barrier
from multiprocessing.synchronize import Event as Event_
from pathlib import Path

import pytest
import sqlalchemy

from orchestrator import lifecycle
from orchestrator.errors import StoreError
from orchestrator.model import Action, Event, Identity, Outcome, Status, Step, StepId
from orchestrator.store import StepLog, Store, kinds, schema

KILLS = 20


def ended(number: int, *, run: str = "r1", size: int = 1) -> Event:
    id_ = StepId(f"web@n{number:05}")
    step = Step(id=id_, action=Action.CREATE, role="web", node=f"n{number:05}", reasons=(), inputs={})
    outcome = Outcome(step=id_, status=Status.CHANGED, outputs={"text": "x" * size})
    return kinds.step_finished(step, outcome, run=run, at=float(number), digest="")


# --- kill -9 ------------------------------------------------------------------------------------------------------


def _append_for_ever(url: str, acknowledge: Connection) -> None:
    with Store.open(url) as store:
        number = store.last_seq()
        while True:
            events, logs = [], []
            for _ in range(1 + number % 7):
                number += 1
                events.append(ended(number))
                step, node = StepId(events[-1].step), events[-1].node
                logs.append(StepLog(run="r1", step=step, node=node, attempt=1, at=1.0, text=f"log {number}"))
            store.append(events, logs=logs)
            acknowledge.send(number)


def _all_of(connection: Connection) -> list[int]:
    """Return what another process sent until it was killed, maybe in the middle of a message."""
    found = []
    with suppress(EOFError, OSError):
        while True:
            found.append(connection.recv())
    return found


def test_everything_acknowledged_survives_kill_9(store_url: str, processes: ForkServerContext) -> None:
    chance = random.Random(11)
    for _ in range(KILLS):
        ours, theirs = processes.Pipe(duplex=False)
        process = processes.Process(target=_append_for_ever, args=(store_url, theirs))
        process.start()
        theirs.close()
        assert ours.poll(60)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.join()
        acknowledged = _all_of(ours)[-1]
        ours.close()
        with Store.open(store_url, create=False) as store:
            assert store.last_seq() >= acknowledged
            assert store.check() == []
            assert [event.at for event in store.events()] == list(range(1, store.last_seq() + 1))
            assert next(store.log()).text == f"log {store.last_seq()}"


def _open(url: str, ready: Event_) -> None:
    ready.set()
    Store.open(url).close()


def test_creation_killed_at_any_moment_leaves_a_store_or_none(
    new_url: Callable[[], str], processes: ForkServerContext
) -> None:
    chance = random.Random(5)
    made = 0
    for _ in range(KILLS):
        url, ready = new_url(), processes.Event()
        process = processes.Process(target=_open, args=(url, ready))
        process.start()
        assert ready.wait(60)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.join()
        made += "://" not in url and Path(url).exists()
        with Store.open(url) as store:
            store.append([ended(1)])
            assert store.check() == []
        if "://" not in url:
            assert not [file for file in Path(url).parent.iterdir() if file.name.startswith(".")]
    assert made < KILLS  # otherwise no kill came early enough to mean anything


# --- a full disk --------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no free byte."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                continue
    return filler


def test_full_disk_loses_nothing_and_says_where(small_disk: Path) -> None:
    path = small_disk / "site" / "state.db"
    with Store.open(path) as store:
        for number in range(1, 20):
            store.append([ended(number)])
        before, last = store.snapshot(), store.last_seq()
        filler = fill(small_disk)
        log = StepLog(
            run="r1", step=StepId("web@n99999"), node="n99999", attempt=1, at=1.0, text=os.urandom(40_000).hex()
        )

        def append_until_refused() -> None:
            nonlocal before, last
            for number in range(20, 2000):  # the journal may have room left from before
                store.append([ended(number, size=20_000)], logs=[log])
                before, last = store.snapshot(), store.last_seq()

        with pytest.raises(StoreError) as caught:
            append_until_refused()
        assert str(caught.value).startswith(f"Cannot write the store {path}: the disk is full (")
        assert " free)" in caught.value.summary
        assert caught.value.hint
        assert (store.snapshot(), store.last_seq()) == (before, last)
        assert store.check() == []
        filler.unlink()
        store.append([ended(5000)])
        assert store.last_seq() == last + 1
    with Store.open(path, create=False) as store:
        assert store.last_seq() == last + 1
        assert store.check() == []


def test_disk_that_fills_up_while_appending(small_disk: Path) -> None:
    path = small_disk / "state.db"
    acknowledged = 0

    def append_until_refused(store: Store) -> None:
        nonlocal acknowledged
        for number in range(1, 5000):
            store.append([ended(number, size=2000)])
            acknowledged = number

    with Store.open(path) as store, pytest.raises(StoreError, match="the disk is full"):
        append_until_refused(store)
    assert acknowledged > 10
    os.truncate(fill(small_disk), 0)
    with Store.open(path) as store:
        assert store.last_seq() == acknowledged
        assert store.check() == []


def test_full_disk_leaves_no_half_made_store(small_disk: Path) -> None:
    filler = fill(small_disk)
    path = small_disk / "state.db"
    with pytest.raises(StoreError, match="the disk is full"):
        Store.open(path)
    assert [file.name for file in small_disk.iterdir()] == ["filler"]
    filler.unlink()
    Store.open(path).close()


def test_full_disk_still_opens_to_look_or_says_why_not(small_disk: Path) -> None:
    path = small_disk / "state.db"
    with Store.open(path) as store:
        store.append([ended(1)])
    fill(small_disk)
    with pytest.raises(StoreError, match="the disk is full"), Store.open(path) as store:
        store.snapshot()


# --- a read-only disk ---------------------------------------------------------------------------------------------


def test_read_only_disk_is_named(small_disk: Path) -> None:
    path = small_disk / "state.db"
    with Store.open(path) as store:
        store.append([ended(1)])
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError) as caught, Store.open(path) as store:
        store.append([ended(2)])
    assert str(path) in str(caught.value)
    assert "mounted" in str(caught.value) or "mode" in str(caught.value)


def test_new_store_on_a_read_only_disk_is_refused(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match="Read-only file system"):
        Store.open(small_disk / "site" / "state.db")


# --- upgrades -----------------------------------------------------------------------------------------------------


def _add_colour(connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE nodes ADD COLUMN colour TEXT NOT NULL DEFAULT ''")


def _add_index(connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql("CREATE INDEX placements_run ON placements (run)")


def _break(connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE half (id INTEGER)")
    raise StoreError("the upgrade failed")


def version(store: Store) -> str:
    with store._database.read() as connection:
        return connection.exec_driver_sql("SELECT value FROM meta WHERE name = 'schema_version'").scalar_one()


@pytest.fixture
def old_url(store_url: str) -> str:
    """The address of a store that this version made."""
    with Store.open(store_url) as store:
        store.append([ended(1)])
    return store_url


def test_older_store_is_brought_up_to_date_step_by_step(old_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "UPGRADES", (_add_colour, _add_index))
    for _ in range(2):
        with Store.open(old_url, create=False) as store:
            assert version(store) == "3"
            assert len(store.snapshot().placements) == 1


def test_failed_upgrade_keeps_what_was_reached(old_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "UPGRADES", (_add_colour, _break))
    with pytest.raises(StoreError, match="the upgrade failed"):
        Store.open(old_url)
    monkeypatch.setattr(schema, "UPGRADES", (_add_colour,))
    with Store.open(old_url) as store, store._database.read() as connection:
        assert version(store) == "2"
        tables = {table for table in ("nodes", "half") if connection.dialect.has_table(connection, table)}
        assert tables == {"nodes"}


def _layout(store: Store) -> dict[str, set[str]]:
    """Return table -> its columns and indexes."""
    with store._database.read() as connection:
        inspected = sqlalchemy.inspect(connection)
        return {
            table: {column["name"] for column in inspected.get_columns(table)}
            | {str(index["name"]) for index in inspected.get_indexes(table)}
            for table in inspected.get_table_names()
        }


def test_a_store_of_version_1_becomes_like_a_new_one(old_url: str) -> None:
    """Version 2 added what is known of machines."""
    with Store.open(old_url) as store:
        wanted = _layout(store)
        with store._database.write() as connection:
            for table in ("machines", "machine_keys", "facts"):
                connection.exec_driver_sql(f"DROP TABLE {table}")
            connection.exec_driver_sql("UPDATE meta SET value = '1' WHERE name = 'schema_version'")
    with Store.open(old_url, create=False) as store:
        assert _layout(store) == wanted
        assert version(store) == "2"
        move = lifecycle.move(None, lifecycle.Signal.FACTS, machine="m-1", facts="f", identity=Identity(macs=("aa",)))
        store.append([kinds.machine_moved(move, at=1.0)], facts={"f": b"{}"})
        assert [machine.id for machine in store.machines_like(["mac:aa"])] == ["m-1"]
        assert store.check() == []


def _upgrade(url: str, ready: Barrier) -> None:
    schema.UPGRADES = tuple(
        lambda connection, n=n: connection.exec_driver_sql(f"ALTER TABLE nodes ADD COLUMN c{n} TEXT") for n in range(10)
    )
    ready.wait(60)
    Store.open(url).close()


def test_several_processes_upgrade_at_once(old_url: str, processes: ForkServerContext) -> None:
    ready = processes.Barrier(4)
    upgraders = [processes.Process(target=_upgrade, args=(old_url, ready)) for _ in range(4)]
    for upgrader in upgraders:
        upgrader.start()
    for upgrader in upgraders:
        upgrader.join()
    assert [upgrader.exitcode for upgrader in upgraders] == [0] * 4
    with pytest.raises(StoreError, match=r"made by a newer Halligan \(schema 11, this one knows 2\)"):
        Store.open(old_url)
