"""Fixtures for tests against real parts. `store_url` runs a test on SQLite and again on a PostgreSQL of its own."""

from __future__ import annotations

import importlib.util
import itertools
import multiprocessing
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from urllib.parse import quote

import pytest

from orchestrator.store import Store

_schemas = itertools.count(1)


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Start other processes without waiting for sqlalchemy each time, and without sharing anything with them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [f"orchestrator.store.{name}" for name in ("migrate", "reader", "writer", "advisory")]
    )
    return context


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Start a throw-away PostgreSQL that listens on a socket in its own folder only; return its URL."""
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed (extra `postgres`)")
    if os.geteuid() == 0 and subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode:
        pytest.skip("PostgreSQL refuses to run as root, and there is no user `postgres`")
    initdb, server = _program("initdb"), _program("pg_ctl")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # not tmp_path: its parents are closed to other users
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        _as_server([initdb, "-A", "trust", "-U", "halligan", "-E", "UTF8", "-D", folder / "data"])
        options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=50"
        _as_server([server, "-D", folder / "data", "-l", folder / "log", "-o", options, "-w", "start"])
        try:
            yield f"postgresql://halligan@/postgres?host={quote(str(folder))}"
        finally:
            _as_server([server, "-D", folder / "data", "-m", "immediate", "-w", "stop"])
    finally:
        shutil.rmtree(folder)


def _program(name: str) -> Path:
    found = [*Path("/usr/lib/postgresql").glob(f"*/bin/{name}")]
    if found:
        return max(found)
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (apt install postgresql)")
    return Path(path)


def _as_server(command: list[object]) -> None:
    user = "postgres" if os.geteuid() == 0 else None
    done = subprocess.run(
        [str(word) for word in command], user=user, cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a store that does not exist yet."""
    if request.param == "sqlite":
        return str(tmp_path / "site" / "state.db")
    return _fresh_schema(request.getfixturevalue("postgres"))


def _fresh_schema(server: str) -> str:
    import psycopg

    name = f"site{next(_schemas)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")  # type: ignore[arg-type]  # a name made here
    return f"{server}&options={quote(f'-csearch_path={name}')}"


@pytest.fixture
def new_url(store_url: str, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Return addresses of further stores, of the same kind as `store_url`."""
    if "://" in store_url:
        return lambda: _fresh_schema(request.getfixturevalue("postgres"))
    return lambda: str(tmp_path / f"more{next(_schemas)}" / "state.db")


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store.open(store_url) as opened:
        yield opened
