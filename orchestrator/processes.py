"""Processes that outlive a look at them: which one it was, whether it still is, and that it is gone.

A pid alone may name another process by now; a pid with its start time does not.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["end", "end_users", "is_running", "start_time", "users", "wait_for"]


def start_time(pid: int) -> float:
    """Return when a process started, in clock ticks since boot (proc(5), stat field 22); 0 if there is none."""
    try:
        # The second field is the command in parentheses and may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return 0.0 if fields[0] in "ZX" else float(fields[19])


def is_running(pid: int, started: float) -> bool:
    return started > 0 and start_time(pid) == started


def end(pid: int, started: float, grace_s: float = 10.0) -> None:
    """End a process, politely first. Does nothing to another process that got its pid since."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if not is_running(pid, started):
            return
        for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, grace_s)):
            signal.pidfd_send_signal(handle, number)
            waiting = select.poll()  # select(2) takes no descriptor above 1023, and a busy controller has them
            waiting.register(handle, select.POLLIN)
            if waiting.poll(wait_s * 1000):
                return
    except ProcessLookupError:
        return
    finally:
        os.close(handle)


def wait_for(condition: Callable[[], object], limit_s: float) -> None:
    """Look at a condition until it holds or the time is over."""
    until = time.monotonic() + limit_s
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)


def users(path: Path) -> list[int]:
    """Return the processes whose command line names a path."""
    wanted, found = str(path).encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended
                if wanted in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def end_users(path: Path, grace_s: float = 10.0) -> None:
    """End every process whose command line names a path."""
    for pid in users(path):
        end(pid, start_time(pid), grace_s)
