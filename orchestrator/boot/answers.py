"""What a machine that asks for its boot script gets, and the scripts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlencode

from orchestrator.boot.rendering import Templates
from orchestrator.errors import HalliganError
from orchestrator.lifecycle import boots_locally
from orchestrator.model import MachineState, Phase

ARCHES: Mapping[str, str] = {"": "amd64", "i386": "amd64", "x86_64": "amd64", "arm64": "arm64"}
"""iPXE's `buildarch` -> architecture of the discovery image. The BIOS loader calls itself i386 on every processor."""

CONSOLES: Mapping[str, str] = {
    "amd64": "console=ttyS0,115200n8 console=tty0",
    "arm64": "console=ttyAMA0,115200n8 console=tty0",
}

TEXT_LIMIT = 64

_MAC = re.compile(r"[0-9a-f]{12}")
_MAC_SHAPES = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}|[0-9a-f]{2}(-[0-9a-f]{2}){5}|[0-9a-f]{4}(\.[0-9a-f]{4}){2}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_WORD = re.compile(r"[a-z0-9_]{0,16}")
_UNPRINTABLE = re.compile(r"[^ -~]")
_BASE = re.compile(r"http://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?")
_PATH = re.compile(r"/[A-Za-z0-9._/-]+")


# --- the question -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What iPXE says of its machine. Everything may be empty.

    `mac` is in lower case with colons, `uuid` the SMBIOS system UUID in lower case; `arch` and `platform` are iPXE's
    own words (x86_64, i386, arm64; efi, pcbios). `serial`, `manufacturer` and `product` are printable ASCII of at most
    64 characters, for people to read: they are in no script.
    """

    mac: str = ""
    uuid: str = ""
    serial: str = ""
    arch: str = ""
    platform: str = ""
    manufacturer: str = ""
    product: str = ""

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Request:
        """Read the query of a boot request. Missing and further values are fine.

        Raises:
            HalliganError: a value that decides something is malformed.
        """
        return cls(
            mac=mac_address(query.get("mac", "")),
            uuid=_uuid(query.get("uuid", "")),
            serial=_text(query.get("serial", "")),
            arch=_word("arch", query.get("arch", "")),
            platform=_word("platform", query.get("platform", "")),
            manufacturer=_text(query.get("manufacturer", "")),
            product=_text(query.get("product", "")),
        )


def mac_address(text: str) -> str:
    """Return a MAC address in lower case with colons; it may come with colons, dashes, dots or bare. Empty stays empty.

    Raises:
        HalliganError: it is none, or one of a group of stations.
    """
    low = text.strip().lower()
    bare = re.sub(r"[:.-]", "", low) if _MAC_SHAPES.fullmatch(low) else low
    if bare in ("", "0" * 12):
        return ""
    if not _MAC.fullmatch(bare) or int(bare[:2], 16) & 1:
        raise HalliganError(
            f"{_shown(text)} is not the MAC address of a network interface",
            hint='write it as "52:54:00:00:00:01", "52-54-00-00-00-01" or "525400000001"',
        )
    return ":".join(bare[i : i + 2] for i in range(0, 12, 2))


def _uuid(text: str) -> str:
    low = text.strip().lower()
    if low and not _UUID.fullmatch(low):
        raise HalliganError(
            f"{_shown(text)} is not a UUID",
            hint='iPXE writes it as "6d1f5a0e-8a2b-4a39-9c51-0a1b2c3d4e5f"; ask without `uuid` if the board has none',
        )
    return "" if set(low) <= set("0-") or set(low) <= set("f-") else low  # boards without a UUID have one of these


def _word(name: str, text: str) -> str:
    low = text.strip().lower()
    if not _WORD.fullmatch(low):
        raise HalliganError(f"{name} is {_shown(text)}: a word of at most 16 letters and digits is expected")
    return low


def _text(text: str) -> str:
    return _UNPRINTABLE.sub("?", text.strip())[:TEXT_LIMIT].strip()


def _shown(text: str) -> str:
    return f'"{_text(text)}"'


# --- the decision -------------------------------------------------------------------------------------------------


class Answer(StrEnum):
    """What a machine gets. There is no "install": installing is an order to the agent, after somebody's plan."""

    DISCOVER = "discover"
    RESCUE = "rescue"
    LOCAL = "local"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer, why in words, and the request that it answers."""

    answer: Answer
    reason: str
    request: Request = Request()


def decide(machine: MachineState | None, request: Request, *, unknown: str) -> Decision:
    """Return what a machine gets: a function of its phase, and of the site's `boot.unknown` if we do not know it."""
    answer, reason = _unknown(unknown) if machine is None else _known(machine)
    return Decision(answer=answer, reason=reason, request=request)


