"""From the spec to a host: which of a machine's ports carries which of a node's networks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network

from orchestrator.errors import Problem, ProblemsError, closest
from orchestrator.model import Json, Network, Node, Profile
from orchestrator.seed.values import Bond, File, Host, Nic, Port

KEYS = ("port", "members", "mode", "parameters", "networks")

_MAC = re.compile(r"[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}")
_NTH = re.compile(r"nic([0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One interface of a profile, its ports found in the machine: a bond with `members`, or a port with its name."""

    name: str
    members: tuple[str, ...] = ()
    mode: str = "active-backup"
    parameters: Mapping[str, Json] = field(default_factory=dict)
    port: str = ""
    networks: tuple[str, ...] = ()


def host(
    *,
    node: Node,
    profile: Profile,
    networks: Mapping[str, Network],
    boot_network: str,
    ports: Sequence[Port],
    boot_mac: str,
    generation: int,
    authorized_keys: Sequence[str],
    dns: Sequence[str] = (),
    write_files: Sequence[File] = (),
    client_certificate: str = "",
) -> Host:
    """Return what a node's system is to be on a machine with `ports` that booted through the one with `boot_mac`.

    A profile's `interfaces` say what discovery cannot know, by the name that the interface gets:

        bond0: {members: [eno1, eno2], mode: 802.3ad, parameters: {lacp-rate: fast}, networks: [mgmt, tenant]}
        storage0: {port: "52:54:00:00:00:03", networks: [storage]}
        eno4: {networks: [external]}

    A port is named by its MAC, by the name that discovery saw, by its place ("nic0" is the first that discovery lists)
    or as "boot". Networks that no interface lists: the boot network is on the port that booted, those with a VLAN id
    are tagged on the same interface. The boot network itself is never tagged, since firmware cannot tag: its switch
    port must have it as native VLAN. The default route goes through the network of the node's own `address`, or the
    first of its networks that has a gateway.

    Raises:
        ProblemsError: the profile's interfaces do not fit the machine or the node's networks.
    """
    layout = _Layout(node, networks, boot_network, ports, boot_mac)
    entries = [entry for name, given in profile.interfaces.items() if (entry := layout.entry(name, given))]
    placed = layout.nics(entries)
    if layout.problems:
        raise ProblemsError(layout.problems)
    called = {entry.port: entry.name for entry in entries if entry.port}
    return Host(
        name=node.name,
        generation=generation,
        user=node.connection.user or "halligan",
        authorized_keys=tuple(authorized_keys),
        ports=tuple(replace(port, name=called.get(port.mac, port.name)) for port in ports),
        networks=placed,
        bonds=tuple(
            Bond(name=entry.name, members=entry.members, mode=entry.mode, parameters=entry.parameters)
            for entry in entries
            if entry.members
        ),
        dns=tuple(dns),
        write_files=tuple(write_files),
        user_data=profile.user_data,
        platform=node.platform,
        client_certificate=client_certificate,
    )


