"""What dnsmasq's log says of machines: a line in, a sighting out. Pure, but for the leases that it remembers.

The lines are those of dnsmasq 2.86 to 2.90 with log-dhcp and log-facility=- (src/rfc2131.c, log_packet; src/tftp.c).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Sighting", "Sightings"]

_MAC = r"(?P<mac>[0-9a-f]{2}(?::[0-9a-f]{2}){5})"
_ADDRESS = r"(?P<address>\d{1,3}(?:\.\d{1,3}){3})"
_DHCP = re.compile(
    r"dnsmasq-dhcp(?:\[\d+\])?: (?:\d+ )?(?P<verb>DHCP[A-Z]+|PXE|BOOTP)\(\S+\) "
    rf"(?:{_ADDRESS} )?{_MAC}(?: (?P<rest>.*))?"
)
_NO_RANGE = re.compile(
    r"dnsmasq-dhcp(?:\[\d+\])?: (?:\d+ )?no address range available for DHCP request via (?P<via>\S+)"
)
_SENT = re.compile(rf"dnsmasq-tftp(?:\[\d+\])?: sent (?P<file>.+) to {_ADDRESS}")
_MISSING = re.compile(rf"dnsmasq-tftp(?:\[\d+\])?: file (?P<file>.+) not found for {_ADDRESS}")
_TFTP = re.compile(rf"dnsmasq-tftp(?:\[\d+\])?: (?P<what>error .+ received from|failed sending .+ to) {_ADDRESS}")
_TROUBLE = re.compile(r"dnsmasq(?:-\w+)?(?:\[\d+\])?: (?P<what>(?:failed|cannot|unable|bad|unknown|illegal|error)\b.*)")

_EXHAUSTED = "no address available"
_GIVES = ("DHCPOFFER", "DHCPACK")
_MOST_LEASES = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """`what` is "dhcp" or "tftp", or "trouble" for what is about no machine. `mac` is empty where it is not known."""

    what: str
    detail: str
    mac: str = ""
    address: str = ""
    exhausted: bool = False  # every address of the range is leased
    bad: bool = False


class Sightings:
    """Reads lines, and remembers which machine has which address, because TFTP only names addresses."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}
        self._readers = (
            (_DHCP, self._dhcp),
            (_SENT, self._sent),
            (_MISSING, self._missing),
            (_TFTP, self._broken),
            (_NO_RANGE, _no_range),
            (_TROUBLE, _trouble),
        )

    def owner(self, address: str) -> str:
        """Return the MAC that an address was given to last, empty if we did not see that."""
        return self._owners.get(address, "")

    def read(self, line: str) -> Sighting | None:
        """Return what a line says of a machine, None if that is nothing of interest."""
        for pattern, reader in self._readers:
            if found := pattern.match(line.strip()):
                return reader(found)
        return None

    def _dhcp(self, found: re.Match[str]) -> Sighting:
        verb, address, mac, rest = found["verb"], found["address"] or "", found["mac"], (found["rest"] or "").strip()
        if verb in _GIVES and address:
            self._remember(address, mac)
        exhausted = _EXHAUSTED in rest
        # What follows an address that was given is the name of the machine, which says nothing here.
        told = rest if exhausted or verb not in _GIVES else ""
        detail = " ".join(word for word in (verb, address, told) if word)
        bad = exhausted or verb in ("DHCPNAK", "DHCPDECLINE")
        return Sighting(what="dhcp", detail=detail, mac=mac, address=address, exhausted=exhausted, bad=bad)

    def _sent(self, found: re.Match[str]) -> Sighting:
        return self._tftp(found, f"sent {_base(found['file'])} to {found['address']}", bad=False)

    def _missing(self, found: re.Match[str]) -> Sighting:
        return self._tftp(found, f"{_base(found['file'])} is missing for {found['address']}", bad=True)

    def _broken(self, found: re.Match[str]) -> Sighting:
        # Firmware asks for a file's size first and then breaks off: that is no trouble.
        return self._tftp(found, f"{found['what']} {found['address']}", bad="aborted" not in found["what"].lower())

    def _tftp(self, found: re.Match[str], detail: str, *, bad: bool) -> Sighting:
        address = found["address"]
        return Sighting(what="tftp", detail=detail, mac=self.owner(address), address=address, bad=bad)

    def _remember(self, address: str, mac: str) -> None:
        self._owners.pop(address, None)
        self._owners[address] = mac
        if len(self._owners) > _MOST_LEASES:
            del self._owners[next(iter(self._owners))]


def _no_range(found: re.Match[str]) -> Sighting:
    detail = f"a request came through {found['via']}, in whose network nothing is leased"
    return Sighting(what="trouble", detail=detail, bad=True)


def _trouble(found: re.Match[str]) -> Sighting:
    return Sighting(what="trouble", detail=found["what"], bad=True)


def _base(path: str) -> str:
    return path.rpartition("/")[2]
