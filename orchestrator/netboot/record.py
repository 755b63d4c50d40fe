"""Which boot service serves a site now: its record, and the lock that keeps a second one out."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.errors import LockedError
from orchestrator.processes import is_running, start_time

__all__ = ["RECORD", "Record", "held", "running"]

RECORD = "boot.json"
_LOCK = "boot.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A boot service that serves. `started` is in clock ticks since boot (`processes.start_time`), `since` in UTC s."""

    pid: int
    started: float
    since: float
    address: str
    http_port: int
    https_port: int
    dhcp: str

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """Return None where there is none, or none that is whole."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(asdict(self)) + "\n")
        partial.replace(path)


def running(state_dir: Path) -> Record | None:
    """Return the record of the boot service that serves this site now, None if none does."""
    record = Record.read(state_dir / RECORD)
    return record if record and is_running(record.pid, record.started) else None


@contextmanager
def held(state_dir: Path, site: str) -> Iterator[None]:
    """Be the site's only boot service; the kernel forgets it however we end. Raises LockedError if there is one."""
    handle = os.open(state_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.pread(handle, 32, 0).decode(errors="replace").strip()
            who = f" (pid {other})" if start_time(int(other) if other.isdecimal() else 0) else ""
            raise LockedError(
                f"a boot service of site {site} is running already{who}",
                hint="one is enough: it serves every apply of the site",
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)
