"""What BMCs of certain vendors need, as data. Every entry has a public source; nothing here has met real hardware yet.

`VENDORS` is looked up by what a machine says it is; `ANSWERS` by what a BMC answers, whoever made it. Where a careful
conduct is right for all, there is no entry: the boot mode is sent only if it differs, the override is read back after
a power-off and set again if that lost it, and a cycle is off and on instead of `PowerCycle`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["ANSWERS", "VENDORS", "Answer", "Conduct", "Entry", "Quirk", "as_markdown", "conduct_for", "quirks_of"]


class Quirk(StrEnum):
    """How to treat a machine differently."""

    SEND_MODE = "send-mode"  # BootSourceOverrideMode with every override
    SEND_ENABLED = "send-enabled"  # BootSourceOverrideEnabled with every override, even if it is so already
    NEVER_MODE = "never-mode"  # BootSourceOverrideMode is read-only
    IF_MATCH = "if-match"  # PATCH only with If-Match: the ETag header, else @odata.etag, else *
    BOOT_UNREADABLE = "boot-unreadable"  # what it shows of the override proves nothing
    SOFT_BY_BUTTON = "soft-by-button"  # a graceful shutdown is PushPowerButton
    SERIAL_IS_SKU = "serial-is-sku"  # the machine's serial number, as DMI has it, is in SKU
    PERSISTENT_EFI = "persistent-efi"  # IPMI: a one-time EFI override is ignored, a persistent one is not


class Conduct(StrEnum):
    """What to do about an answer."""

    WAIT = "wait"  # it cannot now: ask again until the time limit
    IF_MATCH = "if-match"  # send it again with the resource's ETag
    SETTINGS = "settings"  # send it to the settings resource <system>/SD instead


@dataclass(frozen=True, slots=True)
class Entry:
    """Machines of a vendor (and model), as regular expressions over what they say, and what they need."""

    driver: str
    manufacturer: str
    model: str
    quirk: Quirk
    why: str
    source: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A message id or text in a Redfish error, as a regular expression, and what to do about it."""

    pattern: str
    conduct: Conduct
    who: str
    why: str
    source: str


_SUPERMICRO = r"super ?micro"
_HPE = r"^(hpe|hewlett[ -]packard|hp)\b"
_AMI = r"^(ami|american megatrends|asrock|asrockrack|giga ?byte|giga computing|tyan)\b"

VENDORS = (
    Entry(
        "redfish",
        _SUPERMICRO,
        "",
        Quirk.SEND_MODE,
        "falls back to its default boot mode when an override comes without one; the vendor calls that its design",
        "https://github.com/DMTF/Redfishtool/pull/106",
    ),
    Entry(
        "redfish",
        _SUPERMICRO,
        "",
        Quirk.SEND_ENABLED,
        "wants to be told `Once` each time, also when it shows `Once` already",
        "https://storyboard.openstack.org/#!/story/2008547 (ironic/drivers/modules/redfish/management.py)",
    ),
    Entry(
        "redfish",
        _SUPERMICRO,
        r"ARS-",
        Quirk.BOOT_UNREADABLE,
        "BMC and firmware disagree on the boot order, and the BMC shows its own",
        "https://github.com/dsx-ai-factory/infra-controller/issues/505",
    ),
    Entry(
        "ipmi",
        _SUPERMICRO,
        "",
        Quirk.PERSISTENT_EFI,
        "a one-time EFI override is ignored while an operating system is on the disk; a persistent one is not",
        "https://github.com/bmc-toolbox/bmclib/pull/209, https://github.com/metal-stack/metal-core/issues/19",
    ),
    Entry(
        "redfish",
        _HPE,
        "",
        Quirk.NEVER_MODE,
        "BootSourceOverrideMode is not writable: a request that names it is refused whole",
        "https://github.com/ansible-collections/community.general/issues/3509",
    ),
    Entry(
        "redfish",
        _HPE,
        "",
        Quirk.SOFT_BY_BUTTON,
        "a graceful shutdown is a press of the power button",
        "https://github.com/theforeman/smart-proxy/blob/develop/modules/bmc/redfish/hpe.rb",
    ),
    Entry(
        "redfish",
        r"^dell\b",
        "",
        Quirk.SERIAL_IS_SKU,
        "SerialNumber is the board's; the service tag, which DMI shows as the serial number, is in SKU",
        "https://github.com/ansible/ansible/issues/53461",
    ),
    Entry(
        "redfish",
        r"^lenovo\b",
        r"SR6[35]5",
        Quirk.IF_MATCH,
        "an AMI Redfish server: PATCH without If-Match is refused (Ami.1.0.PreconditionHeaderMissing)",
        "https://github.com/stmcginnis/gofish/issues/171",
    ),
    Entry(
        "redfish",
        r"^lenovo\b",
        "",
        Quirk.BOOT_UNREADABLE,
        "boot settings are filled in late, and entries are missing from them",
        "https://github.com/dsx-ai-factory/libredfish/pull/127, https://github.com/dsx-ai-factory/infra-controller/issues/4830",
    ),
    Entry(
        "redfish",
        _AMI,
        "",
        Quirk.IF_MATCH,
        "PATCH is refused without If-Match",
        "https://github.com/NVIDIA/libredfish/pull/74, https://github.com/theforeman/smart-proxy/pull/930",
    ),
    Entry(
        "redfish",
        _AMI,
        "",
        Quirk.BOOT_UNREADABLE,
        "the override lives in a settings resource and shows in the system only after the boot",
        "https://github.com/DMTF/Redfish-Tacklebox/issues/111",
    ),
)

