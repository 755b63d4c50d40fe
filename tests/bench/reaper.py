"""Run commands until they and everything that they started have ended, daemons too; say how much CPU all of it took.

`python reaper.py REPORT COMMANDS SECONDS`: COMMANDS is a JSON list of commands; SIGTERM ends them. When they have
ended, what they left behind gets so many seconds to end by itself, then is ended. It runs alone: no module but the
standard library's, and its own CPU is not in the figure.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

_PDEATHSIG, _SUBREAPER = 1, 36  # of prctl
_HEARD = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}


def main() -> None:
    report, commands, patience_s = Path(sys.argv[1]), json.loads(sys.argv[2]), float(sys.argv[3])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SUBREAPER, 1, 0, 0, 0) or libc.prctl(_PDEATHSIG, signal.SIGTERM, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    started = time.monotonic()
    running = {_start(command) for command in commands}
    codes: list[int] = []
    ended = 0.0  # when the commands had, or were told to
    stop_at = 0.0
    while True:
        for pid, code in _reaped():
            if pid in running:
                running.discard(pid)
                codes.append(code)
        if not running and not ended:
            ended = time.monotonic()
            stop_at = ended + patience_s
        if ended:
            left = descendants(os.getpid())
            if not left:
                break
            if time.monotonic() > stop_at:
                _signal(left, signal.SIGTERM if time.monotonic() < stop_at + 5 else signal.SIGKILL)
        heard = signal.sigtimedwait(_HEARD, 0.1 if ended else 60)
        if heard and heard.si_signo != signal.SIGCHLD:
            _signal(running, signal.SIGTERM)
            ended = ended or time.monotonic()
            stop_at = time.monotonic() + patience_s
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {"cpu_s": used.ru_utime + used.ru_stime, "wall_s": ended - started, "code": max(codes, key=abs)}
    report.write_text(json.dumps(found))


def _start(command: list[str]) -> int:
    """Start a command with the signals that this one blocked."""
    return os.posix_spawnp(command[0], command, os.environ, setsigmask=[])


def _reaped() -> list[tuple[int, int]]:
    found = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not pid:
            return found
        found.append((pid, os.waitstatus_to_exitcode(status)))


def descendants(root: int) -> set[int]:
    """Return the processes below `root` that live, however deep."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(path.name))
    found: set[int] = set()
    ahead = [root]
    while ahead:
        below = children.get(ahead.pop(), [])
        found.update(below)
        ahead += below
    return found


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    main()
