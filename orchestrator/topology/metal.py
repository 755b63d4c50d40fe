"""Bare metal in the topology: the life-cycle steps as roles that Halligan itself has, and what each machine's get."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property

from orchestrator.errors import Problem
from orchestrator.lifecycle import stage_contracts
from orchestrator.model import Catalog, Json, Node, Profile, SecretRef, Spec, Value
from orchestrator.ranges import fold
from orchestrator.variables import Variables

__all__ = ["MachineInputs", "is_metal", "with_stages"]


def is_metal(node: Node) -> bool:
    """Whether a node's machine is switched on, discovered and installed by us."""
    return bool(node.profile)


def with_stages(spec: Spec, catalog: Catalog) -> Catalog:
    """Return the catalogue with the life-cycle steps, if the site has bare metal at all."""
    if not any(is_metal(node) for node in spec.nodes.values()):
        return catalog
    return {**catalog, **stage_contracts()}


class MachineInputs:
    """What the life-cycle steps of a node are told: one mapping for all five. Holds caches and collects problems."""

    def __init__(self, spec: Spec, variables: Variables) -> None:
        self._spec = spec
        self._variables = variables
        self._made: dict[str, Mapping[str, Value]] = {}
        self._profiles = {name: _profile(profile) for name, profile in spec.profiles.items()}
        self._without: dict[str, list[str]] = defaultdict(list)
        self._misshapen: dict[str, list[str]] = defaultdict(list)
        self._plain: dict[str, list[str]] = defaultdict(list)

    def of(self, node: Node) -> Mapping[str, Value]:
        if node.name not in self._made:
            self._made[node.name] = {
                "mac": node.mac,
                "serial": node.serial,
                "match": node.match,
                "wiring": node.wiring,
                "bmc": self._bmc(node),
                "profile": self._profiles.get(node.profile, {}),
                "networks": self._networks(node),
                "boot_network": self._spec.boot.network,
            }
        return self._made[node.name]

    def problems(self) -> list[Problem]:
        found = []
        for name, nodes in sorted(self._without.items()):
            summary = f"bmc.credential of {fold(nodes, 5)} names the variable {name}, which is not set there"
            found.append(self._problem(summary, nodes))
        for name, nodes in sorted(self._misshapen.items()):
            summary = f"the variable {name}, bmc.credential of {fold(nodes, 5)}, has no user and password"
            found.append(self._problem(summary, nodes))
        for name, nodes in sorted(self._plain.items()):
            summary = f"the password in the variable {name}, bmc.credential of {fold(nodes, 5)}, is not encrypted"
            found.append(self._problem(summary, nodes))
        return found

    def _problem(self, summary: str, nodes: list[str]) -> Problem:
        return Problem(
            code="topology.bmc-credential",
            summary=summary,
            where=self._spec.nodes[nodes[0]].where,
            hint="a mapping with user and password, the password encrypted with Ansible Vault",
        )

    def _bmc(self, node: Node) -> Mapping[str, Value]:
        if node.bmc is None:
            return {}
        found: dict[str, Value] = {"driver": node.bmc.driver, "address": node.bmc.address, "ca": node.bmc.ca}
        name = node.bmc.credential
        if not name:
            return found
        value = self._variables.followed(node.name, name)
        if value is None:
            self._without[name].append(node.name)
        elif not isinstance(value, SecretRef) and not (
            isinstance(value, Mapping) and {"user", "password"} <= set(value)
        ):
            self._misshapen[name].append(node.name)
        elif isinstance(value, Mapping) and not isinstance(value["password"], SecretRef):
            self._plain[name].append(node.name)  # it would stand in plans and in the store
        else:
            found["credential"] = value
        return found

    @cached_property
    def _cidrs(self) -> Mapping[str, ipaddress.IPv4Network | ipaddress.IPv6Network]:
        return {name: ipaddress.ip_network(network.cidr) for name, network in self._spec.networks.items()}

    def _networks(self, node: Node) -> list[Json]:
        """Return the node's addresses, that of management first, each with what its network says."""
        found = []
        if node.address:
            address = ipaddress.ip_address(node.address)
            name = next((name for name, cidr in self._cidrs.items() if address in cidr), "")
            found.append(self._network(name, node.address))
        return [*found, *(self._network(name, address) for name, address in sorted(node.addresses.items()))]

    def _network(self, name: str, address: str) -> Json:
        network = self._spec.networks.get(name)
        if network is None:
            return {"name": name, "address": address}
        return {
            "name": name,
            "address": address,
            "cidr": network.cidr,
            "gateway": network.gateway,
            "vlan": network.vlan,
            "mtu": network.mtu,
            "dns": list(network.dns),
        }


def _profile(profile: Profile) -> Mapping[str, Json]:
    return {
        "name": profile.name,
        "image": profile.image,
        "firmware": profile.firmware,
        "root_disk": profile.root_disk,
        "expect": profile.expect,
        "interfaces": profile.interfaces,
        "user_data": profile.user_data,
    }
