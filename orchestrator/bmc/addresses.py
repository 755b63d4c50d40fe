"""Addresses of BMCs as a spec has them, checked before anybody is asked."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qs, urlsplit

from orchestrator.errors import HalliganError

__all__ = ["Endpoint", "ipmi_endpoint", "redfish_endpoint", "shown"]

IPMI_PORT = 623


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a Redfish service is, and which of its systems is meant: by path, by UUID, or (both empty) the only one."""

    url: str  # scheme and authority only
    system: str = ""
    uuid: str = ""


def shown(address: str) -> str:
    """Return an address for messages: without the user and password that somebody may have put into it."""
    head, at, tail = address.rpartition("@")
    if not at:
        return address
    scheme, slashes, _ = head.partition("://")
    return f"{scheme}://{tail}" if slashes else tail


def redfish_endpoint(address: str, *, node: str) -> Endpoint:
    """Read `10.0.0.1`, `https://bmc:8443`, `https://bmc/redfish/v1/Systems/1` or `https://bmc?uuid=...`.

    Plain http is for loopback addresses only: anybody on the way could read the password.
    """
    text = address if "://" in address else f"https://{_bracketed(address)}"
    parts = _split(text, address, node, "https://10.90.0.11 or https://10.90.0.11/redfish/v1/Systems/1")
    if parts.scheme not in ("http", "https"):
        raise _wrong(node, address, f'a Redfish service speaks https, not "{parts.scheme}"', "write https://...")
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise _wrong(
            node,
            address,
            "plain http would send the BMC's password for anybody to read",
            "write https://..., and name the authority that signed the BMC's certificate as `ca`",
        )
    path = parts.path.rstrip("/")
    if path in ("", "/redfish", "/redfish/v1"):
        path = ""
    elif not path.startswith("/redfish/v1/"):
        raise _wrong(node, address, f'"{path}" is not a path of Redfish', "write /redfish/v1/Systems/..., or no path")
    uuid = parse_qs(parts.query).get("uuid", [""])[0].lower()
    return Endpoint(url=f"{parts.scheme}://{parts.netloc}", system=path, uuid=uuid)


def ipmi_endpoint(address: str, *, node: str) -> tuple[str, int]:
    """Read `10.0.0.1`, `bmc:6230`, `[fd00::1]:623` or `ipmi://10.0.0.1`; return host and UDP port."""
    text = address if "://" in address else f"ipmi://{_bracketed(address)}"
    parts = _split(text, address, node, "10.90.0.11 or 10.90.0.11:623")
    if parts.scheme != "ipmi" or parts.path.strip("/") or parts.query:
        raise _wrong(
            node, address, "the address of an IPMI controller is a host and perhaps a port", "write 10.90.0.11"
        )
    return parts.hostname or "", parts.port or IPMI_PORT


def _split(text: str, address: str, node: str, example: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise _wrong(node, address, f"this is no address: {error}", f"write it like {example}") from None
    if not parts.hostname or port == 0:
        raise _wrong(node, address, "there is no host in it", f"write it like {example}")
    if parts.username is not None or parts.password is not None:
        raise _wrong(
            node,
            address,
            "it holds a user or a password",
            "put them into a secret variable with the keys user and password, and name that as bmc.credential",
        )
    return parts


def _wrong(node: str, address: str, why: str, hint: str) -> HalliganError:
    return HalliganError(f'{node}: BMC address "{shown(address)}": {why}', hint=hint)


def _bracketed(host: str) -> str:
    try:
        return f"[{ipaddress.IPv6Address(host)}]"
    except ValueError:
        return host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
