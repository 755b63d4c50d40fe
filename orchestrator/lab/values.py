"""The nouns of a lab and where its things live. No process, socket or mount is touched here."""

from __future__ import annotations

import ipaddress
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from orchestrator.lab.errors import LabError

__all__ = [
    "CONTAINER",
    "USER",
    "VM",
    "Lab",
    "LabBmc",
    "LabBoot",
    "LabConnection",
    "LabNode",
    "NodeStatus",
    "Places",
    "check",
    "check_places",
    "machine_of",
    "network_of",
]

RUN_DIR = Path("/run/halligan-lab")
USER = "halligan"
CONTAINER, VM = "container", "vm"

_SITE = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_NODE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")  # unicast
_SERIAL = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabNode:
    """One node: a host name and its IPv4 address in the lab's network.

    `kind` is "container" or "vm"; what follows it is a vm's hardware and means nothing to a container. `mac` (lower
    case, colons), `serial` and `uuid` (SMBIOS system serial number and UUID) are derived from the names of lab and node
    when empty: `machine_of` tells what they come to. A vm's `address` is the one it shall have once it is installed.
    """

    name: str
    address: str
    kind: str = CONTAINER
    mac: str = ""
    firmware: str = "uefi"  # or "bios"
    memory_mib: int = 1024
    disk_gib: int = 8
    cpus: int = 1
    serial: str = ""
    uuid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """What should be. `state_dir` is the site's private folder; the lab keeps its keys and `known_hosts` there."""

    site: str
    cidr: str
    gateway: str
    nodes: tuple[LabNode, ...]
    state_dir: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """What is.

    `state` of a container: running, degraded, stopped (has a disk, no processes) or absent. Of a vm: on, off or absent
    (nothing is there yet); what its operating system does, if it has one, the lab does not know.
    """

    name: str
    address: str
    state: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabConnection:
    """What OpenSSH needs to reach a node from outside the lab's network namespace."""

    user: str
    private_key: Path
    known_hosts: Path
    proxy_command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabBmc:
    """How a vm's power is controlled: Redfish with Basic or session authentication.

    `address` is the URL of the system (`https://127.0.0.1:PORT/redfish/v1/Systems/NAME`), `ca` the authority that
    signed the endpoint's certificate, and `password_file` holds the password of `user` and nothing else (no line end).
    """

    address: str
    ca: Path
    user: str
    password_file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class LabBoot:
    """Where machines of a lab look for a boot server: `address` on `interface` inside the network namespace `netns`.

    The interface also has `address6` (with its prefix length), for router advertisements: iPXE waits 16 s for one.
    What joins the cgroup `cgroup` (a path below the root of the cgroup2 tree) ends with the lab; `enter` does both.
    """

    netns: Path
    address: str
    interface: str
    cidr: str
    address6: str
    cgroup: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Every path of one lab, so that tearing down and building up name the same ones.

    `run` vanishes with a reboot of the machine and `disks` does not; `cache` is shared by all labs and outlives them.
    """

    run: Path
    disks: Path
    cache: Path
    state: Path

    @classmethod
    def of(cls, lab: Lab, environ: Mapping[str, str] = os.environ) -> Places:
        """Resolve the folders, which the environment may move."""
        disks = Path(environ.get("HALLIGAN_LAB_DIR") or "/var/lib/halligan/lab").absolute()
        cache = Path(environ.get("HALLIGAN_CACHE_DIR") or "/var/cache/halligan").absolute()
        return cls(run=RUN_DIR / lab.site, disks=disks / lab.site, cache=cache, state=lab.state_dir.absolute())

    @property
    def netns(self) -> Path:
        """A file on which the lab's network namespace is pinned: a stable name that needs no sleeping process."""
        return self.run / "netns"

    @property
    def connect(self) -> Path:
        """The script behind the ProxyCommand."""
        return self.run / "connect"

    @property
    def private_key(self) -> Path:
        return self.state / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.state / "known_hosts"

    @property
    def machine_known_hosts(self) -> Path:
        """Host keys of installed vms: written by who installs them, never by the lab."""
        return self.state / "machines_known_hosts"

    @property
    def bmc_ca(self) -> Path:
        return self.state / "bmc-ca.pem"

    @property
    def bmc_key(self) -> Path:
        """The endpoint's private key and certificate."""
        return self.state / "bmc-key.pem"

    @property
    def bmc_password(self) -> Path:
        return self.state / "bmc-password"

    def record(self, node: str) -> Path:
        """Pid and start time of a node's keeper; the prefix keeps a node called "proxy" apart from the proxy."""
        return self.run / f"node-{node}.pid"

    def console(self, node: str) -> Path:
        return self.run / f"node-{node}.console"


