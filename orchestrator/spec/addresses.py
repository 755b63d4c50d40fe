"""Addresses: is each in its network, has each one owner only, and how those of a range count up."""

from __future__ import annotations

import bisect
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from orchestrator.model import Network
from orchestrator.spec.schema import NetworkModel
from orchestrator.yaml import Findings, Path, dotted

__all__ = ["Claims", "Networks", "macs", "networks"]

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Cidr: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(findings: Findings, models: Mapping[str, NetworkModel], *, complete: bool) -> Networks:
    """Return the networks of a site; notes bad ones. `complete` is False when some could not even be read."""
    cidrs: dict[str, Cidr] = {}
    for name, model in models.items():
        if cidr := _cidr(findings, name, model):
            cidrs[name] = cidr
            _check_gateway(findings, name, model, cidr)
        for index, server in enumerate(model.dns):
            if _parse(server) is None:
                path = ("networks", name, "dns", index)
                findings.error("spec.address", path, f'{dotted(path)} is not an IP address: "{server}"')
    overlap = _check_overlaps(findings, cidrs)
    values = {
        name: Network(
            name=name,
            cidr=str(cidrs[name]),
            gateway=models[name].gateway,
            vlan=models[name].vlan,
            mtu=models[name].mtu,
            dns=tuple(models[name].dns),
        )
        for name in cidrs
    }
    return Networks(values, cidrs, complete=complete and not overlap and len(cidrs) == len(models))


def _cidr(findings: Findings, name: str, model: NetworkModel) -> Cidr | None:
    path = ("networks", name, "cidr")
    try:
        return ipaddress.ip_network(model.cidr)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(model.cidr, strict=False)
    except ValueError:
        findings.error(
            "spec.network",
            path,
            f'{dotted(path)} is not a network: "{model.cidr}"',
            hint='for example "10.77.0.0/24"',
        )
    else:
        summary = f'{dotted(path)} is the address of a host in a network, not of a network: "{model.cidr}"'
        findings.error("spec.network", path, summary, hint=f"the network is {meant}")
    return None


def _check_gateway(findings: Findings, name: str, model: NetworkModel, cidr: Cidr) -> None:
    path = ("networks", name, "gateway")
    if not model.gateway:
        return
    gateway = _parse(model.gateway)
    if gateway is None:
        findings.error("spec.address", path, f'{dotted(path)} is not an IP address: "{model.gateway}"')
    elif gateway not in cidr:
        findings.error("spec.network", path, f"the gateway {gateway} is outside of its network {name} ({cidr})")


def _check_overlaps(findings: Findings, cidrs: Mapping[str, Cidr]) -> bool:
    found = False
    widest: tuple[str, Cidr] | None = None
    for name, cidr in sorted(cidrs.items(), key=lambda item: _bounds(item[1])):
        if widest is not None and _bounds(widest[1])[1] >= _bounds(cidr)[0]:
            found = True
            findings.error(
                "spec.network-overlap",
                ("networks", name, "cidr"),
                f"the networks {name} ({cidr}) and {widest[0]} ({widest[1]}) overlap",
                also=((f"{widest[0]} is defined at", ("networks", widest[0], "cidr")),),
            )
        if widest is None or _bounds(cidr)[1] > _bounds(widest[1])[1]:
            widest = (name, cidr)
    return found


