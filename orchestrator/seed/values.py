"""An operating system's name, users and networks as values, and what can be wrong with them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from itertools import combinations

from orchestrator.errors import Problem, ProblemsError
from orchestrator.model import Json

BOND_MODES = (
    *("802.3ad", "active-backup", "balance-rr", "balance-xor", "broadcast", "balance-tlb"),
    "balance-alb",
)

BOND_PARAMETERS = frozenset(
    {
        *(
            "lacp-rate",
            "mii-monitor-interval",
            "min-links",
            "transmit-hash-policy",
            "ad-select",
            "up-delay",
            "down-delay",
        ),
        *("fail-over-mac-policy", "gratuitous-arp", "primary", "primary-reselect-policy"),
    }
)
"""netplan's names, which network configuration version 2 took over. Monitoring by ARP is not among them: the
cloud-init of Debian 12 knows it by another name than netplan, and fails on netplan's."""

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,31}")
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}")  # IFNAMSIZ is 16 with its NUL
_KEY = re.compile(r"(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[A-Za-z0-9@.-]+ [A-Za-z0-9+/]+={0,3}(?: [^\r\n]*)?")
_MODE = re.compile(r"0?[0-7]{3,4}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A physical NIC: its MAC in lower case with colons, and the name that the system is to call it by."""

    mac: str
    name: str = ""

    @property
    def interface(self) -> str:
        """Its name; without one, systemd's for NICs that have only a MAC, which is always free and always the same."""
        return self.name or f"enx{self.mac.replace(':', '')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bond:
    """Ports (by MAC) that work as one. `parameters` have netplan's names."""

    name: str
    members: tuple[str, ...]
    mode: str = "active-backup"
    parameters: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A network as the system is connected to it: on the port with `mac`, or on `bond`.

    Without `address` the interface is only brought up. `gateway` makes it the default route. `vlan` 0 is untagged.
    """

    network: str
    mac: str = ""
    bond: str = ""
    address: str = ""
    prefix: int = 0
    gateway: str = ""
    vlan: int = 0
    mtu: int = 1500

    @property
    def base(self) -> str:
        return self.bond or self.mac


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A further file: absolute path, text, and mode in octal."""

    path: str
    content: str
    permissions: str = "0644"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What a system is to be. `generation` counts its installs: a new one makes every first-start step run again.

    `ports` are all NICs of the machine, as discovery saw them; `networks` and `bonds` may only use those. `user_data`
    is cloud-config that is merged into ours. `client_certificate` is the certificate in PEM (with a UPN as subject
    alternative name) that our controller shows to a Windows host instead of a password; its key stays with us.
    """

    name: str
    generation: int
    user: str
    authorized_keys: tuple[str, ...]
    ports: tuple[Port, ...]
    networks: tuple[Nic, ...]
    bonds: tuple[Bond, ...] = ()
    dns: tuple[str, ...] = ()
    write_files: tuple[File, ...] = ()
    user_data: Mapping[str, Json] = field(default_factory=dict)
    platform: str = "debian-12"
    client_certificate: str = ""

    @property
    def instance(self) -> str:
        return f"{self.name}-{self.generation}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """The files of a seed by relative path. `kind` is "nocloud" or "configdrive"."""

    kind: str
    files: Mapping[str, str]


def interfaces(host: Host) -> Mapping[str, str]:
    """Return the interface's name of each port (by MAC) and each bond (by name)."""
    return {port.mac: port.interface for port in host.ports} | {bond.name: bond.name for bond in host.bonds}


def vlan_name(base: str, vlan: int) -> str:
    """Return the name of a VLAN's interface: "bond0.100", or "vlan100" where that is longer than the kernel allows."""
    usual = f"{base}.{vlan}"
    return usual if len(usual) <= 15 else f"vlan{vlan}"


def base_mtu(host: Host, base: str) -> int:
    """Return the MTU of a port or bond: that of its untagged networks, or else what its largest VLAN needs."""
    there = [nic for nic in host.networks if nic.base == base]
    untagged = [nic.mtu for nic in there if not nic.vlan]
    return max(untagged or [nic.mtu for nic in there] or [1500])


def check(host: Host, *further: Problem) -> None:
    """Raise ProblemsError with everything that is wrong, `further` included."""
    problems = (*problems_of(host), *further)
    if problems:
        raise ProblemsError(problems)


def problems_of(host: Host) -> tuple[Problem, ...]:
    """Return everything that is wrong with a host."""
    return (*_names(host), *_files(host), *_ports(host), *_bonds(host), *_networks(host), *_routes(host))


def problem(host: Host, code: str, text: str, hint: str = "") -> Problem:
    return Problem(code=f"seed.{code}", summary=f"{host.name}: {text}", hint=hint)


# --- what can be wrong --------------------------------------------------------------------------------------------


def _names(host: Host) -> Iterator[Problem]:
    labels = host.name.split(".")
    if len(host.name) > 64 or not all(_LABEL.fullmatch(label) for label in labels):
        yield problem(
            host, "name", "is not a host name", "letters, digits and dashes, at most 64 characters (RFC 1123)"
        )
    if host.generation < 1:
        yield problem(host, "generation", f"generation {host.generation} is none: installs count from 1")
    if not _USER.fullmatch(host.user) or host.user == "root":
        yield problem(
            host, "user", f"{host.user!r} cannot be the user that we log in as", "name it in `connection.user`"
        )
    if not host.authorized_keys and not host.platform.startswith("windows"):
        yield problem(host, "keys", "nobody could log in: there is no SSH key", "set `connection.private_key`")
    for key in host.authorized_keys:
        if not _KEY.fullmatch(key):
            yield problem(host, "keys", f'"{key[:30]}..." is not a public SSH key', "one line of a .pub file")
    for server in host.dns:
        if not _is_address(server):
            yield problem(host, "dns", f"the DNS server {server!r} is not an IP address")


def _files(host: Host) -> Iterator[Problem]:
    for file in host.write_files:
        if not file.path.startswith("/") or ".." in file.path.split("/") or not file.path.isprintable():
            yield problem(host, "file", f"{file.path!r} is not the absolute path of a file")
        if not _MODE.fullmatch(file.permissions):
            yield problem(host, "file", f"{file.path}: {file.permissions!r} is not a mode", 'write it in octal, "0644"')
    for path, times in Counter(file.path for file in host.write_files).items():
        if times > 1:
            yield problem(host, "file", f"{path} is written {times} times")


def _ports(host: Host) -> Iterator[Problem]:
    for port in host.ports:
        if not _MAC.fullmatch(port.mac):
            yield problem(host, "mac", f"{port.mac!r} is not a MAC address in lower case with colons")
    for mac, times in Counter(port.mac for port in host.ports).items():
        if times > 1:
            yield problem(
                host, "mac", f"{times} NICs have the MAC address {mac}", "such a machine needs `halligan match`"
            )
    named = [port.interface for port in host.ports] + [bond.name for bond in host.bonds]
    tagged = {(vlan_name(_named(host, nic.base), nic.vlan), nic.base, nic.vlan) for nic in host.networks if nic.vlan}
    named += [name for name, _, _ in tagged]
    for name, times in Counter(named).items():
        if not _INTERFACE.fullmatch(name):
            yield problem(
                host, "interface", f"{name!r} cannot be an interface's name", "at most 15 letters, digits, ._-"
            )
        if times > 1:
            yield problem(host, "interface", f"{times} interfaces would be called {name}", "give one another name")


def _bonds(host: Host) -> Iterator[Problem]:
    known = {port.mac for port in host.ports}
    members = Counter(mac for bond in host.bonds for mac in bond.members)
    for bond in host.bonds:
        yield from _bond(host, bond)
        for mac in bond.members:
            if mac not in known:
                yield problem(host, "unknown-mac", f"{bond.name}: the machine has no NIC {mac}", _macs(host))
    for mac, times in members.items():
        if times > 1:
            yield problem(host, "bond", f"the NIC {mac} is a member {times} times")
    for nic in host.networks:
        if nic.mac in members:
            yield problem(host, "bond", f"network {nic.network} is on {nic.mac}, a member of a bond", "name the bond")


def _bond(host: Host, bond: Bond) -> Iterator[Problem]:
    if not bond.members:
        yield problem(host, "bond", f"{bond.name} has no members")
    if bond.mode not in BOND_MODES:
        yield problem(host, "bond", f"{bond.name}: there is no bond mode {bond.mode!r}", f"{', '.join(BOND_MODES)}")
    for key, value in bond.parameters.items():
        if key not in BOND_PARAMETERS:
            yield problem(host, "bond", f"{bond.name}: {key!r} is no parameter of a bond", _listed(BOND_PARAMETERS))
        elif not isinstance(value, str | int | list):
            yield problem(host, "bond", f"{bond.name}: {key} must be a number, a word or a list")


def _networks(host: Host) -> Iterator[Problem]:
    if not any(nic.address for nic in host.networks):
        yield problem(host, "address", "it has no address in any network, nobody could reach it")
    known = interfaces(host)
    for nic in host.networks:
        yield from _nic(host, nic, known)
    for address, times in Counter(nic.address for nic in host.networks if nic.address).items():
        if times > 1:
            yield problem(host, "address", f"{times} networks have the address {address}")
    for one, other in combinations(host.networks, 2):
        if (one.base, one.vlan) == (other.base, other.vlan) and one.mtu != other.mtu:
            yield problem(
                host, "mtu", f"networks {one.network} and {other.network} share an interface but not its MTU", "use one"
            )


def _nic(host: Host, nic: Nic, known: Mapping[str, str]) -> Iterator[Problem]:
    where = f"network {nic.network}"
    if bool(nic.mac) == bool(nic.bond):
        yield problem(host, "port", f"{where} must be on one port or one bond")
    elif nic.base not in known:
        what = "bond" if nic.bond else "NIC"
        yield problem(host, "unknown-mac", f"{where}: the machine has no {what} {nic.base}", _macs(host))
    if not 0 <= nic.vlan <= 4094:
        yield problem(host, "vlan", f"{where}: {nic.vlan} is not a VLAN id", "1 to 4094, or 0 for untagged")
    if not 576 <= nic.mtu <= 65535:
        yield problem(host, "mtu", f"{where}: {nic.mtu} is not an MTU", "576 to 65535 bytes")
    elif nic.vlan and nic.mtu > base_mtu(host, nic.base):
        yield problem(
            host,
            "mtu",
            f"{where}: its MTU {nic.mtu} does not pass through the port, which has {base_mtu(host, nic.base)}",
            "the untagged network on that port decides; raise its MTU or move one of the two",
        )
    if nic.address:
        yield from _address(host, nic)
    elif nic.gateway:
        yield problem(host, "gateway", f"{where}: a gateway without an address of our own")


def _address(host: Host, nic: Nic) -> Iterator[Problem]:
    where = f"network {nic.network}"
    own = address_of(nic)
    if own is None:
        yield problem(host, "address", f"{where}: {nic.address}/{nic.prefix} is not an address with its prefix length")
        return
    last = own.max_prefixlen - 1
    edges = (own.network.network_address, own.network.broadcast_address) if own.version == 4 else ()
    if own.network.prefixlen < last and own.ip in edges:
        yield problem(host, "address", f"{where}: {own.ip} is the address of the network {own.network} itself")
    if not nic.gateway:
        return
    if not _is_address(nic.gateway) or ip_address(nic.gateway) not in own.network:
        yield problem(host, "gateway", f"{where}: the gateway {nic.gateway} is not in {own.network}")
    elif ip_address(nic.gateway) == own.ip:
        yield problem(host, "gateway", f"{where}: the gateway {nic.gateway} is the host itself")


def _routes(host: Host) -> Iterator[Problem]:
    for version in (4, 6):
        ways = [nic for nic in host.networks if nic.gateway and (own := address_of(nic)) and own.version == version]
        if len(ways) > 1:
            yield problem(
                host,
                "two-routes",
                f"networks {_listed(nic.network for nic in ways)} would each be the default route (IPv{version})",
                "keep the gateway of one",
            )


def address_of(nic: Nic) -> IPv4Interface | IPv6Interface | None:
    """Return address and network of a NIC, None if it has none or a malformed one."""
    try:
        return ip_interface(f"{nic.address}/{nic.prefix}") if nic.address else None
    except ValueError:
        return None


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _named(host: Host, base: str) -> str:
    return interfaces(host).get(base, base)


def _macs(host: Host) -> str:
    seen = ", ".join(f"{port.mac} ({port.interface})" for port in host.ports) or "none"
    return f"discovery saw {seen}"


def _listed(names: Sequence[str] | frozenset[str] | Iterator[str]) -> str:
    return ", ".join(sorted(names))
