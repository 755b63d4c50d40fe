"""Is there another DHCP server? Asks as a machine would: a DHCPDISCOVER from a made-up MAC, and offers are listened to.

Offers bind nobody: without a DHCPREQUEST no server keeps a lease (RFC 2131, 4.3.1). Frames go out below the IP stack,
so what serves on this machine itself does not see them; two servers on one machine fight for port 67 anyway.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.errors import HalliganError

__all__ = ["Offer", "discover", "frame", "made_up_mac", "offer", "servers"]

_IPV4 = 0x0800
_UDP = 17
_COOKIE = bytes.fromhex("63825363")
_ASK_AT_S = (0.0, 1.5)
WAIT_S = 4.0
"""dnsmasq pings an address for 3 s before it offers it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A DHCP server that answered: its own address, the MAC it answered from, what it offered."""

    server: str
    mac: str
    offered: str


def servers(interface: str, mac: bytes, *, wait_s: float = WAIT_S, but: str = "") -> Offer | None:
    """Return the first DHCP server but `but` that answers on an interface, None if none does in time. Needs root.

    Raises:
        HalliganError: the interface is missing or down, or we may not.
    """
    try:
        return _ask(interface, mac, wait_s, but)
    except OSError as error:
        raise _explained(interface, error) from None


def _explained(interface: str, error: OSError) -> HalliganError:
    what = f"cannot look for DHCP servers on {interface}"
    if error.errno == errno.EPERM:
        return HalliganError(
            f"{what}: only root may, and only root can serve DHCP and TFTP",
            hint="start the boot service with sudo, or set boot.dhcp to off and let another server name our loaders",
        )
    if error.errno in (errno.ENODEV, errno.ENXIO):
        return HalliganError(
            f"{what}: this machine has no such interface",
            hint="`ip -br address` lists them; set boot.interface to the one in the boot network",
        )
    if error.errno == errno.ENETDOWN:
        return HalliganError(f"{what}: it is down", hint=f"ip link set {interface} up")
    return HalliganError(f"{what}: {os.strerror(error.errno or 0)}")


def _ask(interface: str, mac: bytes, wait_s: float, but: str) -> Offer | None:
    number = secrets.randbits(32)
    begin = time.monotonic()
    asks = list(_ASK_AT_S)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_IPV4)) as raw:
        raw.bind((interface, _IPV4))
        while (now := time.monotonic() - begin) < wait_s:
            if asks and now >= asks[0]:
                asks.pop(0)
                raw.send(frame(discover(number, mac), mac))
            raw.settimeout(max(0.01, (asks[0] if asks else wait_s) - now))
            try:
                found = offer(raw.recv(2048), number)
            except TimeoutError:
                continue
            if found and found.server != but:
                return found
    return None


def made_up_mac() -> bytes:
    """Return a MAC that belongs to nobody: locally administered, not a group's."""
    first, *rest = secrets.token_bytes(6)
    return bytes([(first & 0xFC) | 0x02, *rest])


def discover(number: int, mac: bytes) -> bytes:
    """Return a DHCPDISCOVER (RFC 2131, figure 1) that asks for a broadcast answer."""
    fixed = struct.pack("!BBBBIHH4x4x4x4x16s64x128x", 1, 1, 6, 0, number, 0, 0x8000, mac)
    return fixed + _COOKIE + bytes([53, 1, 1, 55, 3, 1, 3, 54, 255])


def frame(payload: bytes, mac: bytes) -> bytes:
    """Return an Ethernet frame with a DHCP client's message to everybody."""
    source, destination = bytes(4), b"\xff" * 4
    length = 8 + len(payload)
    udp = struct.pack("!HHHH", 68, 67, length, 0)
    pseudo = source + destination + struct.pack("!BBH", 0, _UDP, length)
    udp = struct.pack("!HHHH", 68, 67, length, _checksum(pseudo + udp + payload) or 0xFFFF)
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, 0, 0, 64, _UDP, 0, source, destination)
    header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
    return b"\xff" * 6 + mac + struct.pack("!H", _IPV4) + header + udp + payload


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def offer(received: bytes, number: int) -> Offer | None:
    """Return the offer in an Ethernet frame that answers the question with this number, None if it is none."""
    if len(received) < 42 or received[14] >> 4 != 4 or received[23] != _UDP:
        return None
    udp = 14 + (received[14] & 15) * 4
    message = received[udp + 8 :]
    if len(message) < 240 or received[udp : udp + 4] != struct.pack("!HH", 67, 68):
        return None
    if message[0] != 2 or message[4:8] != struct.pack("!I", number) or message[236:240] != _COOKIE:
        return None
    options = dict(_options(message[240:]))
    if options.get(53) != b"\x02":
        return None
    server = options.get(54, b"")
    return Offer(
        server=socket.inet_ntoa(server) if len(server) == 4 else socket.inet_ntoa(received[26:30]),
        mac=received[6:12].hex(":"),
        offered=socket.inet_ntoa(message[16:20]),
    )


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield code and value (RFC 2132, 2); what is cut off is left out."""
    at = 0
    while at < len(data) and data[at] != 255:
        if data[at] == 0:
            at += 1
            continue
        if at + 1 >= len(data):
            return
        size = data[at + 1]
        yield data[at], data[at + 2 : at + 2 + size]
        at += 2 + size
