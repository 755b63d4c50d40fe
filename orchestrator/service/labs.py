"""The local lab of a site: which of its nodes that is, and how they and their power are reached."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import HalliganError
from orchestrator.model import Bmc, Connection, Json, Node, SecretRef, Spec

if TYPE_CHECKING:
    from orchestrator.lab import Lab

__all__ = ["PASSWORD", "lab_of", "password", "with_lab"]

PASSWORD = "lab:bmc-password"  # noqa: S105 - the name of a reference, not a password
"""What the reference to the password of a lab's BMCs names as its file: the lab keeps it, no vault does."""

_CREDENTIAL = "halligan_lab_bmc"


def lab_of(spec: Spec, site: str, state_dir: Path) -> Lab | None:
    """Return the lab of a site, None for a site without lab nodes."""
    nodes = [node for node in spec.nodes.values() if node.lab]
    if not nodes:
        return None
    import ipaddress  # with the lab: most sites have none, and every command would pay for it

    from orchestrator.lab import Lab

    for network in spec.networks.values():
        cidr = ipaddress.ip_network(network.cidr)
        if all(ipaddress.ip_address(node.address) in cidr for node in nodes):
            return Lab(
                site=site,
                cidr=network.cidr,
                gateway=network.gateway or str(cidr[1]),
                nodes=tuple(_lab_node(spec, node) for node in nodes),
                state_dir=state_dir,
            )
    raise HalliganError(
        f"no network of site {site} holds the addresses of all its lab nodes",
        hint="a lab is one network; give its nodes addresses of the same one",
    )


def _lab_node(spec: Spec, node: Node):  # type: ignore[no-untyped-def]  # LabNode, imported with the lab
    from orchestrator.lab import LabNode

    if node.lab != "vm":
        return LabNode(name=node.name, address=node.address)
    profile = spec.profiles[node.profile]
    return LabNode(
        name=node.name,
        address=node.address,
        kind=node.lab,
        mac=node.mac,
        serial=node.serial,
        firmware=profile.firmware,
    )


def with_lab(spec: Spec, lab: Lab) -> Spec:
    """Return the spec, lab nodes with the connection that the lab gives them, and its machines with their BMCs."""
    from orchestrator.lab import connection, machine_known_hosts

    link = connection(lab)
    container = Connection(
        transport="ssh",
        user=link.user,
        private_key=str(link.private_key),
        known_hosts=str(link.known_hosts),
        proxy_command=link.proxy_command,
    )
    machine = replace(container, known_hosts=str(machine_known_hosts(lab)))
    nodes = dict(spec.nodes)
    for name, node in spec.nodes.items():
        if node.lab == "vm":
            nodes[name] = _with_bmc(lab, replace(node, connection=machine))
        elif node.lab:
            nodes[name] = replace(node, connection=container)
    return replace(spec, nodes=nodes)


def _with_bmc(lab: Lab, node: Node) -> Node:
    from orchestrator.lab import bmc_of

    found = bmc_of(lab, node.name)
    told: Mapping[str, Json] = {
        "user": found.user,
        "password": SecretRef(file=PASSWORD, key=str(found.password_file), fingerprint=_mark(found.password_file)),
    }
    bmc = Bmc(driver="redfish", address=found.address, ca=str(found.ca), credential=_CREDENTIAL)
    return replace(node, bmc=bmc, vars={**node.vars, _CREDENTIAL: told})


def password(ref: SecretRef) -> str:
    """Return what a reference to a lab's password stands for."""
    try:
        return Path(ref.key).read_text()
    except OSError as error:
        raise HalliganError(
            f"the lab's BMC password cannot be read: {error.strerror}", hint="bring the lab up: `halligan lab up`"
        ) from None


def _mark(path: Path) -> str:
    """Tell one password from the next without telling anything about it: it is 0600, and made anew with the lab."""
    return hashlib.sha256(str(path).encode()).hexdigest()[:16]
