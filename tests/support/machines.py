"""Machines of a room without hardware, at the level of the store: what the boot service would write of real ones.

A machine reacts to its BMC as a real one does: switched on to start from the network it enrols, tells its facts and
does what it is ordered; switched off in the middle it falls silent. Tests of the boot service itself use real HTTP.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator import lifecycle
from orchestrator.bmc.base import BmcIdentity, Device, Power
from orchestrator.bmc.fake import FakeBmc, FakeRack
from orchestrator.lifecycle import RefusedError, Signal
from orchestrator.model import Identity, MachineState, Order, Phase
from orchestrator.store import Store, kinds

FACTS = json.loads((Path(__file__).parents[1] / "unit/material/facts/qemu.json").read_text())
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExampleExampleExampleExampleExampleExampleExam"


@dataclass
class Machine:
    """One machine. `acts` may replace what it does with an order: a function of the machine and the order."""

    number: int
    store: Store
    bmc: FakeBmc = field(init=False)
    acts: Callable[[Machine, Order], None] | None = None
    comes_up: bool = True
    level: str = "full"
    firmware: str = "uefi"
    orders: list[Order] = field(default_factory=list)
    boots: int = 0

    def __post_init__(self) -> None:
        self.id = f"m-{self.number}"
        self.mac = f"52:54:00:00:00:{self.number:02x}"
        self.uuid = f"00000000-0000-4000-8000-{self.number:012x}"
        self.identity = Identity(uuid=self.uuid, serials=(f"S{self.number}",), macs=(self.mac,))
        self.bmc = FakeBmc(identity=BmcIdentity(uuid=self.uuid), on_change=self._power_changed)
        self._life = 0  # grows with each power change: threads of an older life end

    @property
    def state(self) -> MachineState | None:
        return self.store.machine(self.id)

    def move(self, signal: Signal, **changes: object) -> None:
        """Move as the boot service does: when somebody else moved the machine in between, look again."""
        for left in reversed(range(5)):
            made = lifecycle.move(self.state, signal, machine=self.id, **changes)
            try:
                self.store.append([kinds.machine_moved(made, at=time.time(), by=self.mac)])
            except RefusedError:
                if not left:
                    raise
            else:
                return

    def facts(self) -> bytes:
        document = json.loads(json.dumps(FACTS))
        inventory = document["inventory"]
        inventory["interfaces"] = [{**inventory["interfaces"][0], "mac_address": self.mac}]
        inventory["system_vendor"] |= {"uuid": self.uuid, "serial_number": f"S{self.number}", "serials": []}
        inventory["boot"] |= {"current_boot_mode": self.firmware, "pxe_interface": self.mac}
        document.setdefault("agent", {})["level"] = self.level
        return json.dumps(document).encode()

    def come_up(self) -> None:
        """Start the discovery image: boot script, enrolment, facts."""
        self.boots += 1
        self.move(Signal.BOOT, identity=self.identity)
        self.move(
            Signal.ENROL, identity=self.identity, credential=hashlib.sha256(str(time.time()).encode()).hexdigest()
        )
        document = self.facts()
        digest = hashlib.sha256(document).hexdigest()
        made = lifecycle.move(self.state, Signal.FACTS, facts=digest, level=self.level, identity=self.identity)
        self.store.append([kinds.machine_moved(made, at=time.time(), by=self.mac)], facts={digest: document})

    def progress(self, percent: float) -> None:
        state = self.state
        self.store.append(
            [
                kinds.machine_progress(
                    self.id, at=time.time(), node=state.node, task="install", step="write", percent=percent
                )
            ]
        )

    def install(self, order: Order) -> None:
        self.progress(50)
        self.move(Signal.WROTE, image=f"{order.args['image']}@abc", host_keys=(KEY,))

    def _power_changed(self, _before: Power, after: Power) -> None:
        self._life += 1
        if after is Power.ON and self.comes_up and self.bmc.boot is Device.NETWORK:
            self.bmc.boot = None
            threading.Thread(target=self._live, args=(self._life,), daemon=True).start()

    def _live(self, life: int) -> None:
        self.come_up()
        while life == self._life:
            state = self.state
            order = state.order if state else None
            if order and order.id not in {given.id for given in self.orders}:
                self.orders.append(order)
                if order.task == "reboot":
                    return  # the agent is gone with the discovery image
                try:
                    self._obey(order)
                except RefusedError:
                    return  # switched off and on meanwhile
            time.sleep(0.02)

    def _obey(self, order: Order) -> None:
        if self.acts:
            self.acts(self, order)
        elif order.task == "install":
            self.install(order)
        elif order.task == "erase":
            self.move(Signal.ERASED)


class Room(dict[str, Machine]):
    """Machines by node name, and the rack of their BMCs."""

    def __init__(self, store: Store, count: int) -> None:
        super().__init__({f"kvm-{number}": Machine(number=number, store=store) for number in range(1, count + 1)})
        self.rack = FakeRack({f"10.9.0.{machine.number}": machine.bmc for machine in self.values()})

    def in_phase(self, phase: Phase) -> list[str]:
        return [name for name, machine in self.items() if machine.state and machine.state.phase is phase]
