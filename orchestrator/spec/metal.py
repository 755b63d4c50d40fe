"""What bare metal needs of a spec: the boot section, rules over facts, and enough to know each node's machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping

from orchestrator import matching
from orchestrator.errors import closest
from orchestrator.model import Boot, Network, Node, Profile
from orchestrator.spec import nodes
from orchestrator.spec.schema import BootModel, ClusterModel, NodeModel
from orchestrator.yaml import Findings, Path, dotted

__all__ = ["BMC_DRIVERS", "boot", "check_entries", "check_rules", "check_site"]

BMC_DRIVERS = ("redfish", "ipmi", "manual")

_RANGE_HINT = 'for example "10.77.0.100-10.77.0.199"'


def boot(findings: Findings, model: BootModel | None, networks: Mapping[str, Network]) -> Boot:
    """Return how machines boot; notes a range or address that is not in the network they boot in."""
    if model is None:
        return Boot()
    first, last = _leases(findings, model, networks.get(model.network))
    if model.address:
        _inside(findings, ("boot", "address"), model.address, networks.get(model.network))
    if model.http_port == model.https_port:
        findings.error(
            "spec.boot", ("boot", "https_port"), f"boot.http_port and boot.https_port are both {model.http_port}"
        )
    return Boot(
        network=model.network,
        dhcp=model.dhcp,
        first=first,
        last=last,
        interface=model.interface,
        address=model.address,
        http_port=model.http_port,
        https_port=model.https_port,
        unknown=model.unknown,
    )


def _leases(findings: Findings, model: BootModel, network: Network | None) -> tuple[str, str]:
    path = ("boot", "range")
    if model.dhcp != "server":
        if model.range:
            summary = f"boot.range is what our own DHCP server leases; with dhcp: {model.dhcp} there is none"
            findings.error("spec.boot", path, summary, hint="take one of the two out")
        return "", ""
    if not model.range:
        summary = "boot.dhcp is server, and boot.range does not say which addresses it may lease"
        findings.error("spec.boot", ("boot",), summary, hint=f"range: {_RANGE_HINT.removeprefix('for example ')}")
        return "", ""
    first, dash, last = (part.strip() for part in model.range.partition("-"))
    if not dash:
        findings.error("spec.boot", path, f'boot.range is no range of addresses: "{model.range}"', hint=_RANGE_HINT)
        return "", ""
    if not (_inside(findings, path, first, network) and _inside(findings, path, last, network)):
        return "", ""
    if ipaddress.ip_address(first).packed > ipaddress.ip_address(last).packed:
        findings.error("spec.boot", path, f"boot.range ends before it begins: {first} is after {last}")
        return "", ""
    return first, last


def _inside(findings: Findings, path: Path, text: str, network: Network | None) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        findings.error("spec.address", path, f'{dotted(path)} is not an IP address: "{text}"', hint=_RANGE_HINT)
        return False
    if network is not None and address not in ipaddress.ip_network(network.cidr):
        summary = f"{dotted(path)}: {address} is outside of the network {network.name} ({network.cidr})"
        findings.error("spec.address-outside", path, summary)
        return False
    return True


def check_rules(findings: Findings, model: ClusterModel) -> None:
    """Note everything that is wrong with rules over facts, wherever they stand."""
    for name, profile in model.profiles.items():
        _note(findings, ("profiles", name, "expect"), matching.check(profile.expect))
        _note(findings, ("profiles", name, "root_disk"), matching.check_disk(profile.root_disk))
    for key, node in model.nodes.items():
        if node:
            _note(findings, ("nodes", key, "match"), matching.check(node.match))
            _note(findings, ("nodes", key, "wiring"), matching.check_wiring(node.wiring))


def _note(findings: Findings, path: Path, faults: Iterable[matching.Fault]) -> None:
    for fault in faults:
        where = (*path, *fault.path)
        findings.error("spec.rule", where, f"{dotted(where)}: {fault.summary}", hint=fault.hint)


def check_entries(findings: Findings, entries: Iterable[nodes.Entry], profiles: Collection[str]) -> None:
    """Note what an entry of `nodes:` says of hardware that cannot be."""
    for entry in entries:
        path, model = ("nodes", entry.key), entry.model
        if model.bmc and model.bmc.driver not in BMC_DRIVERS:
            findings.error(
                "spec.bmc-driver",
                (*path, "bmc", "driver"),
                f'there is no BMC driver "{model.bmc.driver}".{closest(model.bmc.driver, BMC_DRIVERS)}',
                hint=f"drivers are {', '.join(BMC_DRIVERS)}",
            )
        if model.serial and len(entry.names) > 1:
            summary = f"{len(entry.names)} nodes cannot have one serial number"
            findings.error("spec.serial", (*path, "serial"), summary, hint="give each node an entry of its own")
        if model.lab == "vm":
            _lab_machine(findings, path, model)
        elif model.profile in profiles and not (model.mac or model.serial or model.match):
            findings.error(
                "spec.no-machine",
                path,
                "nothing says which machine this bare-metal node is",
                hint="give it a mac, a serial, or a match rule over discovered facts",
            )


def _lab_machine(findings: Findings, path: Path, model: NodeModel) -> None:
    missing = [word for word, value in (("profile", model.profile), ("mac", model.mac)) if not value]
    if missing:
        summary = f"a lab machine is bare metal: it needs {' and '.join(missing)}"
        findings.error("spec.lab-vm", path, summary, hint='for example mac: "52:54:00:77:00:21"')
    if model.bmc:
        findings.error("spec.lab-vm", (*path, "bmc"), "a lab machine's power is the lab's own: take bmc out")


def check_site(findings: Findings, site_boot: Boot, profiles: Mapping[str, Profile], found: Mapping[str, Node]) -> None:
    """Note bare metal in a site that does not say how machines boot, and leases that are nodes' own addresses."""
    metal = next((node for node in found.values() if node.profile in profiles), None)
    if metal and not site_boot.network:
        findings.error(
            "spec.no-boot",
            ("nodes",),
            f"{metal.name} is bare metal (it has a profile), and the site has no boot section",
            hint="boot: {network: NAME, range: FIRST-LAST} says how machines boot over the network",
        )
    if not site_boot.first:
        return
    low, high = (ipaddress.ip_address(text) for text in (site_boot.first, site_boot.last))
    for node in found.values():
        for text in (node.address, *node.addresses.values()):
            address = ipaddress.ip_address(text) if text else None
            if address and address.version == low.version and low.packed <= address.packed <= high.packed:
                findings.error(
                    "spec.boot",
                    ("boot", "range"),
                    f"boot.range would lease {address}, which is the address of {node.name}",
                    hint="keep the addresses of nodes out of the range",
                )
                return
