"""LLDP frames as ironic-python-agent posts them: per network port the TLVs of one frame, [[type, hex], ...].

Types and their layouts: IEEE 802.1AB-2016, 8.5 (chassis, port, names, management address); the organisation's own
TLVs of IEEE 802.1 (OUI 00-80-C2): IEEE 802.1Q-2018, annex D.2.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import replace

from orchestrator.facts.fields import clean_text
from orchestrator.facts.values import Neighbour

__all__ = ["neighbour"]

_DOT1 = bytes.fromhex("0080c2")
_CHASSIS_MAC, _PORT_MAC, _CHASSIS_ADDRESS, _PORT_ADDRESS = 4, 3, 5, 4  # subtypes; all others are text


def neighbour(tlvs: Iterable[tuple[int, bytes]]) -> Neighbour | None:
    """Return what the TLVs of one frame tell, None if that is nothing. What cannot be decoded is left out."""
    found = Neighbour()
    for kind, value in tlvs:
        if kind == 0:  # the end: what follows is padding
            break
        found = _take(found, kind, value)
    return None if found == Neighbour() else found


def _take(found: Neighbour, kind: int, value: bytes) -> Neighbour:
    match kind:
        case 1:
            found = replace(found, chassis_id=_identifier(value, mac=_CHASSIS_MAC, address=_CHASSIS_ADDRESS))
        case 2:
            found = replace(found, port_id=_identifier(value, mac=_PORT_MAC, address=_PORT_ADDRESS))
        case 4:
            found = replace(found, port_description=_text(value))
        case 5:
            found = replace(found, system_name=_text(value))
        case 8 if not found.management_address:  # the first is the preferred one
            found = replace(found, management_address=_management(value))
        case 127:
            found = replace(found, vlans=tuple(sorted({*found.vlans, *_vlans(value)})))
    return found


def _identifier(value: bytes, *, mac: int, address: int) -> str:
    if len(value) < 2:
        return ""
    subtype, content = value[0], value[1:]
    if subtype == mac and len(content) == 6:
        return content.hex(":")
    if subtype == address:
        return _address(content[0], content[1:])
    return _text(content)


def _address(family: int, content: bytes) -> str:
    """Return a network address; the family is IANA's number, 1 is IPv4 and 2 is IPv6."""
    if (family, len(content)) in {(1, 4), (2, 16)}:
        return str(ipaddress.ip_address(content))
    return content.hex(":") if family == 6 else ""


def _management(value: bytes) -> str:
    """Length (family included), family, address; then interface and object identifier, which nobody here needs."""
    if len(value) < 3 or len(value) < 1 + value[0] or value[0] < 2:
        return ""
    return _address(value[1], value[2 : 1 + value[0]])


def _vlans(value: bytes) -> list[int]:
    """Return the VLAN that an organisation's TLV names: the port's own (1), of a protocol (2) or by name (3)."""
    offsets = {1: 4, 2: 5, 3: 4}
    at = offsets.get(value[3]) if len(value) > 4 and value[:3] == _DOT1 else None
    if at is None or len(value) < at + 2:
        return []
    vlan = int.from_bytes(value[at : at + 2]) & 0xFFF
    return [vlan] if 0 < vlan < 0xFFF else []


def _text(value: bytes) -> str:
    return clean_text(value.decode("utf-8", "replace").strip("\0")).strip()
