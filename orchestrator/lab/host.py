"""What the lab asks of this machine's kernel: processes in cgroups, a pinned network namespace, locks.

A cgroup is how the lab knows what it started. Every process of a lab is put into `halligan-lab/<site>/<what>` before
it does anything, so taking down needs no list of pids that a crash could lose, and never ends a process of another.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.lab.errors import LabError
from orchestrator.processes import is_running, start_time

__all__ = [
    "Cgroup",
    "Process",
    "connect_inside",
    "flock",
    "locked",
    "run",
    "socket_inside",
    "spawn",
    "tail",
    "wait_until",
    "write_whole",
]

# A clean environment: nothing of the caller's (a proxy, a locale, a token) reaches the containers.
ENVIRONMENT: Mapping[str, str] = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


def run(*command: str | Path, check: bool = True, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a short command; a failure is told with what the command said."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=timeout_s, env=ENVIRONMENT, stdin=subprocess.DEVNULL, check=False
    )
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()[-20:]
        raise LabError(f"{words[0]} failed with exit code {done.returncode}", detail=[" ".join(words), *said])
    return done


def wait_until(condition: Callable[[], bool], timeout_s: float, every_s: float = 0.1) -> bool:
    """Look at a condition until it holds; tell whether it did in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


def write_whole(path: Path, text: str) -> None:
    """Write beside, then rename: who reads it (an ssh that starts now, the next `up`) sees the old or the new text."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text)
    partial.rename(path)


def tail(log: Path, lines: int = 15) -> list[str]:
    """The last lines of a log, for an error message."""
    if not log.exists():
        return [f"(no log at {log})"]
    text = log.read_bytes()[-8192:].decode(errors="replace")
    return [f"{log.name}: {line.rstrip()}" for line in text.splitlines() if line.strip()][-lines:]


@contextmanager
def locked(folder: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock on a folder, made when missing; the holder may delete the folder, the next one makes it anew."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            flock(descriptor, on_wait)
            if folder.exists() and folder.stat().st_ino == os.fstat(descriptor).st_ino:
                yield
                return
        finally:
            os.close(descriptor)


def flock(descriptor: int, on_wait: Callable[[], None]) -> None:
    """Lock an open file, and say so before waiting for somebody else. The kernel unlocks it if we are killed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        on_wait()
        fcntl.flock(descriptor, fcntl.LOCK_EX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    started: int  # clock ticks since boot, field 22 of /proc/PID/stat

    @classmethod
    def of(cls, pid: int) -> Process:
        return cls(pid=pid, started=int(start_time(pid)))

    @classmethod
    def read(cls, path: Path) -> Process | None:
        """The process that was recorded, or None."""
        try:
            return cls(**json.loads(path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)) + "\n")

    def is_alive(self) -> bool:
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # if it was ours, let it go
        return is_running(self.pid, self.started)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroup:
    """A group of processes that the lab started, with all their descendants."""

    name: str  # below the root of the unified hierarchy, also inside a node's private mount of it

    @classmethod
    def of(cls, site: str, *parts: str) -> Cgroup:
        return cls(name="/".join(("halligan-lab", site, *parts)))

    @property
    def path(self) -> Path:
        return _unified_root() / self.name

    def make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            hint = "Inside a container the lab needs a privileged one, with a writable cgroup2 tree."
            raise LabError(f"Cannot make the cgroup {self.path}: {error.strerror}", hint=hint) from error

    def add(self, pid: int) -> None:
        self.path.joinpath("cgroup.procs").write_text(str(pid))

    def pids(self) -> tuple[int, ...]:
        """Everything that lives in the group and below it."""
        folders = (Path(folder) for folder, _, _ in os.walk(self.path))  # (glob would stumble over one that just goes)
        return tuple(int(pid) for folder in folders for pid in _lines(folder / "cgroup.procs"))

    def is_populated(self) -> bool:
        return "populated 1" in _lines(self.path / "cgroup.events")

    def kill(self, timeout_s: float = 20) -> None:
        """End every process of the group and remove it."""
        if not self.path.exists():
            return
        started = self.pids()
        self.path.joinpath("cgroup.kill").write_text("1")
        if not wait_until(lambda: not self.is_populated(), timeout_s, every_s=0.01):
            left = [f"pid {pid}: {' '.join(_lines(Path(f'/proc/{pid}/comm')))}" for pid in self.pids()]
            raise LabError(
                f"Processes of {self.name} do not end",
                detail=left,
                hint="They wait in the kernel; look at `ps -o pid,stat,wchan,args -p PID` and run the command again.",
            )
        for pid in started:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # those that this very process started are its zombies now
        self._remove()

    def _remove(self) -> None:
        for folder, _, _ in os.walk(self.path, topdown=False):
            wait_until(lambda path=Path(folder): _removed(path), 5, every_s=0.01)  # type: ignore[misc]


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # the kernel lets go a moment after the last process
        return False
    return True


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def _unified_root() -> Path:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mounted_on, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(mounted_on)
    raise LabError("This machine mounts no cgroup2 file system", hint="mount -t cgroup2 cgroup2 /sys/fs/cgroup")


# The gate holds a new process back until it is in its cgroup and on record; if its starter dies first, it reads an end
# of file and goes away. It replaces itself with the command, so pid and start time stay true.
_GATE = 'cd /; read -r go || exit 1; [ "$go" = go ] || exit 1; exec "$@" <&3 3<&-'


def spawn(
    command: Sequence[str | Path], *, cgroup: Cgroup, log: Path, record: Path | None = None, stdin: int | None = None
) -> Process:
    """Start a long-lived process in its cgroup, in a session of its own, its output appended to a log."""
    cgroup.make()
    gate_out, gate_in = os.pipe()
    null = os.open(os.devnull, os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", _GATE, "gate", *(str(word) for word in command)],
            ENVIRONMENT,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, gate_out, 0),
                (os.POSIX_SPAWN_DUP2, out, 1),
                (os.POSIX_SPAWN_DUP2, out, 2),
                (os.POSIX_SPAWN_DUP2, null if stdin is None else stdin, 3),
            ],
            setsid=True,
        )
        process = Process.of(pid)
        cgroup.add(pid)
        if record:
            process.write(record)
        os.write(gate_in, b"go\n")
    finally:
        for descriptor in (gate_out, gate_in, null, out):
            os.close(descriptor)
    return process


def socket_inside(
    netns: Path, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0
) -> socket.socket:
    """A socket that belongs to another network namespace; this thread enters it just long enough to make one.

    (Python has os.setns from 3.12 on.)
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with netns.open() as inside, Path("/proc/thread-self/ns/net").open() as outside:
        _setns(libc, inside.fileno())
        try:
            return socket.socket(family, kind, protocol)
        finally:
            _setns(libc, outside.fileno())


def _setns(libc: ctypes.CDLL, descriptor: int) -> None:
    clone_newnet = 0x40000000
    if libc.setns(descriptor, clone_newnet) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


def connect_inside(netns: Path, address: str, port: int, *, timeout_s: float = 2) -> bytes:
    """What a server in the lab says first (nothing, if it waits for us); OSError if it does not answer."""
    with socket_inside(netns) as connection:
        connection.settimeout(timeout_s)
        connection.connect((address, port))
        return connection.recv(64)