def check_places(places: Places) -> None:
    """Refuse folders that an overlay mount or a container's private /run would trip over."""
    for folder in (places.disks, places.cache):
        if folder.is_relative_to("/run") or set(",:\\ \n\"'") & set(str(folder)):
            raise _bad(f"folder {folder}", "Use a path outside of /run, without spaces, quotes, commas and colons.")


def check(lab: Lab) -> None:
    """Refuse values that would fail later and less clearly (or escape their folder: names become paths)."""
    if not _SITE.fullmatch(lab.site):
        raise _bad(f"site name {lab.site!r}", "Use 1 to 32 of a-z, 0-9 and '-', without '-' at either end.")
    network = network_of(lab.cidr)
    taken = {_address(lab.gateway, network, "the gateway"): "the gateway"}
    names: set[str] = set()
    for node in lab.nodes:
        if not _NODE.fullmatch(node.name) or node.name in names:
            raise _bad(f"node name {node.name!r}", "Use each name once: 1 to 63 of a-z, 0-9 and '-'.")
        names.add(node.name)
        address = _address(node.address, network, node.name)
        if address in taken:
            raise _bad(f"address {address} of {node.name}", f"It already belongs to {taken[address]}; choose another.")
        taken[address] = node.name
        if node.kind not in (CONTAINER, VM):
            raise _bad(f"kind {node.kind!r} of {node.name}", f"Use {CONTAINER} or {VM}.")
    _check_machines(tuple(machine_of(lab, node.name) for node in lab.nodes if node.kind == VM))


def _check_machines(machines: tuple[LabNode, ...]) -> None:
    owners: dict[str, str] = {}
    for node in machines:
        _check_machine(node)
        for what, value in (("MAC", node.mac), ("UUID", node.uuid), ("serial number", node.serial)):
            if value in owners:
                raise _bad(f"{what} {value} of {node.name}", f"It already belongs to {owners[value]}; choose another.")
            owners[value] = node.name


def _check_machine(node: LabNode) -> None:
    if node.firmware not in ("bios", "uefi"):
        raise _bad(f"firmware {node.firmware!r} of {node.name}", "Use bios or uefi.")
    if not _MAC.fullmatch(node.mac):
        raise _bad(f"MAC {node.mac!r} of {node.name}", "Give a unicast one in lower case, such as 52:54:00:12:34:56.")
    if not _SERIAL.fullmatch(node.serial):
        raise _bad(f"serial number {node.serial!r} of {node.name}", "Use 1 to 64 letters, digits, '.', '_' and '-'.")
    if not _is_uuid(node.uuid):
        raise _bad(f"UUID {node.uuid!r} of {node.name}", "Give 32 hexadecimal digits in lower case, as 8-4-4-4-12.")
    sizes = (("memory_mib", node.memory_mib, 64), ("disk_gib", node.disk_gib, 1), ("cpus", node.cpus, 1))
    for what, value, least in sizes:
        if value < least:
            raise _bad(f"{what} {value} of {node.name}", f"Give at least {least}.")


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def machine_of(lab: Lab, name: str) -> LabNode:
    """The vm of a name with its MAC, serial number and UUID filled in; the same ones each time it is made."""
    for node in lab.nodes:
        if node.name == name and node.kind == VM:
            key = f"{lab.site}/{name}"
            mac = ":".join(("52:54:00", *(f"{byte:02x}" for byte in sha256(key.encode()).digest()[:3])))
            return replace(
                node,
                mac=node.mac or mac,
                serial=node.serial or f"LAB-{lab.site}-{name}"[:64].rstrip("-"),
                uuid=node.uuid or str(uuid.uuid5(uuid.NAMESPACE_URL, f"halligan-lab:{key}")),
            )
    raise _bad(f"{name!r} as a machine", f"Lab {lab.site} has no vm of that name.")


def network_of(cidr: str) -> ipaddress.IPv4Network:
    """The network a text stands for."""
    try:
        return ipaddress.IPv4Network(cidr)
    except ValueError as error:
        raise _bad(f"network {cidr!r}", f"Give an IPv4 network such as 10.77.0.0/24 ({error}).") from error


def _address(text: str, network: ipaddress.IPv4Network, owner: str) -> ipaddress.IPv4Address:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError as error:
        raise _bad(f"address {text!r} of {owner}", "Give an IPv4 address such as 10.77.0.11.") from error
    if address not in network or address in (network.network_address, network.broadcast_address):
        raise _bad(f"address {address} of {owner}", f"It is not a host address of the lab's network {network}.")
    return address


def _bad(what: str, hint: str) -> LabError:
    return LabError(f"The lab cannot use {what}", hint=hint)
