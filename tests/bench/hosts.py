"""N hosts that are this machine: sshd on N loopback addresses, and what a command costs it and them, told apart.

The command runs below one reaper, the sshds below another, so each side's CPU is counted whole, daemons too. Every
host has a home of its own ($HOME) and a folder of its own for what a role writes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.model import PlanNode
from tests.bench.measure import ROOT
from tests.bench.reaper import descendants
from tests.support import sshd

__all__ = ["Hosts", "Usage"]

_REAPER = Path(__file__).with_name("reaper.py")
_PATIENCE_S = 3600.0
_SAMPLE_S = 0.3


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one command took: seconds, CPU of both sides, the controller's memory, how often it came to the hosts."""

    wall_s: float
    controller_s: float
    hosts_s: float
    peak_mb: float  # the highest sum of what the controller's processes hold, shared pages counted once
    connections: int  # logins
    sessions: int  # commands and file transfers within them
    code: int
    said: str


class Hosts:
    """The hosts of one comparison; sshd itself runs only while a command is watched."""

    def __init__(self, folder: Path, count: int) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.work = folder / "work"  # what the roles write, a folder per host
        addresses = {f"h{n:04}": f"127.1.{n // 250}.{n % 250 + 1}" for n in range(count)}
        homes = {address: folder / "homes" / name for name, address in addresses.items()}
        for home in homes.values():
            home.mkdir(parents=True)
        self.work.mkdir()
        self.server = sshd.prepare(folder, tuple(homes), homes=homes, log_level="VERBOSE")
        self.commands: Sequence[Sequence[str]] = self.server.commands  # that make the hosts answer
        connection = self.server.connection(user="root" if os.geteuid() == 0 else "")
        self.nodes = [
            PlanNode(name=name, platform="debian-12", address=address, connection=connection)
            for name, address in addresses.items()
        ]

    def watch(self, command: Sequence[object], environment: Mapping[str, str]) -> Usage:
        """Run a command to its end, and everything that it leaves running."""
        log = self.folder / "sshd.log"
        printed = self.folder / "printed"
        with log.open("w") as heard, printed.open("w") as said:
            far = _reaper(self.folder / "hosts.json", self.commands, 10, heard)
            try:
                self._wait_for_sshd(log)
                ours = [str(argument) for argument in command]
                near = _reaper(self.folder / "controller.json", [ours], 0, said, env={**os.environ, **environment})
                try:
                    peak_mb = _watched(near)
                finally:
                    _ended(near)
            finally:
                _ended(far)
        controller = json.loads((self.folder / "controller.json").read_text())
        hosts = json.loads((self.folder / "hosts.json").read_text())
        lines = log.read_text().splitlines()
        return Usage(
            wall_s=controller["wall_s"],
            controller_s=controller["cpu_s"],
            hosts_s=hosts["cpu_s"],
            peak_mb=peak_mb,
            connections=sum(line.startswith("Accepted publickey") for line in lines),
            sessions=sum(line.startswith("Starting session") for line in lines),
            code=controller["code"],
            said=printed.read_text(),
        )

    def _wait_for_sshd(self, log: Path) -> None:
        """Wait for it by its log: to connect would be work for the hosts."""
        deadline = time.monotonic() + 30
        while log.read_text().count("Server listening on") < len(self.nodes):
            if time.monotonic() > deadline:
                raise RuntimeError(f"sshd does not listen: {log.read_text()[-300:]}")
            time.sleep(0.02)


def _reaper(
    report: Path, commands: Sequence[Sequence[str]], patience_s: float, out: Any, **options: Any
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", str(_REAPER), str(report), json.dumps(commands), str(patience_s)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=ROOT, **options)


def _watched(process: subprocess.Popen[bytes]) -> float:
    """Wait for the end of a reaper; return the highest sum of memory below it."""
    peak = 0.0
    deadline = time.monotonic() + _PATIENCE_S
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise TimeoutError("the command does not end")
        peak = max(peak, sum(map(_pss_mb, descendants(process.pid))))
        try:
            process.wait(_SAMPLE_S)
        except subprocess.TimeoutExpired:
            continue
    return peak


def _pss_mb(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:  # it has ended
        pass
    return 0.0


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()
