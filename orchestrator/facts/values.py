"""The typed facts of a machine. Sizes are bytes; an empty text or a 0 means that the machine did not tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.model import Identity, Json

__all__ = ["Dimm", "Disk", "Facts", "Gpu", "Neighbour", "Nic", "PciDevice", "Tpm", "Virtualization"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimm:
    locator: str = ""
    size: int = 0
    type: str = ""  # "DDR5"
    speed_mts: int = 0
    manufacturer: str = ""
    part_number: str = ""
    serial: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A block device. `rotational` is None where the kernel was not asked; `bus` is lsblk's TRAN ("nvme", "sata")."""

    name: str
    size: int = 0
    model: str = ""
    serial: str = ""
    wwn: str = ""
    vendor: str = ""
    rotational: bool | None = None
    removable: bool = False
    bus: str = ""
    hctl: str = ""
    by_path: str = ""
    logical_sector: int = 0
    physical_sector: int = 0

    @property
    def type(self) -> str:
        """Return "nvme", "ssd" or "hdd", or "" if that is not known."""
        if self.bus == "nvme" or self.name.removeprefix("/dev/").startswith("nvme"):
            return "nvme"
        if self.rotational is None:
            return ""
        return "hdd" if self.rotational else "ssd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """What the other end of a cable said by LLDP (IEEE 802.1AB). `vlans` are those that it named, sorted."""

    system_name: str = ""
    chassis_id: str = ""
    port_id: str = ""
    port_description: str = ""
    management_address: str = ""
    vlans: tuple[int, ...] = ()

    @property
    def switch(self) -> str:
        """The switch's name, or its chassis id where it has none."""
        return self.system_name or self.chassis_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A network port; `mac` as aa:bb:cc:dd:ee:ff, 20 octets for InfiniBand. `carrier` is None if not told.

    `usb` marks what is not the machine's own: the BMC's virtual port, and adapters that wander.
    """

    name: str
    mac: str = ""
    ipv4: str = ""
    ipv6: str = ""
    carrier: bool | None = None
    vendor: str = ""
    product: str = ""
    speed_mbps: int = 0
    pci_address: str = ""
    driver: str = ""
    biosdevname: str = ""
    usb: bool = False
    neighbours: tuple[Neighbour, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A graphics or compute accelerator; the ids are 4 hex digits in lower case."""

    vendor_id: str = ""
    product_id: str = ""
    vendor: str = ""
    product: str = ""
    pci_address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PciDevice:
    """Ids in lower-case hex without 0x; `class_code` has 6 digits ("020000" is an Ethernet controller)."""

    vendor_id: str = ""
    product_id: str = ""
    class_code: str = ""
    revision: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Virtualization:
    """`cpu` is what it offers guests: "vmx", "svm" or "". `hypervisor` is whose guest it is: "kvm", "" for metal."""

    cpu: str = ""
    nested: bool | None = None
    hypervisor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tpm:
    present: bool = False
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a machine says of itself. `document` is all of it, cleaned, with the keys that nothing here reads.

    `level` is "basic" or "full"; `clock` is the machine's own time, UTC seconds, 0 if it did not tell. `boot_mac` is
    the port it booted from. `problem` is what went wrong while it collected, in its words.
    """

    identity: Identity
    vendor: str = ""
    product: str = ""
    serial: str = ""
    firmware_mode: str = ""  # "uefi", "bios"
    firmware_version: str = ""
    secure_boot: bool | None = None
    boot_mac: str = ""
    hostname: str = ""
    cpus: int = 0  # logical ones
    cpu_sockets: int = 0
    cpu_model: str = ""
    architecture: str = ""
    cpu_flags: tuple[str, ...] = ()
    memory_bytes: int = 0
    dimms: tuple[Dimm, ...] = ()
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    pci: tuple[PciDevice, ...] = ()
    bmc_address: str = ""
    bmc_mac: str = ""
    virtualization: Virtualization = Virtualization()
    tpm: Tpm = Tpm()
    level: str = "full"
    clock: float = 0.0
    problem: str = ""
    document: Mapping[str, Json] = field(default_factory=dict)

    @property
    def hypervisor(self) -> str:
        return self.virtualization.hypervisor
