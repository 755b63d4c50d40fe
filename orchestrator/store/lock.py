"""The site's lock: one apply at a time, and whoever comes second is told who is at work."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol

from orchestrator.errors import LockedError, StoreError

__all__ = ["PAUSE_S", "TRIES", "Holder", "Lock", "SiteLock", "locked"]

TRIES = 20
PAUSE_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a lock, and for what. `since` is ISO 8601 in UTC."""

    user: str
    host: str
    pid: int
    command: str
    since: str

    @classmethod
    def this(cls, *, command: str, at: float) -> Holder:
        """This process, which starts `command` at UTC seconds `at`."""
        since = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return cls(user=_user(), host=socket.gethostname(), pid=os.getpid(), command=command, since=since)

    @classmethod
    def from_json(cls, text: str) -> Holder | None:
        """Return None for text that is no holder: empty, or not fully written yet."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        return f"{self.user}@{self.host} (pid {self.pid}, `{self.command}`) since {self.since}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


class Lock(Protocol):
    """A context manager that raises LockedError on entry when somebody else is inside."""

    def __enter__(self) -> Lock: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class SiteLock:
    """A lock on a file that says who holds it. The kernel releases it however the process ends; the file stays.

    Removing the file would let a third process lock a new one while a second holds the old.
    """

    def __init__(self, path: Path, *, site: str, command: str, at: float) -> None:
        self._path = path
        self._site = site
        self._holder = Holder.this(command=command, at=at)
        self._handle: int | None = None

    def __enter__(self) -> SiteLock:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._take(handle)
            except BaseException:
                os.close(handle)
                raise
        except OSError as error:
            raise StoreError(f"Cannot lock site {self._site}: {self._path}: {error.strerror}") from error
        self._handle = handle
        return self

    def _take(self, handle: int) -> None:
        if not _flock(handle, fcntl.LOCK_EX, tries=TRIES):
            raise locked(self._site, _read(self._path))
        os.ftruncate(handle, 0)
        os.pwrite(handle, self._holder.to_json().encode(), 0)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._handle is not None
        handle, self._handle = self._handle, None
        try:
            os.ftruncate(handle, 0)
        finally:
            os.close(handle)

    @staticmethod
    def holder(path: Path) -> Holder | None:
        """Return who holds the lock at `path` now, None if it is free."""
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"Cannot see who holds the lock {path}: {error.strerror}") from error
        try:
            return None if _flock(handle, fcntl.LOCK_SH, tries=1) else _read(path)
        finally:
            os.close(handle)


def _flock(handle: int, kind: int, *, tries: int) -> bool:
    """Try to lock. Several times for a holder-to-be: `SiteLock.holder` holds it for a moment to see whether it can."""
    for _ in range(tries):
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PAUSE_S)
        else:
            return True
    return False


def _read(path: Path) -> Holder | None:
    """Read who holds a lock; it writes that right after it got the lock, so give it a moment."""
    for _ in range(TRIES):
        holder = Holder.from_json(path.read_text())
        if holder is not None:
            return holder
        time.sleep(PAUSE_S)
    return None


def locked(site: str, holder: Holder | None) -> LockedError:
    return LockedError(
        f"site {site} is locked by {holder or 'another process'}",
        hint="Wait for it, watch it with `halligan status`, or stop it; a killed process leaves no lock behind.",
    )
