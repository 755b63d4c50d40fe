"""Nodes: entries of cluster.yml, single or ranges, -> one Node per host."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.errors import Location
from orchestrator.model import Bmc, Connection, Node, Source, Value
from orchestrator.spec import ranges
from orchestrator.spec.addresses import Claims, Networks, macs
from orchestrator.spec.schema import NodeModel
from orchestrator.yaml import Findings

__all__ = ["MAX_NODES", "Entry", "Identities", "Own", "Shared", "build", "entries", "own"]

MAX_NODES = 100_000
"""Nodes that one site may have; a range is measured before it is expanded."""

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One key under `nodes:` and the names it stands for."""

    key: str
    model: NodeModel
    names: tuple[str, ...]
    where: Location | None = None


def entries(findings: Findings, models: Mapping[str, NodeModel | None]) -> list[Entry]:
    """Return the entries whose names are good; notes the others."""
    found: list[Entry] = []
    total = 0
    for key, model in models.items():
        path = ("nodes", key)
        try:
            size = ranges.count(key) if ranges.is_range(key) else 1
        except ValueError as reason:
            findings.error("spec.range", path, f'the node name "{key}" {reason}', hint='for example "kvm-[001:900]"')
            continue
        total += size
        if total > MAX_NODES:
            summary = f'with "{key}" the site has {total:,} nodes or more; at most {MAX_NODES:,} are possible'
            findings.error("spec.too-many-nodes", path, summary)
            break
        names = tuple(ranges.expand(key)) if ranges.is_range(key) else (key,)
        if _check_name(findings, key, names):
            where = findings.document.places.get(path)
            found.append(Entry(key=key, model=model or NodeModel(), names=names, where=where))
    return found


def _check_name(findings: Findings, key: str, names: Sequence[str]) -> bool:
    """Note names that are not host names (RFC 1123); all names of a range are as good as its first and last."""
    for name in (names[0], names[-1]):
        if reason := _fault(name):
            hint = (
                f'for example "{key.replace("_", "-")}"' if "_" in key else "letters, digits and hyphens; dots between"
            )
            findings.error("spec.node-name", ("nodes", key), f'"{name}" is not a host name: {reason}', hint=hint)
            return False
    return True


def _fault(name: str) -> str:
    if len(name) > 253:
        return "it has more than 253 characters"
    try:
        ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        return "it is an IP address, which belongs under address:"
    for label in name.split("."):
        if not label:
            return "a part of it is empty"
        if len(label) > 63:
            return f'"{label[:20]}…" has more than 63 characters'
        if not _LABEL.fullmatch(label):
            odd = re.search(r"[^A-Za-z0-9-]", label)
            return f'"{odd.group()}" is not allowed in it' if odd else f'"{label}" begins or ends with a hyphen'
    return ""


class Identities:
    """What no two nodes may share. Has inner state until `report`."""

    def __init__(self) -> None:
        self._names = Claims("spec.duplicate-node", 'the node "{name}" is defined twice')
        self._addresses = Claims("spec.duplicate-address", "{name} has the address {value} of {owner}")
        self._macs = Claims("spec.duplicate-mac", "{name} has the MAC address {value} of {owner}")
        self._bmcs = Claims("spec.duplicate-bmc", "{name} has the management controller {value} of {owner}")

    def claim(self, entry: Entry, own: Own) -> None:
        path = ("nodes", entry.key)
        self._names.claim(map(str.casefold, entry.names), entry.names, entry.key, path)
        if own.address:
            self._addresses.claim(own.address, entry.names, entry.key, (*path, "address"))
        for network, addresses in own.addresses.items():
            self._addresses.claim(addresses, entry.names, entry.key, (*path, "addresses", network))
        if own.macs:
            self._macs.claim(own.macs, entry.names, entry.key, (*path, "mac"))
        if own.bmcs:
            self._bmcs.claim(own.bmcs, entry.names, entry.key, (*path, "bmc", "address"))

    def report(self, findings: Findings) -> None:
        for claims in (self._names, self._addresses, self._macs, self._bmcs):
            claims.report(findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What each node of an entry has for itself, in the order of the names; empty: nothing."""

    address: Sequence[str] = ()
    addresses: Mapping[str, Sequence[str]]
    macs: Sequence[str] = ()
    bmcs: Sequence[str] = ()


def own(findings: Findings, entry: Entry, networks: Networks) -> Own:
    """Return addresses and MACs of an entry's nodes; notes bad ones."""
    model, count, path = entry.model, len(entry.names), ("nodes", entry.key)
    address = networks.addresses(findings, (*path, "address"), model.address, count) if model.address else ()
    further = {
        network: networks.addresses(findings, (*path, "addresses", network), first, count, network=network)
        for network, first in model.addresses.items()
    }
    return Own(
        address=address,
        addresses={network: addresses for network, addresses in further.items() if addresses},
        macs=macs(findings, (*path, "mac"), model.mac, count) if model.mac else (),
        bmcs=_bmcs(findings, entry) if model.bmc else (),
    )


def _bmcs(findings: Findings, entry: Entry) -> Sequence[str]:
    assert entry.model.bmc is not None
    first = entry.model.bmc.address
    if len(entry.names) == 1:
        return (first,)
    path = ("nodes", entry.key, "bmc", "address")
    try:
        address = ipaddress.ip_address(first)
    except ValueError:
        findings.error(
            "spec.address",
            path,
            f'the management controllers of a range need an IP address that can count up, not "{first}"',
            hint="give nodes with other addresses an entry each",
        )
        return ()
    return [str(address + offset) for offset in range(len(entry.names))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all nodes of an entry have in common."""

    groups: tuple[str, ...]
    platform: str
    connection: Connection
    vars: Mapping[str, Value]
    sources: tuple[Source, ...] = ()  # of these
    bmc_ca: str = ""  # absolute


def build(
    entry: Entry,
    own_: Own,
    shared: Shared,
    file_vars: Mapping[str, Mapping[str, Value]],
    file_sources: Mapping[str, tuple[Source, ...]],
) -> Iterator[Node]:
    """Yield the nodes of an entry; what they have in common is one object."""
    model = entry.model
    roles = tuple(model.roles)
    bindings = {capability: tuple(names) for capability, names in model.bindings.items()}
    bmc = model.bmc
    none: Mapping[str, Value] = {}
    for index, name in enumerate(entry.names):
        yield Node(
            name=name,
            platform=shared.platform,
            address=own_.address[index] if own_.address else "",
            addresses={network: addresses[index] for network, addresses in own_.addresses.items()},
            groups=shared.groups,
            roles=roles,
            vars=shared.vars,
            file_vars=file_vars.get(name, none),
            bindings=bindings,
            connection=shared.connection,
            lab=model.lab or "",
            profile=model.profile,
            mac=own_.macs[index] if own_.macs else "",
            serial=model.serial,
            match=model.match,
            wiring=model.wiring,
            bmc=Bmc(driver=bmc.driver, address=own_.bmcs[index], credential=bmc.credential, ca=shared.bmc_ca)
            if bmc and own_.bmcs
            else None,
            where=entry.where,
            sources=(*shared.sources, *file_sources[name]) if name in file_sources else shared.sources,
        )
