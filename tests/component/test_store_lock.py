"""The site's lock: a file on SQLite, an advisory lock on PostgreSQL, the same to its users."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import LockedError, StoreError
from orchestrator.store import SiteLock, Store

AT = 1_750_000_000.0  # 2025-06-15T15:06:40Z
HOLD = """
import sys
from orchestrator.store import Store
with Store.open(sys.argv[1]) as store, store.lock("lab", command="halligan apply lab", at=1750000000.0):
    print("held", flush=True)
    sys.stdin.readline()
"""


def hold(url: str) -> subprocess.Popen[str]:
    """Start another process and return when it holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=30)


def test_second_holder_is_told_who_is_at_work(store: Store, store_url: str) -> None:
    process = hold(store_url)
    try:
        with pytest.raises(LockedError) as caught, store.lock("lab", command="halligan apply lab", at=AT):
            pass
        assert "site lab is locked by " in str(caught.value)
        assert f"@{socket.gethostname()} (pid {process.pid}, `halligan apply lab`)" in caught.value.summary
        assert caught.value.summary.endswith("since 2025-06-15T15:06:40Z")
        assert caught.value.hint
        holder = store.holder("lab")
        assert holder is not None
        assert (holder.pid, holder.command) == (process.pid, "halligan apply lab")
    finally:
        end(process)
    assert store.holder("lab") is None


def test_lock_is_free_after_its_holder_was_killed(store: Store, store_url: str) -> None:
    process = hold(store_url)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with store.lock("lab", command="halligan apply --resume lab", at=AT):
        holder = store.holder("lab")
        assert holder is not None
        assert holder.pid == os.getpid()


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


def test_asking_who_holds_it_never_gets_in_the_way(store: Store, store_url: str) -> None:
    """`halligan status` in a loop must not make an apply fail."""
    code = (
        "import sys; from orchestrator.store import Store\n"
        "with Store.open(sys.argv[1]) as s:\n"
        "    print('asking', flush=True)\n"
        "    while True: s.holder('lab')"
    )
    asking = subprocess.Popen([sys.executable, "-c", code, store_url], stdout=subprocess.PIPE, text=True)
    try:
        assert asking.stdout is not None
        asking.stdout.readline()
        for _ in range(200):
            with store.lock("lab", command="x", at=AT):
                pass
    finally:
        asking.kill()
        asking.communicate()


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