def _bounds(cidr: Cidr) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first and last address as sortable values, IPv4 before IPv6."""
    return (cidr.version, int(cidr.network_address)), (cidr.version, int(cidr.broadcast_address))


def _parse(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


class Networks:
    """The networks of a site, and the search for the one that holds an address."""

    def __init__(self, values: Mapping[str, Network], cidrs: Mapping[str, Cidr], *, complete: bool) -> None:
        self.values = values
        self._cidrs = cidrs
        self._complete = complete
        self._names = sorted(cidrs, key=lambda name: _bounds(cidrs[name]))
        self._starts = [_bounds(cidrs[name])[0] for name in self._names]
        self._rooms = {name: _room(cidr, values[name].gateway) for name, cidr in cidrs.items()}

    def addresses(
        self,
        findings: Findings,
        path: Path,
        first: str,
        count: int,
        *,
        network: str = "",
    ) -> Sequence[str]:
        """Return `count` addresses from `first` on, as text; notes what is wrong with them and returns () then.

        Without `network` any network of the site may hold them; a site without networks takes every address.
        """
        address = _parse(first)
        if address is None:
            findings.error("spec.address", path, f'{dotted(path)} is not an IP address: "{first}"')
            return ()
        if network and network not in self._cidrs:
            return _count_up(address, count)  # an unknown name is noted as such
        inside = network or self._holding(address)
        if not inside:
            return self._outside(findings, path, address, count)
        cidr = self._cidrs[inside]
        if address not in cidr:
            holding = self._holding(address)
            findings.error(
                "spec.address-outside",
                path,
                f"{dotted(path)}: {address} is outside of the network {inside} ({cidr})",
                hint=f"it belongs to the network {holding}" if holding else "",
            )
            return ()
        return self._inside(findings, path, address, count, inside)

    def _holding(self, address: Address) -> str:
        index = bisect.bisect_right(self._starts, (address.version, int(address))) - 1
        if index >= 0 and address in self._cidrs[self._names[index]]:
            return self._names[index]
        return ""

    def _outside(self, findings: Findings, path: Path, address: Address, count: int) -> Sequence[str]:
        if not self._complete or not self._cidrs:
            return _count_up(address, count)
        some = [f"{name} ({self._cidrs[name]})" for name in self._names[:5]]
        more = len(self._names) - len(some)
        findings.error(
            "spec.address-outside",
            path,
            f"{dotted(path)}: {address} is in none of the site's networks",
            detail=(f"networks: {', '.join(some)}{f' and {more} more' if more else ''}",),
        )
        return ()

    def _inside(self, findings: Findings, path: Path, address: Address, count: int, name: str) -> Sequence[str]:
        cidr = self._cidrs[name]
        first = int(address)
        low, high, gateway = self._rooms[name]
        last = first + count - 1
        if first < low or first > high:
            what = "network" if first < low else "broadcast"
            findings.error(
                "spec.address",
                path,
                f"{dotted(path)}: {address} is the {what} address of {name} ({cidr}), not a host's",
            )
            return ()
        if last > high:
            findings.error(
                "spec.range-addresses",
                path,
                f"{dotted(path)}: the network {name} ({cidr}) has {high - first + 1} addresses from {address} on, "
                f"and the range has {count} nodes",
                hint="start lower, use a larger network, or split the range",
            )
            return ()
        if gateway is not None and first <= int(gateway) <= last:
            findings.error(
                "spec.duplicate-address",
                path,
                f"{dotted(path)}: {gateway} is the gateway of the network {name}",
                also=(("the gateway is set at", ("networks", name, "gateway")),),
            )
            return ()
        return _count_up(address, count)


def _room(cidr: Cidr, gateway: str) -> tuple[int, int, Address | None]:
    """Return the first and last address that a host may have, and the one that it may not."""
    first, last = int(cidr.network_address), int(cidr.broadcast_address)
    router = _parse(gateway)
    if router is not None and router.version != cidr.version:
        router = None
    if cidr.version == 4 and cidr.prefixlen < 31:
        return first + 1, last - 1, router
    return first, last, router


def _count_up(address: Address, count: int) -> Sequence[str]:
    if count == 1:
        return (str(address),)
    try:
        return [str(address + offset) for offset in range(count)]
    except ipaddress.AddressValueError:  # past the last address there is: only without networks
        return ()


def macs(findings: Findings, path: Path, first: str, count: int) -> Sequence[str]:
    """Return `count` MAC addresses from `first` on."""
    number = int(first.replace(":", ""), 16)
    if number + count > 1 << 48:
        findings.error(
            "spec.range-addresses", path, f"{dotted(path)}: there are not {count} MAC addresses from {first} on"
        )
        return ()
    if count == 1:
        return (first,)
    return [_mac(number + offset) for offset in range(count)]


def _mac(number: int) -> str:
    digits = f"{number:012x}"
    return ":".join(digits[index : index + 2] for index in range(0, 12, 2))


class Claims:
    """Who owns which value (a name, an address, a MAC). Two entries that claim the same are one problem.

    Has inner state until `report`.
    """

    def __init__(self, code: str, words: str) -> None:
        self._code = code
        self._words = words
        self._owners: dict[str, tuple[str, int, str, Path]] = {}
        self._clashes: dict[tuple[Path, Path], list[tuple[str, str, str]]] = {}

    def claim(self, values: Iterable[str], names: Iterable[str], entry: str, path: Path) -> None:
        """Note that the nodes `names` of one entry own `values`, one each. A node may own a value twice."""
        owners = self._owners
        for index, (value, name) in enumerate(zip(values, names, strict=False)):
            owner = owners.setdefault(value, (entry, index, name, path))
            if owner[1] != index or owner[0] != entry:
                self._clashes.setdefault((owner[3], path), []).append((value, owner[2], name))

    def report(self, findings: Findings) -> None:
        for (first, second), clashes in self._clashes.items():
            value, owner, name = clashes[0]
            more = (f"and {len(clashes) - 1} more in the same places",) if len(clashes) > 1 else ()
            findings.error(
                self._code,
                second,
                self._words.format(value=value, owner=owner, name=name),
                detail=more,
                also=(("first at", first),),
            )
