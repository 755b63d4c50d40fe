"""The names that rules can use, and what each is worth for a machine: one flat table.

`docs/matching.md` shows the same table; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.facts.values import Disk, Facts, Nic
from orchestrator.model import Json

__all__ = ["DISK_TYPES", "PROPERTIES", "Kind", "Property", "disk_properties", "properties"]

GIB = 1024**3


class Kind(StrEnum):
    """What conditions a property takes."""

    NUMBER = "number"
    SIZE = "size"  # bytes
    TEXT = "text"
    TEXTS = "texts"  # a condition holds if it holds for any of them
    FLAG = "flag"
    LIST = "list"  # of things that are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """`bare` is how many bytes a number without a unit stands for; 0: values are bytes, and rules need a unit."""

    kind: Kind
    about: str
    bare: int = 0
    items: Mapping[str, Property] = field(default_factory=dict)
    choices: tuple[str, ...] = ()  # all the texts that it can be, empty if that is open


def _number(about: str) -> Property:
    return Property(kind=Kind.NUMBER, about=about)


def _size(about: str, bare: int = 0) -> Property:
    return Property(kind=Kind.SIZE, about=about, bare=bare)


def _text(about: str, *choices: str) -> Property:
    return Property(kind=Kind.TEXT, about=about, choices=choices)


def _texts(about: str) -> Property:
    return Property(kind=Kind.TEXTS, about=about)


def _flag(about: str) -> Property:
    return Property(kind=Kind.FLAG, about=about)


def _list(about: str, **items: Property) -> Property:
    return Property(kind=Kind.LIST, about=about, items=items)


DISK_TYPES = ("hdd", "nvme", "ssd")

PROPERTIES: Mapping[str, Property] = {
    "architecture": _text("of the processor, as the kernel names it: x86_64, aarch64"),
    "bmc": _text("address of the BMC"),
    "cpu_flags": _texts("what the processor can do: avx512f, vmx"),
    "cpu_model": _text("name of the processor"),
    "cpu_sockets": _number("processors"),
    "cpus": _number("logical processors (threads)"),
    "dimms": _list(
        "memory modules",
        locator=_text("slot"),
        manufacturer=_text("maker"),
        part_number=_text("part number"),
        size=_size("size"),
        speed_mts=_number("speed in MT/s"),
        type=_text("DDR4, DDR5"),
    ),
    "disks": _list(
        "fixed disks; removable ones do not count",
        bus=_text("sata, sas, nvme, virtio"),
        model=_text("model"),
        name=_text("device, as /dev/sda"),
        rotational=_flag("whether it turns"),
        serial=_text("serial number"),
        size=_size("size"),
        type=_text("hdd, ssd or nvme", *DISK_TYPES),
        vendor=_text("vendor"),
        wwn=_text("World Wide Name"),
    ),
    "firmware": _text("how it booted: uefi or bios", "bios", "uefi"),
    "gpus": _list(
        "GPUs and accelerators",
        product=_texts("PCI product id (20b5) or name"),
        vendor=_texts("PCI vendor id (10de) or name"),
    ),
    "hypervisor": _text("whose guest it is (kvm, vmware); empty on metal"),
    "lldp.port": _texts("switch ports that LLDP shows: id or description"),
    "lldp.switch": _texts("switches that LLDP shows: name or chassis id"),
    "lldp.vlan": _texts("VLANs that LLDP shows"),
    "macs": _texts("MAC addresses of all network ports"),
    "memory_bytes": _size("memory", bare=1),
    "memory_gib": _size("memory; a bare number is GiB", bare=GIB),
    "nested": _flag("whether its guests can have guests"),
    "nic_speed_gbps": _number("speed of the fastest network port, Gb/s"),
    "nics": _list(
        "network ports; those on USB do not count",
        carrier=_flag("whether it has a link"),
        driver=_text("Linux driver"),
        mac=_text("MAC address"),
        name=_text("name, as eno1"),
        port=_texts("switch port that LLDP shows there"),
        product=_text("PCI product id"),
        speed_gbps=_number("speed of its link, Gb/s"),
        switch=_texts("switch that LLDP shows there"),
        vendor=_text("PCI vendor id"),
    ),
    "pci": _list(
        "PCI devices",
        address=_text("0000:3b:00.0"),
        **{"class": _text("class, 6 hex digits: 020000 is Ethernet")},
        product=_text("product id"),
        vendor=_text("vendor id"),
    ),
    "product": _text("model of the machine"),
    "secure_boot": _flag("whether Secure Boot is on"),
    "serial": _texts("serial numbers of system, chassis and board"),
    "tpm": _text("version of the TPM (2.0), unknown if it does not say; empty without one"),
    "uuid": _text("SMBIOS UUID"),
    "vendor": _text("maker of the machine"),
    "virtualization": _text("what the processor offers guests: vmx, svm"),
}
"""Every property that a rule can name, by its name."""


def properties(facts: Facts) -> Mapping[str, Json]:
    """Return the value of every property of `PROPERTIES`; None for numbers and flags that were not told.

    Sizes are bytes, `memory_gib` is GiB.
    """
    neighbours = [neighbour for nic in facts.nics for neighbour in nic.neighbours]
    speeds = [nic.speed_mbps for nic in facts.nics if nic.speed_mbps]
    return {
        "architecture": facts.architecture,
        "bmc": facts.bmc_address,
        "cpu_flags": facts.cpu_flags,
        "cpu_model": facts.cpu_model,
        "cpu_sockets": facts.cpu_sockets or None,
        "cpus": facts.cpus or None,
        "dimms": _dimms(facts),
        "disks": [disk_properties(disk) for disk in facts.disks if disk.size and not disk.removable],
        "firmware": facts.firmware_mode,
        "gpus": [
            {"product": _known(gpu.product_id, gpu.product), "vendor": _known(gpu.vendor_id, gpu.vendor)}
            for gpu in facts.gpus
        ],
        "hypervisor": facts.hypervisor,
        "lldp.port": _known(*(text for at in neighbours for text in (at.port_id, at.port_description))),
        "lldp.switch": _known(*(text for at in neighbours for text in (at.system_name, at.chassis_id))),
        "lldp.vlan": tuple(str(vlan) for vlan in sorted({vlan for at in neighbours for vlan in at.vlans})),
        "macs": _known(*(nic.mac for nic in facts.nics)),
        "memory_bytes": facts.memory_bytes or None,
        "memory_gib": facts.memory_bytes / GIB or None,
        "nested": facts.virtualization.nested,
        "nic_speed_gbps": max(speeds) / 1000 if speeds else None,
        "nics": [_nic(nic) for nic in facts.nics if not nic.usb],
        "pci": [
            {
                "address": device.address,
                "class": device.class_code,
                "product": device.product_id,
                "vendor": device.vendor_id,
            }
            for device in facts.pci
        ],
        "product": facts.product,
        "secure_boot": facts.secure_boot,
        "serial": _known(facts.serial, *facts.identity.serials),
        "tpm": (facts.tpm.version or "unknown") if facts.tpm.present else "",
        "uuid": facts.identity.uuid,
        "vendor": facts.vendor,
        "virtualization": facts.virtualization.cpu,
    }


def disk_properties(disk: Disk) -> Mapping[str, Json]:
    return {
        "bus": disk.bus,
        "model": disk.model,
        "name": disk.name,
        "rotational": disk.rotational,
        "serial": disk.serial,
        "size": disk.size,
        "type": disk.type,
        "vendor": disk.vendor,
        "wwn": disk.wwn,
    }


def _dimms(facts: Facts) -> list[Mapping[str, Json]]:
    return [
        {
            "locator": dimm.locator,
            "manufacturer": dimm.manufacturer,
            "part_number": dimm.part_number,
            "size": dimm.size,
            "speed_mts": dimm.speed_mts or None,
            "type": dimm.type,
        }
        for dimm in facts.dimms
        if dimm.size
    ]


def _nic(nic: Nic) -> Mapping[str, Json]:
    return {
        "carrier": nic.carrier,
        "driver": nic.driver,
        "mac": nic.mac,
        "name": nic.name,
        "port": _known(*(text for at in nic.neighbours for text in (at.port_id, at.port_description))),
        "product": nic.product,
        "speed_gbps": nic.speed_mbps / 1000 if nic.speed_mbps else None,
        "switch": _known(*(text for at in nic.neighbours for text in (at.system_name, at.chassis_id))),
        "vendor": nic.vendor,
    }


def _known(*texts: str) -> tuple[str, ...]:
    """Return what was told, each once, in the order given."""
    return _unique(text for text in texts if text)


def _unique(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
