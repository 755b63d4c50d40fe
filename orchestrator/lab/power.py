"""The switch of one machine, as a BMC has it: power, what it boots from next, and what resets do to that.

An override that holds once is used up by the next start of the firmware, whether that comes from the switch or from a
reboot that the operating system asked for. QEMU's own order of devices cannot change while it runs, so a reset after
which another order is due is answered with a new QEMU; for the machine that is the same.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.lab.errors import LabError
from orchestrator.lab.host import Process, write_whole
from orchestrator.lab.machine import Machine, connected
from orchestrator.lab.values import LabNode

__all__ = ["ENABLED", "TARGETS", "Override", "Power", "Switch"]

# Redfish's BootSourceOverrideTarget → what the machine tries first.
TARGETS = {"None": "network", "Pxe": "network", "Hdd": "disk", "UefiHttp": "http"}
ENABLED = ("Disabled", "Once", "Continuous")


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """What a machine shall boot from instead of its own order, in Redfish's words."""

    target: str = "None"
    enabled: str = "Disabled"

    def boot(self) -> str:
        return TARGETS["None" if self.enabled == "Disabled" else self.target]

    def used(self) -> Override:
        """What is left of it after a start of the firmware."""
        return Override() if self.enabled == "Once" else self


class Power(Protocol):
    """What the Redfish service needs of a machine."""

    node: LabNode

    def is_on(self) -> bool: ...

    def override(self) -> Override: ...

    def set_override(self, wanted: Override) -> None: ...

    def act(self, action: str) -> None:
        """Do one of "on", "off", "shutdown", "reset" and "cycle"; LabError if it cannot be done."""


class Switch:
    """Power of a real machine. Has inner state: a lock, and a thread that listens to QEMU while the machine is on."""

    def __init__(self, machine: Machine) -> None:
        self.node = machine.node
        self._machine = machine
        self._lock = threading.RLock()
        running = machine.process()
        if running:
            self._listen(running)

    def is_on(self) -> bool:
        with self._lock:  # while QEMU is replaced at a reset, the machine is not off
            return self._machine.process() is not None

    def override(self) -> Override:
        with self._lock:
            return self._state()[0]

    def set_override(self, wanted: Override) -> None:
        with self._lock:
            self._keep(wanted, self._state()[1])

    def act(self, action: str) -> None:
        with self._lock:
            if action == "off":
                self._off()
            elif action == "cycle":
                self._off()
                self._on()
            elif action == "on":
                if not self.is_on():
                    self._on()
            else:
                self._machine.order({"shutdown": "system_powerdown", "reset": "system_reset"}[action])

    def _on(self) -> None:
        wanted = self.override()
        process = self._machine.switch_on(wanted.boot())
        self._keep(wanted.used(), wanted.boot())
        self._listen(process)

    def _off(self) -> None:
        if self._machine.switch_off():
            self._machine.note("switched off")

    def _listen(self, process: Process) -> None:
        threading.Thread(target=self._follow, args=(process,), daemon=True).start()

    def _follow(self, process: Process) -> None:
        """Until this QEMU ends: tell the console's log what happens, and see to it that "once" means once."""
        with suppress(OSError, ValueError), connected(self._machine.events, timeout_s=None) as qmp:
            while True:
                event = qmp.read()
                if event.get("event") == "RESET":
                    self._firmware_starts_again(process)
                elif event.get("event") == "SHUTDOWN":
                    self._machine.note(f"powers off ({event.get('data', {}).get('reason', 'no reason given')})")

    def _firmware_starts_again(self, process: Process) -> None:
        with self._lock:
            if self._machine.process() != process:
                return
            wanted, running = self._state()
            if wanted.boot() == running:
                self._machine.note("reset")
                self._keep(wanted.used(), running)
            else:
                self._machine.switch_off()
                self._machine.note("reset")
                try:
                    self._on()
                except LabError as error:
                    self._machine.note(f"stays off: {error}")

    def _state(self) -> tuple[Override, str]:
        """The override that is due, and what the machine that runs was told to boot from first."""
        try:
            found = json.loads(self._file.read_text())
            return Override(target=found["target"], enabled=found["enabled"]), found["running"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return Override(), ""

    def _keep(self, override: Override, running: str) -> None:
        write_whole(self._file, json.dumps({**asdict(override), "running": running}) + "\n")

    @property
    def _file(self) -> Path:
        return self._machine.folder / "boot.json"