def _unknown(unknown: str) -> tuple[Answer, str]:
    if unknown == "discover":
        return Answer.DISCOVER, "unknown machine: it is discovered, nothing is written to it"
    return Answer.NOTHING, "unknown machine: this site ignores machines that it does not know (boot.unknown)"


def _known(machine: MachineState) -> tuple[Answer, str]:
    called = f"{machine.id}, node {machine.node}" if machine.node else machine.id
    if machine.phase is Phase.RETIRED:
        return Answer.NOTHING, f"{called}: retired"
    if machine.phase is Phase.RESCUE:
        return Answer.RESCUE, f"{called}: rescue, a shell without touching its disks"
    if boots_locally(machine):
        return Answer.LOCAL, f"{called}: {machine.phase}, it has an operating system"
    return Answer.DISCOVER, f"{called}: {machine.phase}"


# --- the scripts --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryImage:
    """The two files that iPXE loads, as paths of the boot service: "/files/discovery/vmlinuz"."""

    kernel: str
    initrd: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BootSettings:
    """Where machines reach the boot service, "http://10.77.0.1:8090", and the images by architecture (amd64, arm64)."""

    http: str
    images: Mapping[str, DiscoveryImage] = field(default_factory=dict)


def start(settings: BootSettings, templates: Templates) -> str:
    """Return the script for everybody, which asks again and says who asks.

    A DHCP answer holds a file name of at most 127 bytes (RFC 2131, `file`), proxyDHCP has no other place for it: too
    few for a URL with all that `Request` wants to know.
    """
    return templates.render("start.ipxe.j2", http=_base(settings.http))


def script(decision: Decision, settings: BootSettings, templates: Templates) -> str:
    """Return the iPXE script of a decision.

    Of the request only its MAC, its UUID and its architecture decide what is in it, and those were checked.

    Raises:
        HalliganError: a template or a setting is broken.
    """
    if decision.answer in (Answer.DISCOVER, Answer.RESCUE):
        return _image(decision, settings, templates)
    return templates.render(f"{decision.answer}.ipxe.j2", reason=decision.reason)


def _image(decision: Decision, settings: BootSettings, templates: Templates) -> str:
    request = decision.request
    arch = ARCHES.get(request.arch, request.arch)
    image = settings.images.get(arch)
    if image is None:
        return templates.render(
            "nothing.ipxe.j2", reason=f"{decision.reason}, but this site has no discovery image for {arch}"
        )
    who = {name: value for name, value in (("mac", request.mac), ("uuid", request.uuid)) if value}
    query = urlencode(who, safe=":")
    return templates.render(
        "discover.ipxe.j2",
        http=_base(settings.http),
        reason=decision.reason,
        arch=arch,
        kernel=_path(image.kernel),
        initrd=_path(image.initrd),
        site=f"/boot/site.cpio?{query}" if query else "/boot/site.cpio?mac=${netX/mac}&uuid=${uuid}",
        consoles=CONSOLES.get(arch, "console=tty0"),
        bootif=f"01-{request.mac.replace(':', '-')}" if request.mac else "01-${netX/mac:hexhyp}",
    )


def _base(text: str) -> str:
    if not _BASE.fullmatch(text):
        raise HalliganError(
            f"{_shown(text)} is not the address of a boot service",
            hint='write it as "http://10.77.0.1:8090": firmware speaks plain HTTP, and a path does not belong to it',
        )
    return text


def _path(text: str) -> str:
    if not _PATH.fullmatch(text) or ".." in text.split("/"):
        raise HalliganError(
            f"{_shown(text)} is not a path of the boot service",
            hint='it starts with "/" and holds letters, digits and ._- only, as "/files/discovery/vmlinuz"',
        )
    return text
