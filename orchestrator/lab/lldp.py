"""The lab's bridge as a switch that speaks LLDP: each vm hears which port of which switch it is plugged into.

A Linux bridge says nothing of itself, and keeps the frames that vms send to LLDP's group address from the others
(IEEE 802.1Q, table 8-1), as a switch does. Frames: IEEE 802.1AB-2016, clauses 8 and 9.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.lab.host import socket_inside

__all__ = ["ETHERTYPE", "GROUP", "Port", "Sender", "round_of", "sender_inside", "speak"]

GROUP = bytes.fromhex("0180c200000e")  # to the nearest bridge, and no further
ETHERTYPE = 0x88CC

# Real switches speak every 30 s. Here that would be most of the time that discovery takes. What is said stays true as
# long as a vm is on, so it holds as long as that of a real switch, over many frames that a busy machine may lose.
EVERY_S = 1.0
HOLDS_S = 121

# Types of TLVs (8.4), and subtypes of identifiers (8.5.2.2, 8.5.3.2).
_END, _CHASSIS, _PORT, _TTL, _PORT_TEXT, _NAME, _TEXT, _CAPABILITIES, _MANAGEMENT = range(9)
_MAC_ADDRESS, _INTERFACE_NAME = 4, 5
_BRIDGE = 1 << 2  # 8.5.8.1
_IPV4, _NUMBERED_UNKNOWN = 1, 1

# The port's machine has no power; it is just being switched on or off; its NIC takes no frames yet.
_NOBODY_LISTENS = frozenset({errno.ENODEV, errno.ENXIO, errno.ENETDOWN, errno.ENOBUFS, errno.EAGAIN})


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """What one port of the switch says of itself and of the switch.

    `mac` (colons) and `address` (IPv4) are the switch's; `description` is for people who look for the cable.
    """

    switch: str
    mac: str
    address: str
    name: str
    description: str

    def frame(self) -> bytes:
        """The whole Ethernet frame, without its check sequence."""
        mac = bytes.fromhex(self.mac.replace(":", ""))
        address = ipaddress.IPv4Address(self.address).packed
        interface = bytes((_NUMBERED_UNKNOWN, *bytes(4), 0))  # number of the interface, length of an object identifier
        return b"".join(
            (
                GROUP,
                mac,
                ETHERTYPE.to_bytes(2),
                _tlv(_CHASSIS, bytes((_MAC_ADDRESS, *mac))),
                _tlv(_PORT, bytes((_INTERFACE_NAME, *self.name.encode()))),
                _tlv(_TTL, HOLDS_S.to_bytes(2)),
                _tlv(_PORT_TEXT, self.description.encode()),
                _tlv(_NAME, self.switch.encode()),
                _tlv(_TEXT, b"Halligan lab"),
                _tlv(_CAPABILITIES, _BRIDGE.to_bytes(2) * 2),  # what it can be, what it is
                _tlv(_MANAGEMENT, bytes((1 + len(address), _IPV4, *address)) + interface),
                _tlv(_END, b""),
            )
        )


def _tlv(kind: int, value: bytes) -> bytes:
    """7 bits of type, 9 bits of length, the value (8.4)."""
    return (kind << 9 | len(value)).to_bytes(2) + value


class Sender(Protocol):
    """What of a packet socket (packet(7)) is needed."""

    def sendto(self, data: bytes, flags: int, address: tuple[str, int], /) -> int: ...


def sender_inside(netns: Path) -> socket.socket:
    """A socket that sends whole frames on any interface of a network namespace, and receives nothing."""
    return socket_inside(netns, socket.AF_PACKET, socket.SOCK_RAW)


def round_of(sender: Sender, frames: Mapping[str, bytes]) -> None:
    """Send each interface its frame, if it is there: taps come and go with the power of their machines."""
    for interface, frame in frames.items():
        try:
            sender.sendto(frame, socket.MSG_DONTWAIT, (interface, ETHERTYPE))
        except OSError as error:
            if error.errno not in _NOBODY_LISTENS:
                raise


def speak(sender: Sender, frames: Mapping[str, bytes]) -> None:
    """Send frames for ever; they end with the process."""
    while True:
        round_of(sender, frames)
        time.sleep(EVERY_S)
