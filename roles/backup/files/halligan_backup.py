#!/usr/bin/python3
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Back databases and folders up, and restore them.

A backup is a folder named after its time, with one compressed dump per database, one archive per folder, and a manifest
with the checksum of each. All databases of a backup are of one moment: they come out of one transaction. A backup that
was not finished is none: its folder has another name and goes with the next run.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CONFIG = Path("/etc/halligan/backup.json")
MANIFEST = "manifest.json"
PARTIAL = ".partial"
NAME = re.compile(r"\d{8}T\d{6}Z")
DATABASE = re.compile(rb"-- Current Database: `(.+)`\s*$")
SYSTEM = ("information_schema", "performance_schema", "mysql", "sys")
DUMP = (
    "--single-transaction",
    "--quick",
    "--routines",
    "--events",
    "--triggers",
    "--hex-blob",
    "--default-character-set=utf8mb4",
    "--databases",
)
LEVEL = 3  # of gzip: dumps shrink to a tenth with it, at a third of the time of the usual 6
CHUNK = 1 << 20


class BackupError(Exception):
    """What went wrong, and what to do about it."""


class Client:
    """The command-line clients of MariaDB. The password is in a file that they read, never in a command line."""

    def __init__(self, options: str) -> None:
        self._options = options

    def databases(self) -> list[str]:
        answer = self.run(["--execute=SHOW DATABASES"])
        return [name for name in answer.splitlines() if name not in SYSTEM]

    def tables(self, database: str) -> int:
        """Return how many tables a database has; 0, too, when there is no such database."""
        if _known(database) not in self.databases():
            return 0
        return len(self.run([f"--execute=SHOW TABLES FROM `{database}`"]).splitlines())

    def drop(self, database: str) -> None:
        self.run([f"--execute=DROP DATABASE IF EXISTS `{_known(database)}`"])

    def run(self, words: Sequence[str]) -> str:
        command = ["mariadb", f"--defaults-file={self._options}", "--batch", "--skip-column-names", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BackupError(f"the database server refuses: {done.stderr.strip()}")
        return done.stdout.strip()

    @contextlib.contextmanager
    def dump(self, databases: Sequence[str]) -> Iterator[Iterable[bytes]]:
        """Give the text of a dump as it comes; raise BackupError at its end when it is not whole."""
        command = ["mariadb-dump", f"--defaults-file={self._options}", *DUMP, *databases]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            if process.stdout is None or process.stderr is None:
                raise BackupError("mariadb-dump has no output")
            yield process.stdout
            said = process.stderr.read().decode(errors="replace").strip()
        if process.returncode:
            raise BackupError(f"mariadb-dump ended with {process.returncode}: {said}")

    def load(self, dump: Path) -> None:
        """Feed a compressed dump to the server."""
        command = ["mariadb", f"--defaults-file={self._options}", "--default-character-set=utf8mb4"]
        with (
            subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process,
            gzip.open(dump) as text,
        ):
            if process.stdin is None or process.stderr is None:
                raise BackupError("mariadb has no input")
            with contextlib.suppress(BrokenPipeError):  # what it says on stderr is better than this
                shutil.copyfileobj(text, process.stdin, CHUNK)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            said = process.stderr.read().decode(errors="replace").strip()
        if process.returncode:
            raise BackupError(f"restoring {dump.name} failed: {said}")


def _known(database: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_$-]+", database):
        raise BackupError(f"{database!r} is no name of a database that this tool takes")
    return database


def split(dump: Iterable[bytes], folder: Path) -> list[str]:
    """Write a dump of several databases as one compressed file each; return their names.

    What stands before the first database are settings that each of the files needs.
    """
    files: dict[str, gzip.GzipFile] = {}
    settings: list[bytes] = []
    current: gzip.GzipFile | None = None
    with contextlib.ExitStack() as stack:
        for line in dump:
            if found := DATABASE.match(line):
                name = found[1].decode()
                if name not in files:  # views come in a second round
                    path = folder / f"{name}.sql.gz"
                    files[name] = stack.enter_context(gzip.open(path, "wb", compresslevel=LEVEL))
                    files[name].writelines(settings)
                current = files[name]
            if current is None:
                settings.append(line)
            else:
                current.write(line)
    return sorted(files)


def archive(source: Path, target: Path) -> None:
    """Pack a folder as it is now. A file that changes meanwhile does not matter: services write theirs once."""
    command = ["tar", "--create", "--gzip", f"--file={target}", "--numeric-owner", "--acls", "--xattrs"]
    command += [
        "--warning=no-file-changed",
        "--warning=no-file-removed",
        "--directory=/",
        "--",
        str(source).lstrip("/"),
    ]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode > 1:  # 1: a file changed or vanished while it was read
        raise BackupError(f"packing {source} failed: {done.stderr.strip()}")


def checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()


def backups(folder: Path) -> list[Path]:
    """Return the finished backups, the oldest first."""
    if not folder.is_dir():
        return []
    return sorted(one for one in folder.iterdir() if NAME.fullmatch(one.name) and (one / MANIFEST).is_file())


def chosen(folder: Path, name: str) -> Path:
    found = backups(folder)
    if name == "latest" and found:
        return found[-1]
    for one in found:
        if one.name == name:
            return one
    raise BackupError(f"there is no backup {name} in {folder}; `halligan-backup list` shows those there are")


def manifest_of(backup: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((backup / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise BackupError(f"the manifest of {backup.name} cannot be read: {error}") from error
    return manifest


def verify(backup: Path) -> int:
    """Compare every file with its checksum; return how many there are."""
    files = manifest_of(backup)["files"]
    for name, wanted in sorted(files.items()):
        path = backup / name
        if not path.is_file():
            raise BackupError(f"{backup.name} is damaged: {name} is missing. Take another backup")
        if checksum(path) != wanted["sha256"]:
            raise BackupError(f"{backup.name} is damaged: {name} does not match its checksum. Take another backup")
    return len(files)


def _databases(wanted: Sequence[str], client: Client, folder: Path) -> dict[str, dict[str, str]]:
    names = client.databases() if list(wanted) == ["*"] else wanted
    if not names:
        return {}
    with client.dump([_known(one) for one in names]) as dump:
        held = split(dump, folder)
    if missing := sorted(set(names) - set(held)):
        raise BackupError(f"the dump lacks {', '.join(missing)}")
    return {f"{one}.sql.gz": {"database": one} for one in held}


def _folders(sources: Sequence[str], folder: Path) -> dict[str, dict[str, str]]:
    files = {}
    for source in sources:
        if not Path(source).is_dir():
            raise BackupError(f"there is no folder {source}; correct backup_paths")
        name = f"{source.strip('/').replace('/', '-')}.tar.gz"
        archive(Path(source), folder / name)
        files[name] = {"path": source}
    return files


def make(config: Mapping[str, Any], client: Client, now: datetime) -> Path:
    """Make a backup and drop what is too many; return its folder."""
    root = Path(config["folder"])
    for left in root.glob(f"*{PARTIAL}"):
        shutil.rmtree(left)
    name = now.strftime("%Y%m%dT%H%M%SZ")
    partial = root / f"{name}{PARTIAL}"
    partial.mkdir(mode=0o700)
    try:
        files = {**_databases(config["databases"], client, partial), **_folders(config["paths"], partial)}
        for one, told in files.items():
            told["sha256"] = checksum(partial / one)
        manifest = {"made": now.isoformat(), "host": os.uname().nodename, "files": files}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        os.sync()
        partial.rename(root / name)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in backups(root)[: -int(config["keep"])]:
        shutil.rmtree(old)
    return root / name


def restore(
    backup: Path, client: Client, databases: Sequence[str], paths: Sequence[str], *, replace: bool = False
) -> list[str]:
    """Put databases and folders back as they were; return what was restored.

    Everything is looked at first: a backup that is damaged, or data that would be lost, ends it before any change.
    """
    files = manifest_of(backup)["files"]
    dumps = {told["database"]: name for name, told in files.items() if "database" in told}
    archives = {told["path"]: name for name, told in files.items() if "path" in told}
    for kind, asked, held in (("database", databases, dumps), ("folder", paths, archives)):
        if missing := [one for one in asked if one not in held]:
            have = ", ".join(sorted(held)) or "none"
            raise BackupError(f"{backup.name} has no {kind} {', '.join(missing)}; it has {have}")
    verify(backup)
    if not replace:
        full = [one for one in databases if client.tables(one)]
        full += [one for one in paths if Path(one).is_dir() and any(Path(one).iterdir())]
        if full:
            raise BackupError(
                f"{', '.join(full)} is there and not empty. Give --replace to put the backup in its place"
            )
    for one in databases:
        client.drop(one)
        client.load(backup / dumps[one])
    for one in paths:
        command = ["tar", "--extract", "--gzip", f"--file={backup / archives[one]}", "--same-owner", "--numeric-owner"]
        done = subprocess.run(
            [*command, "--acls", "--xattrs", "--directory=/"], stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise BackupError(f"unpacking {one} failed: {done.stderr.strip()}")
    return [*databases, *paths]


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold the lock of the folder: a backup and a restore at the same time would spoil each other."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError("another backup or restore is at work; wait for it") from None
        yield


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="halligan-backup", description="Back databases and folders up, and restore them."
    )
    commands = made.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="make a backup now")
    commands.add_parser("list", help="list the backups")
    one = commands.add_parser("verify", help="compare a backup with its checksums")
    one.add_argument("name", nargs="?", default="latest")
    one = commands.add_parser("restore", help="put databases and folders back")
    one.add_argument("name", help="name of a backup, or latest")
    one.add_argument("--database", action="append", default=[], metavar="NAME")
    one.add_argument("--path", action="append", default=[], metavar="FOLDER")
    one.add_argument("--replace", action="store_true", help="over what is there now")
    return made


def work(asked: argparse.Namespace) -> str:
    """Do what was asked for; return what to say about it."""
    config = json.loads(CONFIG.read_text())
    root, client = Path(config["folder"]), Client(config["client_options"])
    if asked.command == "list":
        return "\n".join(_line(one) for one in backups(root))
    with alone(root):
        if asked.command == "run":
            return f"made {make(config, client, datetime.now(UTC))}"
        one = chosen(root, asked.name)
        if asked.command == "verify":
            return f"{one.name}: {verify(one)} files match"
        if not asked.database and not asked.path:
            raise BackupError("say what to restore: --database NAME or --path FOLDER, as often as needed")
        return f"restored {', '.join(restore(one, client, asked.database, asked.path, replace=asked.replace))}"


def _line(backup: Path) -> str:
    files = manifest_of(backup)["files"]
    size = sum((backup / name).stat().st_size for name in files if (backup / name).exists())
    return f"{backup.name}  {size / CHUNK:8.1f} MB  {', '.join(sorted(files))}"


def main() -> int:
    try:
        sys.stdout.write(f"{work(parser().parse_args())}\n")
    except (BackupError, OSError) as error:
        sys.stderr.write(f"halligan-backup: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
