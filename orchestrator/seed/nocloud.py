"""cloud-init's NoCloud seed: meta-data, user-data, and network-config version 2."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Interface

from orchestrator.model import Json
from orchestrator.seed.userdata import cloud_config, dump
from orchestrator.seed.values import Host, Nic, Seed, address_of, base_mtu, check, interfaces, vlan_name

DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}  # "default" is newer than the cloud-init of Debian 12


def linux(host: Host) -> Seed:
    """Return the NoCloud seed of a Linux host (cloud-init documentation, datasource NoCloud).

    Raises:
        ProblemsError: everything that is wrong with the host.
    """
    check(host)
    return Seed(
        kind="nocloud",
        files={
            "meta-data": dump({"instance-id": host.instance, "local-hostname": host.name}),
            "user-data": cloud_config(host),
            "network-config": dump(network_config(host)),
        },
    )


def network_config(host: Host) -> dict[str, Json]:
    """Return the network configuration, version 2 (a subset of netplan's, which cloud-init explains).

    NICs are found by MAC and get their names set: bonds and VLANs name their ports, and kernel names may move.
    """
    names = interfaces(host)
    bases = dict.fromkeys(nic.base for nic in host.networks)
    members = {mac: bond for bond in host.bonds for mac in bond.members}
    config: dict[str, Json] = {"version": 2, "ethernets": {}}
    for port in host.ports:
        if port.mac in bases or port.mac in members:
            base = members[port.mac].name if port.mac in members else port.mac
            entry = {"match": {"macaddress": port.mac}, "set-name": port.interface, "dhcp4": False, "dhcp6": False}
            config["ethernets"][port.interface] = entry | _mtu(base_mtu(host, base)) | _settings(host, port.mac, 0)
    if host.bonds:
        config["bonds"] = {bond.name: _bond(host, bond.name, names) for bond in host.bonds}
    tagged = dict.fromkeys((nic.base, nic.vlan, nic.mtu) for nic in host.networks if nic.vlan)
    if tagged:
        config["vlans"] = {
            vlan_name(names[base], vlan): {"id": vlan, "link": names[base], "dhcp4": False, "dhcp6": False}
            | _mtu(mtu)
            | _settings(host, base, vlan)
            for base, vlan, mtu in tagged
        }
    return config


def _bond(host: Host, name: str, names: Mapping[str, str]) -> dict[str, Json]:
    bond = next(bond for bond in host.bonds if bond.name == name)
    return (
        {
            "interfaces": [names[mac] for mac in bond.members],
            # Without a monitor the kernel never notices that a member is gone.
            "parameters": {"mode": bond.mode, "mii-monitor-interval": 100, **bond.parameters},
            "dhcp4": False,
            "dhcp6": False,
        }
        | _mtu(base_mtu(host, name))
        | _settings(host, name, 0)
    )


def _mtu(mtu: int) -> dict[str, Json]:
    return {"mtu": mtu} if mtu != 1500 else {}


def _settings(host: Host, base: str, vlan: int) -> dict[str, Json]:
    """Return addresses, routes and DNS servers of one interface."""
    there = [nic for nic in host.networks if (nic.base, nic.vlan) == (base, vlan)]
    found: dict[str, Json] = {}
    if any(nic.address for nic in there):
        found["addresses"] = [f"{nic.address}/{nic.prefix}" for nic in there if nic.address]
    routes = [{"to": DEFAULT[_version(nic)], "via": nic.gateway} for nic in there if nic.gateway]
    if routes:
        found["routes"] = routes
    if host.dns and dns_carrier(host) in there:
        found["nameservers"] = {"addresses": list(host.dns)}
    return found


def _version(nic: Nic) -> int:
    return 4 if isinstance(address_of(nic), IPv4Interface) else 6


def dns_carrier(host: Host) -> Nic:
    """Return the network whose interface carries the DNS servers: that of the default route, or the first one."""
    addressed = [nic for nic in host.networks if nic.address]
    return next((nic for nic in addressed if nic.gateway), addressed[0])