class _Layout:
    """The walk through a profile's interfaces; collects what is wrong with them."""

    def __init__(
        self,
        node: Node,
        networks: Mapping[str, Network],
        boot_network: str,
        ports: Sequence[Port],
        boot_mac: str,
    ) -> None:
        self.problems: list[Problem] = []
        self._node = node
        self._networks = networks
        self._boot_network = boot_network
        self._ports = ports
        self._boot_mac = boot_mac
        if boot_mac not in {port.mac for port in ports}:
            self._wrong("unknown-mac", f"it booted through {boot_mac or 'an unknown NIC'}, which discovery did not see")

    def _wrong(self, code: str, text: str, hint: str = "") -> None:
        self.problems.append(
            Problem(code=f"seed.{code}", summary=f"{self._node.name}: {text}", where=self._node.where, hint=hint)
        )

    # --- interfaces of the profile

    def entry(self, name: str, given: Json) -> _Entry | None:
        if not isinstance(given, Mapping):
            self._wrong("interface", f"interface {name} must be a mapping with {', '.join(KEYS)}")
            return None
        before = len(self.problems)
        self._check(name, given)
        members = self._texts(name, "members", given.get("members", []))
        wanted = self._texts(name, "networks", given.get("networks", []))
        for network in wanted:
            if network not in self._networks:
                self._wrong("network", f"interface {name}: no network {network}.{closest(network, self._networks)}")
        bond = "members" in given
        found = [self._port(name, reference) for reference in (members if bond else (str(given.get("port", name)),))]
        if len(self.problems) > before:
            return None
        if not bond:
            return _Entry(name=name, port=found[0], networks=wanted)
        mode = str(given.get("mode", "active-backup"))
        return _Entry(
            name=name, members=tuple(found), mode=mode, parameters=given.get("parameters", {}), networks=wanted
        )

    def _check(self, name: str, given: Mapping[str, Json]) -> None:
        for key in given:
            if key not in KEYS:
                self._wrong("interface", f"interface {name}: there is no {key}.{closest(str(key), KEYS)}")
        if "port" in given and "members" in given:
            self._wrong("interface", f"interface {name} is a port or a bond, not both", "leave out `port` or `members`")
        if not isinstance(given.get("parameters", {}), Mapping):
            self._wrong("bond", f"interface {name}: `parameters` must be a mapping")
        if "members" in given and not given["members"]:
            self._wrong("bond", f"interface {name}: a bond without members", "list its ports")
        if "members" not in given and ("mode" in given or "parameters" in given):
            self._wrong("bond", f"interface {name} has a mode or parameters, but no members", "list the bond's members")

    def _texts(self, name: str, key: str, value: Json) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            self._wrong("interface", f"interface {name}: `{key}` must be a list of names")
            return ()
        return tuple(value)

    def _port(self, name: str, reference: str) -> str:
        """Return the MAC of a port that a profile refers to."""
        low = reference.lower()
        by_name = {port.name: port.mac for port in self._ports if port.name}
        nth = _NTH.fullmatch(low)
        if reference in by_name:
            return by_name[reference]
        if _MAC.fullmatch(low) and (mac := low.replace("-", ":")) in {port.mac for port in self._ports}:
            return mac
        if low == "boot":
            return self._boot_mac
        if nth and int(nth[1]) < len(self._ports):
            return self._ports[int(nth[1])].mac
        seen = ", ".join(f"{port.interface} ({port.mac})" for port in self._ports) or "none"
        self._wrong(
            "unknown-mac",
            f"interface {name}: the machine has no NIC {reference}.{closest(reference, by_name)}",
            f"discovery saw {seen}",
        )
        return ""

    # --- networks of the node

    def nics(self, entries: Sequence[_Entry]) -> tuple[Nic, ...]:
        addresses = dict(self._addresses())
        on: dict[str, _Entry] = {}
        for entry in entries:
            for network in entry.networks:
                if network in on:
                    self._wrong(
                        "network", f"network {network} is on {on[network].name} and on {entry.name}", "keep one"
                    )
                on[network] = entry
        default = self._default(addresses)
        placed = []
        for network in [*addresses, *(name for name in on if name not in addresses)]:
            where = on.get(network) or self._fallback(network, entries, on)
            if where and network in self._networks:
                placed.append(self._nic(network, where, addresses.get(network, ""), network == default))
        return tuple(placed)

    def _addresses(self) -> Iterator[tuple[str, str]]:
        """Yield (network, address): the node's own address first, wherever it lies."""
        own, given = self._node.address, self._node.addresses
        network = next((name for name, address in given.items() if address == own), "") if own else ""
        if own and not network:
            order = sorted(self._networks, key=lambda name: name != self._boot_network)
            network = next((name for name in order if _holds(self._networks[name], own)), "")
            if not network:
                self._wrong("address", f"its address {own} is in no network of the site")
                return
        if network:
            yield network, own
        for name, address in given.items():
            if name not in self._networks:
                self._wrong("network", f"there is no network {name}.{closest(name, self._networks)}")
            elif not _holds(self._networks[name], address):
                self._wrong("address", f"its address {address} is not in network {name}, {self._networks[name].cidr}")
            elif name != network:
                yield name, address

    def _default(self, addresses: Mapping[str, str]) -> str:
        """Return the network of the default route: that of the node's own address if it has a router, else any."""
        return next((name for name in addresses if self._networks[name].gateway), "")

    def _fallback(self, network: str, entries: Sequence[_Entry], on: Mapping[str, _Entry]) -> _Entry | None:
        """Return where a network is that no interface lists."""
        boot = on.get(self._boot_network) or next(
            (entry for entry in entries if self._boot_mac in (*entry.members, entry.port)),
            _Entry(name="boot", port=self._boot_mac),
        )
        if network == self._boot_network or self._networks[network].vlan:
            return boot
        self._wrong(
            "network",
            f"no port is named for network {network}, which has no VLAN id",
            f"add it to an interface of the profile: `interfaces: {{eno2: {{networks: [{network}]}}}}`",
        )
        return None

    def _nic(self, name: str, where: _Entry, address: str, default: bool) -> Nic:
        network = self._networks[name]
        return Nic(
            network=name,
            mac=where.port,
            bond=where.name if where.members else "",
            address=address,
            prefix=ip_network(network.cidr).prefixlen if address else 0,
            gateway=network.gateway if default else "",
            vlan=0 if name == self._boot_network else network.vlan,
            mtu=network.mtu,
        )


def _holds(network: Network, address: str) -> bool:
    try:
        return ip_address(address) in ip_network(network.cidr)
    except ValueError:
        return False
