"""Who plays in a fleet: machines made up from a seed, and what is wrong with some of them. Pure."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["CLONES", "PROFILES", "TEMPLATES", "Character", "Fault", "cast"]

_MATERIAL = Path(__file__).parents[1] / "unit/material/facts"

TEMPLATES = ("dell-r660", "supermicro-6029", "qemu")
PROFILES: Mapping[str, Mapping[str, Any]] = {
    "dell-r660": {"firmware": "uefi", "root_disk": {"type": "nvme", "by": "smallest"}},
    "supermicro-6029": {"firmware": "bios", "root_disk": {"size": "< 500 GB"}},
    "qemu": {"firmware": "bios", "root_disk": {}},
}
"""What a profile says that fits a template's machines."""

_PER_SWITCH = 40


class Fault(StrEnum):
    """What is wrong with a machine."""

    NONE = ""
    NEVER = "never"  # it is on, and nothing is ever heard of it
    HANGS = "hangs"  # falls silent in the middle of its first install; a power cycle helps
    DEAD = "dead"  # loses power in the middle of an install, for good
    REBOOTS = "reboots"  # restarts in the middle of its first install
    LOOPS = "loops"  # restarts in the middle of every install
    BAD_IMAGE = "bad-image"  # gets an image with a wrong checksum
    TWIN_MAC = "twin-mac"  # has the MAC address of another machine
    TWIN_SERIAL = "twin-serial"  # has the serial number of another machine
    MISWIRED = "miswired"  # hangs on another switch port than the spec says
    IMPOSTOR = "impostor"  # tells another machine's facts
    HUGE = "huge"  # tells facts of 10 MB
    REPLAY = "replay"  # shows its enrolment token a second time
    SKEWED = "skewed"  # lives in 1999
    SLOW = "slow"  # has a network that stutters
    DENIED = "denied"  # its BMC has another password
    MUTE = "mute"  # its BMC takes connections and says nothing


