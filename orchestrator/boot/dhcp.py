"""Who answers a machine's first question: the configuration of dnsmasq, as DHCP server or beside one (proxyDHCP)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Network, NetmaskValueError

from orchestrator.boot.rendering import Templates
from orchestrator.errors import HalliganError

LOADERS: Mapping[str, str] = {"bios": "undionly.kpxe", "efi64": "snponly.efi", "arm64": "snponly-arm64.efi"}
"""iPXE's loaders by kind of firmware: files of the TFTP root, and below /files/loaders of the boot service.

They use the firmware's own network driver, so they reach the network wherever the firmware did.
"""

_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,14}")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_FILE = re.compile(r"/[A-Za-z0-9._/+@=-]+")
_HTTP = re.compile(r"http://[0-9.]+:[0-9]{1,5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpSettings:
    """`mode` is "server" or "proxy"; `network` is the boot network ("10.77.0.0/24"), `address` ours in it.

    `first` to `last` are leased for `lease_s` seconds by a server. `http` is the boot service ("http://10.77.0.1:8090").
    `gateway`, `dns` and `mtu` are told to the machines; empty and 1500 mean that nothing is said. `lease_file` and
    `tftp_root` are absolute paths. `user` is who dnsmasq becomes after its start, empty for its own default.
    `prefix6` is an IPv6 prefix of the interface ("fd00:1::/64") that is advertised without a router, empty for silence.
    """

    mode: str
    interface: str
    address: str
    network: str
    http: str
    lease_file: str
    tftp_root: str
    first: str = ""
    last: str = ""
    lease_s: int = 3600
    gateway: str = ""
    dns: tuple[str, ...] = ()
    mtu: int = 1500
    user: str = ""
    prefix6: str = ""


def dnsmasq(settings: DhcpSettings, templates: Templates) -> str:
    """Return dnsmasq's configuration. It names no machine, so it changes only when the site's boot settings do.

    Raises:
        HalliganError: a setting is missing or does not fit the others.
    """
    network = _network(settings.network)
    _check(settings, network)
    server = settings.mode == "server"
    return templates.render(
        "dnsmasq.conf.j2",
        server=server,
        interface=settings.interface,
        address=settings.address,
        network=str(network.network_address),
        netmask=str(network.netmask),
        first=settings.first,
        last=settings.last,
        lease_s=settings.lease_s,
        leases=int(IPv4Address(settings.last)) - int(IPv4Address(settings.first)) + 1 if server else 0,
        http=settings.http,
        gateway=settings.gateway,
        dns=settings.dns,
        mtu=settings.mtu,
        lease_file=settings.lease_file,
        tftp_root=settings.tftp_root,
        user=settings.user,
        prefix6=str(IPv6Network(settings.prefix6).network_address) if settings.prefix6 else "",
        loaders=LOADERS,
    )


def _network(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise HalliganError(
            f"machines cannot boot in the network {text}: {error}",
            hint="network boot needs an IPv4 network; name one in boot.network",
        ) from None


def _check(settings: DhcpSettings, network: IPv4Network) -> None:
    if settings.mode not in ("server", "proxy"):
        raise HalliganError(f'boot.dhcp is "{settings.mode}": dnsmasq runs only for "server" and "proxy"')
    _matches("boot.interface", settings.interface, _INTERFACE)
    _matches("the boot service's address", settings.http, _HTTP)
    _matches("the lease file", settings.lease_file, _FILE)
    _matches("the TFTP folder", settings.tftp_root, _FILE)
    if settings.user:
        _matches("the user of dnsmasq", settings.user, _USER)
    _inside("boot.address", settings.address, network)
    if settings.gateway:
        _inside("the gateway", settings.gateway, network)
    for server in settings.dns:
        _address("a DNS server", server)
    if settings.mode == "server":
        _range(settings, network)
    if not 576 <= settings.mtu <= 65535:
        raise HalliganError(f"the MTU {settings.mtu} is none: 576 to 65535 bytes are possible")


def _matches(what: str, value: str, pattern: re.Pattern[str]) -> None:
    if not pattern.fullmatch(value):
        raise HalliganError(
            f"{what} is {value!r}, which dnsmasq cannot be told", hint="use letters, digits and ._- in names and paths"
        )


def _address(what: str, value: str) -> IPv4Address:
    try:
        return IPv4Address(value)
    except AddressValueError:
        raise HalliganError(f"{what} is {value!r}, which is not an IPv4 address") from None


def _inside(what: str, value: str, network: IPv4Network) -> IPv4Address:
    address = _address(what, value)
    if address not in network or address in (network.network_address, network.broadcast_address):
        raise HalliganError(f"{what} {value} is not a host's address in the boot network {network}")
    return address


def _range(settings: DhcpSettings, network: IPv4Network) -> None:
    if not settings.first or not settings.last:
        raise HalliganError(
            "boot.dhcp is server, but there are no addresses to lease",
            hint=f"set boot.range to a free part of {network}, or boot.dhcp to proxy if another server leases there",
        )
    first = _inside("boot.range: first address", settings.first, network)
    last = _inside("boot.range: last address", settings.last, network)
    if first > last:
        raise HalliganError(f"boot.range ends before it starts: {first} to {last}")
    for what, taken in (("boot.address", settings.address), ("the gateway", settings.gateway)):
        if taken and first <= IPv4Address(taken) <= last:
            raise HalliganError(
                f"boot.range {first}-{last} holds {what} {taken}", hint="leave out the addresses that are in use"
            )
    if settings.lease_s < 120:
        raise HalliganError(f"a lease of {settings.lease_s} s is shorter than dnsmasq's shortest, 120 s")