ANSWERS = (
    Answer(
        r"PreconditionHeaderMissing",
        Conduct.IF_MATCH,
        "AMI",
        "this firmware wants If-Match, whoever sells it",
        "https://github.com/stmcginnis/gofish/issues/171",
    ),
    Answer(
        r"OperationSupportedInFutureStateURI",
        Conduct.SETTINGS,
        "AMI, ASRock Rack",
        "boot settings are taken at <system>/SD only, which the system does not say",
        "https://github.com/DMTF/Redfish-Tacklebox/issues/144",
    ),
    Answer(
        r"UnableToModifyDuringSystemPOST",
        Conduct.WAIT,
        "HPE iLO",
        "no override is taken while the machine is in its power-on self-test",
        "https://github.com/ironcore-dev/metal-operator/issues/997",
    ),
    Answer(
        r"InvalidOperationForSystemState",
        Conduct.WAIT,
        "HPE iLO",
        "not ready after the previous operation",
        "https://opendev.org/openstack/sushy/src/branch/master/sushy/connector.py (check_retry_on_exception)",
    ),
    Answer(
        r"\bSYS518\b",
        Conduct.WAIT,
        "Dell iDRAC",
        "not ready after the previous operation",
        "https://opendev.org/openstack/sushy/src/branch/master/sushy/connector.py (check_retry_on_exception)",
    ),
)


def quirks_of(driver: str, manufacturer: str, model: str) -> frozenset[Quirk]:
    """Return what a machine needs that says it is of this manufacturer and model; case does not matter."""
    return frozenset(
        entry.quirk
        for entry in VENDORS
        if entry.driver == driver
        and re.search(entry.manufacturer, manufacturer.strip(), re.IGNORECASE)
        and re.search(entry.model, model, re.IGNORECASE)
    )


def conduct_for(text: str) -> Conduct | None:
    """Return what to do about a Redfish error with this text (message ids and messages), or None."""
    return next((answer.conduct for answer in ANSWERS if re.search(answer.pattern, text)), None)


def as_markdown() -> str:
    """Return both tables as docs/power.md shows them."""
    lines = ["| driver | vendor | model | quirk | why | source |", "|---|---|---|---|---|---|"]
    for entry in VENDORS:
        cells = (
            entry.driver,
            _code(entry.manufacturer),
            _code(entry.model),
            _code(entry.quirk),
            entry.why,
            entry.source,
        )
        lines.append(_row(cells))
    lines += ["", "| the BMC says | seen from | we | why | source |", "|---|---|---|---|---|"]
    for answer in ANSWERS:
        lines.append(_row((_code(answer.pattern), answer.who, _code(answer.conduct), answer.why, answer.source)))
    return "\n".join(lines)


def _code(text: str) -> str:
    return f"`{text}`" if text else "any"


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
