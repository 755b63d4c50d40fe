"""OpenStack's ConfigDrive v2, which cloud-init and cloudbase-init read alike; and its Windows flavour."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from ipaddress import IPv4Interface
from uuid import NAMESPACE_URL, uuid5

from orchestrator.errors import Problem
from orchestrator.model import Json
from orchestrator.seed.userdata import cloud_config
from orchestrator.seed.values import (
    Bond,
    Host,
    Nic,
    Seed,
    address_of,
    base_mtu,
    check,
    interfaces,
    problem,
    vlan_name,
)
from orchestrator.seed.winrm import script

LATEST = "openstack/latest"
CHUNK = 255  # cloudbase-init reads a certificate from values of at most this length
NETBIOS = re.compile(r"(?![0-9]+$)[A-Za-z0-9](?:[A-Za-z0-9-]{0,13}[A-Za-z0-9])?")


def openstack(host: Host) -> Seed:
    """Return the ConfigDrive v2 seed of a Linux host (Nova's "Config drives" and its network_data schema).

    Raises:
        ProblemsError: everything that is wrong with the host.
    """
    check(host, *_long_names(host))
    return _seed(host, _meta(host), cloud_config(host))


def _long_names(host: Host) -> Iterator[Problem]:
    """Yield VLANs whose name the kernel would refuse: here cloud-init makes it itself, from the port's."""
    names = interfaces(host)
    for base, vlan in dict.fromkeys((nic.base, nic.vlan) for nic in host.networks if nic.vlan):
        if len(name := f"{names.get(base, base)}.{vlan}") > 15:
            yield problem(
                host,
                "interface",
                f"cloud-init would call VLAN {vlan} {name}, which is too long for a name",
                "give the port a shorter name in the profile's `interfaces`",
            )


def windows(host: Host) -> Seed:
    """Return the ConfigDrive v2 seed of a Windows host, for cloudbase-init.

    Its user_data opens WinRM over HTTPS. There is no password in it: cloudbase-init gives the account one that nobody
    knows, and maps the controller's client certificate to the account.

    Raises:
        ProblemsError: everything that is wrong with the host, for Windows.
    """
    check(host, *_unfit(host))
    meta = _meta(host)
    chunks = [host.client_certificate[i : i + CHUNK] for i in range(0, len(host.client_certificate), CHUNK)]
    meta["meta"] = {"admin_username": host.user} | {f"admin_cert{index}": part for index, part in enumerate(chunks)}
    return _seed(host, meta, script(host))


def _unfit(host: Host) -> Iterator[Problem]:
    if not NETBIOS.fullmatch(host.name):
        yield problem(
            host,
            "windows-name",
            "Windows cannot be called that",
            "a computer name has at most 15 letters, digits and dashes, no dots, and not digits only",
        )
    if not host.platform.startswith("windows"):
        yield problem(host, "platform", f"its platform is {host.platform}, not windows")
    if host.user_data or host.write_files:
        yield problem(
            host,
            "user-data",
            "the profile's user_data is cloud-config, which our Windows seed has no place for",
            "let a role do it",
        )
    if (
        host.client_certificate.count("-----BEGIN ") != 1
        or "-----BEGIN CERTIFICATE-----" not in host.client_certificate
    ):
        yield problem(
            host,
            "client-certificate",
            "the controller needs one client certificate (PEM, without its key) to log in with",
            "WinRM takes it instead of a password",
        )


def _seed(host: Host, meta: dict[str, Json], user_data: str) -> Seed:
    return Seed(
        kind="configdrive",
        files={
            f"{LATEST}/meta_data.json": _json(meta),
            f"{LATEST}/network_data.json": _json(network_data(host)),
            f"{LATEST}/user_data": user_data,
        },
    )


def _json(value: Json) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def _meta(host: Host) -> dict[str, Json]:
    return {
        # What tells one install from the next, so that every first-start step runs again.
        "uuid": str(uuid5(NAMESPACE_URL, f"halligan:{host.name}:{host.generation}")),
        "name": host.name,
        "hostname": host.name,
        "launch_index": 0,
        "public_keys": {f"halligan-{index}": key for index, key in enumerate(host.authorized_keys)},
    }


# --- network_data.json --------------------------------------------------------------------------------------------


def network_data(host: Host) -> dict[str, Json]:
    """Return links, networks and services as Nova's schema has them."""
    return {
        "links": [*_ports(host), *(_bond(host, bond) for bond in host.bonds), *_vlans(host)],
        "networks": [_network(host, index, nic) for index, nic in enumerate(host.networks) if nic.address],
        "services": [{"type": "dns", "address": server} for server in host.dns],
    }


def _ports(host: Host) -> Iterator[dict[str, Json]]:
    members = {mac: bond.name for bond in host.bonds for mac in bond.members}
    used = {nic.mac for nic in host.networks} | set(members)
    for port in host.ports:
        if port.mac in used:
            yield {
                "id": port.interface,
                "name": port.interface,
                "type": "phy",
                "ethernet_mac_address": port.mac,
                "mtu": base_mtu(host, members.get(port.mac, port.mac)),
            }


def _bond(host: Host, bond: Bond) -> dict[str, Json]:
    names = interfaces(host)
    link: dict[str, Json] = {
        "id": bond.name,
        "name": bond.name,
        "type": "bond",
        "ethernet_mac_address": bond.members[0],
        "bond_mode": bond.mode,
        "bond_links": [names[mac] for mac in bond.members],
        "bond_miimon": bond.parameters.get("mii-monitor-interval", 100),
        "mtu": base_mtu(host, bond.name),
    }
    if "transmit-hash-policy" in bond.parameters:
        link["bond_xmit_hash_policy"] = bond.parameters["transmit-hash-policy"]
    return link


def _vlans(host: Host) -> Iterator[dict[str, Json]]:
    names = interfaces(host)
    first = {bond.name: bond.members[0] for bond in host.bonds}
    for base, vlan, mtu in dict.fromkeys((nic.base, nic.vlan, nic.mtu) for nic in host.networks if nic.vlan):
        yield {
            "id": vlan_name(names[base], vlan),
            "name": vlan_name(names[base], vlan),
            "type": "vlan",
            "vlan_link": names[base],
            "vlan_id": vlan,
            "vlan_mac_address": first.get(base, base),
            "mtu": mtu,
        }


def _network(host: Host, index: int, nic: Nic) -> dict[str, Json]:
    own = address_of(nic)
    assert own is not None, "check() refused addresses that cannot be read"
    base = interfaces(host)[nic.base]
    every = "0.0.0.0" if isinstance(own, IPv4Interface) else "::"  # noqa: S104 - the default route, nothing is bound
    route = {"network": every, "netmask": every, "gateway": nic.gateway}
    return {
        "id": f"network{index}",
        "network_id": nic.network,
        "link": vlan_name(base, nic.vlan) if nic.vlan else base,
        "type": f"ipv{own.version}",
        "ip_address": str(own.ip),
        "netmask": str(own.netmask),
        "routes": [route] if nic.gateway else [],
    }
