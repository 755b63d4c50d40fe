"""The site's lock: a file on SQLite, an advisory lock on PostgreSQL, the same to its users."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from orchestrator.errors import LockedError, StoreError
from orchestrator.store import SiteLock, Store

AT = 1_750_000_000.0  # 2025-06-15T15:06:40Z


def _hold(url: str, held: Event, release: Event) -> None:
    with Store.open(url) as store, store.lock("lab", command="halligan apply lab", at=AT):
        held.set()
        release.wait()


def _ask(url: str, asking: Event) -> None:
    with Store.open(url) as store:
        while True:
            store.holder("lab")
            asking.set()


@pytest.fixture
def holder(store: Store, store_url: str, processes: ForkServerContext) -> Iterator[BaseProcess]:
    """Another process that holds the lock until the test is over."""
    held, release = processes.Event(), processes.Event()
    process = processes.Process(target=_hold, args=(store_url, held, release))
    process.start()
    assert held.wait(60)
    yield process
    if process.is_alive():
        release.set()
        process.join(60)
        assert process.exitcode == 0
        assert store.holder("lab") is None


def test_second_holder_is_told_who_is_at_work(store: Store, holder: BaseProcess) -> None:
    with pytest.raises(LockedError) as caught, store.lock("lab", command="halligan apply lab", at=AT):
        pass
    assert caught.value.summary.startswith("site lab is locked by ")
    assert f"@{socket.gethostname()} (pid {holder.pid}, `halligan apply lab`)" in caught.value.summary
    assert caught.value.summary.endswith("since 2025-06-15T15:06:40Z")
    assert caught.value.hint
    told = store.holder("lab")
    assert told is not None
    assert (told.pid, told.command) == (holder.pid, "halligan apply lab")


def test_lock_is_free_after_its_holder_was_killed(store: Store, holder: BaseProcess) -> None:
    holder.kill()
    holder.join()
    with store.lock("lab", command="halligan apply --resume lab", at=AT):
        told = store.holder("lab")
        assert told is not None
        assert told.pid == os.getpid()


def test_lock_can_be_taken_again_after_use_and_after_a_failure(store: Store) -> None:
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), store.lock("lab", command="x", at=AT):
            raise ZeroDivisionError
    assert store.holder("lab") is None


def test_same_process_does_not_lock_twice(store: Store) -> None:
    with (
        store.lock("lab", command="x", at=AT),
        pytest.raises(LockedError, match=f"pid {os.getpid()}"),
        store.lock("lab", command="y", at=AT),
    ):
        pass


def test_asking_who_holds_it_never_gets_in_the_way(store: Store, store_url: str, processes: ForkServerContext) -> None:
    """`halligan status` in a loop must not make an apply fail."""
    asking = processes.Event()
    process = processes.Process(target=_ask, args=(store_url, asking))
    process.start()
    try:
        assert asking.wait(60)
        for _ in range(100):
            with store.lock("lab", command="x", at=AT):
                pass
    finally:
        process.kill()
        process.join()


def test_sites_of_one_server_do_not_meet(postgres: str, request: pytest.FixtureRequest) -> None:
    with (
        Store.open(postgres) as store,
        store.lock("lyon", command="x", at=AT),
        store.lock("paris", command="y", at=AT),
    ):
        assert store.holder("lyon") != store.holder("paris")
        assert store.holder("rome") is None


def test_lost_connection_ends_the_lock_quietly(postgres: str) -> None:
    with Store.open(postgres) as store, store.lock("lab", command="x", at=AT):
        with store._database.engine.connect() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted",
            )
        assert store.holder("lab") is None


# --- the file -----------------------------------------------------------------------------------------------------


def test_lock_file_says_who_holds_it_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "site" / "lock"
    with SiteLock(path, site="lab", command="halligan apply lab", at=AT):
        assert json.loads(path.read_text())["pid"] == os.getpid()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == ""


def test_children_do_not_inherit_the_lock(tmp_path: Path) -> None:
    """An executor's process that outlives us must not keep the site locked."""
    path = tmp_path / "lock"
    with SiteLock(path, site="lab", command="x", at=AT):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with SiteLock(path, site="lab", command="y", at=AT):
            pass
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("content", ["", "no json", "[]", '{"user": "x"}'])
def test_holder_that_did_not_say_its_name_still_holds(tmp_path: Path, content: str) -> None:
    path = tmp_path / "lock"
    with SiteLock(path, site="lab", command="x", at=AT):
        path.write_text(content)
        with (
            pytest.raises(LockedError, match="site lab is locked by another process"),
            SiteLock(path, site="lab", command="y", at=AT),
        ):
            pass


def test_place_that_cannot_be_locked_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StoreError, match="Cannot lock site lab"),
        SiteLock(tmp_path / "file" / "lock", site="lab", command="x", at=AT),
    ):
        pass


def test_lock_that_cannot_be_looked_at_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert SiteLock.holder(tmp_path / "lock") is None
    with pytest.raises(StoreError, match="Cannot see who holds the lock"):
        SiteLock.holder(tmp_path / "file" / "lock")