CLONES = (Fault.TWIN_MAC, Fault.TWIN_SERIAL, Fault.IMPOSTOR)
"""Faults of which another machine is the original; they come up after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Character:
    """A machine. `mac` is that of the port it boots from; `switch` and `port` are where the spec says it hangs."""

    number: int
    seed: int
    template: str
    fault: Fault = Fault.NONE
    original: int = 0  # the machine that a clone takes its identity from

    @property
    def name(self) -> str:
        """Name of its node and of its system at the BMC."""
        return f"kvm-{self.number:05}"

    @property
    def mac(self) -> str:
        return self.macs(1)[0]

    def macs(self, count: int) -> list[str]:
        high, middle, low = self.number >> 16 & 255, self.number >> 8 & 255, self.number & 255
        return [f"d0:8e:{high:02x}:{middle:02x}:{low:02x}:{port:02x}" for port in range(count)]

    @property
    def uuid(self) -> str:
        return f"{self.seed:08x}-4c4c-4544-8000-{self.number:012x}"

    @property
    def serial(self) -> str:
        return f"FL{self.seed:02d}X{self.number:06d}"

    @property
    def switch(self) -> str:
        return f"leaf-{self.number // _PER_SWITCH}"

    @property
    def port(self) -> str:
        return f"Ethernet{self.number % _PER_SWITCH + 1}"

    @property
    def nic(self) -> str:
        """Name of the port it boots from."""
        return str(_template(self.template)["inventory"]["interfaces"][0]["name"])

    @property
    def firmware(self) -> str:
        return str(PROFILES[self.template]["firmware"])

    @property
    def host_key(self) -> str:
        """The public SSH host key that its installed system has."""
        kind = b"ssh-ed25519"
        point = hashlib.sha256(f"{self.seed} {self.number}".encode()).digest()
        blob = struct.pack(f">I{len(kind)}sI32s", len(kind), kind, 32, point)
        return f"{kind.decode()} {base64.b64encode(blob).decode()}"

    def says(self, original: Character | None = None) -> Character:
        """Return who it says that it is."""
        if original is None or self.fault is not Fault.IMPOSTOR:
            return self
        return replace(original, fault=Fault.NONE)

    def identity(self, original: Character | None = None) -> dict[str, Any]:
        """Return what its agent enrols with."""
        mac = original.mac if original and self.fault is Fault.TWIN_MAC else self.mac
        serial = original.serial if original and self.fault is Fault.TWIN_SERIAL else self.serial
        return {"uuid": self.uuid, "serials": [serial], "macs": [mac]}

    def facts(self, level: str, clock: float, original: Character | None = None) -> bytes:
        """Return its facts document: the template with its own names in it."""
        told = self.says(original)
        own = told.identity(original if told is self else None)
        template = _template(self.template)
        inventory = dict(template["inventory"])
        macs = [own["macs"][0], *told.macs(len(inventory["interfaces"]))[1:]]
        inventory["interfaces"] = [
            {**nic, "mac_address": mac} for nic, mac in zip(inventory["interfaces"], macs, strict=True)
        ]
        inventory["disks"] = [
            {**disk, "serial": f"{told.serial}-{at}", "wwn": ""} for at, disk in enumerate(inventory["disks"])
        ]
        inventory["system_vendor"] = {
            **inventory["system_vendor"],
            "uuid": own["uuid"],
            "serial_number": own["serials"][0],
            "serials": own["serials"],
        }
        inventory["boot"] = {**inventory["boot"], "pxe_interface": macs[0], "current_boot_mode": self.firmware}
        inventory |= {"bmc_mac": "", "bmc_address": ""}
        document = {
            **template,
            "inventory": inventory,
            "lldp": {self.nic: [told.neighbour()]} if level == "full" else {},
            "agent": {"version": "fleet", "level": level},
            "clock": clock,
        }
        if self.fault is Fault.HUGE:
            document["usb_devices"] = ["x" * 4000] * 2600
        return json.dumps(document).encode()

    def neighbour(self) -> dict[str, Any]:
        """Return what LLDP says of the port it boots from."""
        switch = "leaf-of-another-rack" if self.fault is Fault.MISWIRED else self.switch
        return {
            "system_name": switch,
            "chassis_id": f"44:38:39:00:{self.number // _PER_SWITCH >> 8:02x}:{self.number // _PER_SWITCH & 255:02x}",
            "port_id": self.port,
            "port_description": "",
            "management_address": "",
            "vlans": [],
        }


@cache
def _template(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((_MATERIAL / f"{name}.json").read_text())
    return document


def cast(
    count: int,
    *,
    seed: int = 0,
    faults: Mapping[str, float] | None = None,
    fates: Mapping[int, str] | None = None,
    templates: Sequence[str] = TEMPLATES,
) -> tuple[Character, ...]:
    """Return machines 1 to `count`.

    Each has a fault with the probabilities of `faults`, or the one that `fates` gives its number; the same arguments
    give the same machines. A clone's original is a machine without a fault.
    """
    dice = random.Random(f"cast {seed}")
    given = dict(fates or {})
    chances = sorted((faults or {}).items())
    found = []
    for number in range(1, count + 1):
        drawn = dice.choices([*(name for name, _ in chances), ""], [*(p for _, p in chances), _rest(chances)])[0]
        template = templates[dice.randrange(len(templates))]
        found.append(
            Character(number=number, seed=seed, template=template, fault=Fault(given.get(number, drawn))),
        )
    free = [each.number for each in found if each.fault is Fault.NONE]
    dice.shuffle(free)
    return tuple(
        replace(each, original=free.pop(), template=each.template) if each.fault in CLONES else each for each in found
    )


def _rest(chances: Sequence[tuple[str, float]]) -> float:
    return max(0.0, 1.0 - sum(chance for _, chance in chances))
