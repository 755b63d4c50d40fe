"""The tool of the role backup: what it keeps, what it refuses, what comes back."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import io
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import pytest

TOOL = Path(__file__).parents[3] / "roles/backup/files/halligan_backup.py"
NOW = datetime(2026, 11, 25, 2, 30, tzinfo=UTC)


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("halligan_backup", TOOL)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


tool = _load()


class FakeServer:
    """Databases as a name and their text; a dump of them looks as mariadb-dump's does."""

    def __init__(self, **databases: str) -> None:
        self.held = dict(databases)
        self.broken = False
        self.partial = False

    def databases(self) -> list[str]:
        return sorted(self.held)

    def tables(self, database: str) -> int:
        return len(self.held.get(database, ""))

    def drop(self, database: str) -> None:
        self.held.pop(database, None)

    @contextlib.contextmanager
    def dump(self, databases: Sequence[str]) -> Iterator[IO[bytes]]:
        text = "-- settings\nSET NAMES utf8mb4;\n"
        for round_ in ("table", "view"):
            for name in databases[: 1 if self.partial else None]:
                text += f"--\n-- Current Database: `{name}`\n--\n{round_} {self.held[name]}\n"
        yield io.BytesIO(text.encode())
        if self.broken:
            raise tool.BackupError("mariadb-dump ended with 3")

    def load(self, dump: Path) -> None:
        text = gzip.decompress(dump.read_bytes()).decode()
        assert text.startswith("-- settings\nSET NAMES utf8mb4;\n")
        name = dump.name.removesuffix(".sql.gz")
        self.held[name] = next(line for line in text.splitlines() if line.startswith("table ")).removeprefix("table ")


@pytest.fixture
def server() -> FakeServer:
    return FakeServer(keystone="users", glance="images")


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "root").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "image").write_text("bits")
    return {"folder": str(tmp_path / "root"), "databases": ["*"], "paths": [str(tmp_path / "store")], "keep": 2}


def make(config: dict[str, Any], server: FakeServer, days: int = 0) -> Path:
    return Path(tool.make(config, server, NOW + timedelta(days=days)))


def test_a_backup_has_everything_with_its_checksum(config: dict[str, Any], server: FakeServer) -> None:
    made = make(config, server)
    assert made.name == "20261125T023000Z"
    files = json.loads((made / "manifest.json").read_text())["files"]
    assert sorted(one.name for one in made.iterdir()) == sorted([*files, "manifest.json"])
    assert {one["database"] for one in files.values() if "database" in one} == {"keystone", "glance"}
    assert tool.verify(made) == 3
    text = gzip.decompress((made / "glance.sql.gz").read_bytes()).decode()
    assert "table images" in text
    assert "view images" in text
    assert "users" not in text


def test_the_oldest_go(config: dict[str, Any], server: FakeServer) -> None:
    for day in range(4):
        make(config, server, day)
    assert [one.name[:8] for one in tool.backups(Path(config["folder"]))] == ["20261127", "20261128"]


@pytest.mark.parametrize("flaw", ["broken", "partial", "folder"])
def test_a_backup_that_fails_leaves_nothing_and_drops_nothing(
    config: dict[str, Any], server: FakeServer, flaw: str
) -> None:
    kept = [make(config, server, day) for day in range(2)]
    if flaw == "folder":
        config["paths"] = ["/no/such/folder"]
    else:
        setattr(server, flaw, True)
    with pytest.raises(tool.BackupError):
        make(config, server, 3)
    assert sorted(Path(config["folder"]).iterdir()) == kept


def test_a_backup_that_was_cut_short_is_none_and_is_cleared_away(config: dict[str, Any], server: FakeServer) -> None:
    left = Path(config["folder"]) / "20261101T000000Z.partial"
    left.mkdir()
    assert tool.backups(Path(config["folder"])) == []
    make(config, server)
    assert not left.exists()


def test_a_database_and_a_folder_come_back(config: dict[str, Any], server: FakeServer) -> None:
    made = make(config, server)
    server.drop("keystone")
    image = Path(config["paths"][0]) / "image"
    image.unlink()
    tool.restore(made, server, ["keystone"], config["paths"])
    assert server.held["keystone"] == "users"
    assert image.read_text() == "bits"


def test_what_is_there_is_not_lost_without_a_word(config: dict[str, Any], server: FakeServer) -> None:
    made = make(config, server)
    server.held["keystone"] = "newer"
    for databases, paths in ((["keystone"], []), ([], config["paths"])):
        with pytest.raises(tool.BackupError, match="Give --replace"):
            tool.restore(made, server, databases, paths)
    assert server.held["keystone"] == "newer"
    tool.restore(made, server, ["keystone"], [], replace=True)
    assert server.held["keystone"] == "users"


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_backup_changes_nothing(config: dict[str, Any], server: FakeServer, damage: str) -> None:
    made = make(config, server)
    dump = made / "glance.sql.gz"
    if damage == "missing":
        dump.unlink()
    else:
        dump.write_bytes(dump.read_bytes()[:-1] + b"x")
    with pytest.raises(tool.BackupError, match=r"glance\.sql\.gz"):
        tool.restore(made, server, ["keystone"], [], replace=True)
    assert server.held["keystone"] == "users"


def test_what_a_backup_does_not_have_is_named(config: dict[str, Any], server: FakeServer) -> None:
    made = make(config, server)
    with pytest.raises(tool.BackupError, match="has no database nova; it has glance, keystone"):
        tool.restore(made, server, ["nova"], [])


@pytest.mark.parametrize(("name", "found"), [("latest", "20261126T023000Z"), ("20261125T023000Z", "20261125T023000Z")])
def test_a_backup_is_found_by_its_name(config: dict[str, Any], server: FakeServer, name: str, found: str) -> None:
    for day in range(2):
        make(config, server, day)
    assert tool.chosen(Path(config["folder"]), name).name == found
    with pytest.raises(tool.BackupError, match="there is no backup 2020"):
        tool.chosen(Path(config["folder"]), "2020")


def test_only_one_works_at_a_time(tmp_path: Path) -> None:
    with tool.alone(tmp_path), pytest.raises(tool.BackupError, match="another backup"), tool.alone(tmp_path):
        pass
