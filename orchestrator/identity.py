"""Telling one machine from another by what it says of itself: a weighted fingerprint of UUID, serial numbers and MACs.

The weights are Digital Rebar's (UUID 50, each serial number 25): 100 points recognise a machine, so no single kind of
evidence is ever enough against another that contradicts. Ours differ from theirs in three ways:

- MACs count 30 each, at most 90, so that a network card moved to another machine (every MAC agrees, UUID and serial
  numbers do not) never carries the machine's name along.
- What one side does not tell is no contradiction. When all that both sides tell agrees, 30 points are enough: a
  machine without SMBIOS data is known by its MAC alone, and a virtual one without a serial number by UUID and MAC.
- When only the serial numbers differ and the UUID agrees, one MAC beside it (80 points) is enough: serial numbers are
  what service technicians retype and blades share, the least reliable of the three.

None of this is proof: everything here can be forged by whoever sits on the network. A fingerprint chooses a name, it
never releases a secret.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.errors import HalliganError
from orchestrator.model import Identity, MachineState, Phase

__all__ = [
    "CONFLICT",
    "NEW",
    "SAME",
    "Recognition",
    "Score",
    "compare",
    "keys",
    "make",
    "new_id",
    "normal_mac",
    "normal_serial",
    "normal_uuid",
    "recognise",
]

UUID_POINTS = 50
SERIAL_POINTS, SERIALS_MOST = 25, 50
MAC_POINTS, MACS_MOST = 30, 90

ENOUGH_ALONE = 30
"""Points that recognise a machine when nothing contradicts."""
ENOUGH_AGAINST_SERIALS = 80
"""Points that recognise a machine of the same UUID when only its serial numbers contradict."""
ENOUGH = 100
"""Points that recognise a machine against any contradiction."""

SAME = "same"
NEW = "new"
CONFLICT = "conflict"


# --- from text to an identity -------------------------------------------------------------------------------------

_NO_SERIAL = frozenset(
    [
        *["none", "null", "nil", "n/a", "na", "unknown", "undefined", "empty", "invalid", "default", "default string"],
        *["not specified", "not applicable", "not available", "not present", "not provided", "not set", "no serial"],
        *["to be filled by o.e.m.", "to be filled by o.e.m", "to be filled by oem", "to be filled", "o.e.m.", "oem"],
        *["serial", "serial number", "system serial number", "system-serial-number", "chassis serial number"],
        *["base board serial number", "baseboard serial number", "board serial number", "mb serial number"],
        *["chassis serial", "system serial", "type2 - board serial number", "$(default_string)", "default_string"],
        *["0123456789", "1234567890", "123456789", "12345678", "1234567", "123456", "0123456789abcdef"],
        *["01234567890123456789", "abcdefghij", "123456789012", "invalid serial", "sku", "asset tag", "no asset tag"],
    ]
)
"""What firmware says instead of a serial number (case does not matter), collected from DMI dumps of many vendors."""

_NO_UUID = frozenset(
    [
        "03000200-0400-0500-0006-000700080009",  # AMI's reference BIOS: many boards, desktops above all
        "00020003-0004-0005-0006-000700080009",  # the same, with the first three fields in the other byte order
        "12345678-1234-5678-90ab-cddeefaabbcc",
        "4c4c4544-0000-2010-8020-80c04f202020",  # a Dell board whose service tag was never written
        "00112233-4455-6677-8899-aabbccddeeff",
    ]
)
"""UUIDs that every board of some kind has."""

_HEX_UUID = re.compile(r"[0-9a-f]{32}")
_HEX_MAC = re.compile(r"[0-9a-f]{12}")
_MAC_SHAPE = re.compile(r"[0-9a-f]{1,2}([:-])[0-9a-f]{1,2}(?:\1[0-9a-f]{1,2}){4}")


def normal_uuid(text: str) -> str:
    """Return a UUID in lower case with hyphens; empty if it is none, or one that many boards share."""
    digits = text.strip().lower().removeprefix("urn:uuid:").strip("{}").replace("-", "")
    if not _HEX_UUID.fullmatch(digits) or digits == digits[:2] * 16 or digits.endswith("0" * 16):
        return ""  # ASRock boards end in 16 zeros
    uuid = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    return "" if uuid in _NO_UUID else uuid


def normal_serial(text: str) -> str:
    """Return a serial number without surplus blanks; empty if it is one of the words that stand for none."""
    serial = " ".join(text.split())
    folded = serial.casefold()
    if folded in _NO_SERIAL or len(set(folded) - set(" .-_:")) <= 1:
        return ""  # "0000000", "xxxxxxxx", "........"
    return serial


def normal_mac(text: str) -> str:
    """Return a MAC as aa:bb:cc:dd:ee:ff, from any common spelling; empty if it is none, all zeros or broadcast."""
    given = text.strip().lower()
    if _MAC_SHAPE.fullmatch(given):
        digits = "".join(part.zfill(2) for part in re.split("[:-]", given))
    else:
        digits = given.replace(".", "")
    if not _HEX_MAC.fullmatch(digits) or digits in {"0" * 12, "f" * 12}:
        return ""
    return ":".join(digits[at : at + 2] for at in range(0, 12, 2))


def make(
    uuid: str = "",
    serials: Iterable[str] = (),
    macs: Iterable[str] = (),
    doubtful: Iterable[str] = (),
    booted: str = "",
) -> Identity:
    """Return the identity that these texts make, without what says nothing.

    `doubtful` are MACs that are no property of the machine alone: of USB adapters, of the BMC's virtual port. They,
    and those of `macs` that are locally administered, multicast or given twice, count only if nothing better is there:
    QEMU's 52:54:00 is locally administered too. `booted` is the MAC of the port it booted from and always counts:
    firmware will name it again at the next boot, and must not contradict what is known by then.
    """
    weak = [mac for mac in map(normal_mac, doubtful) if mac]
    given = [mac for mac in map(normal_mac, macs) if mac and mac not in weak]
    tiers = (
        {mac for mac in given if not _first_octet(mac) & 0b11 and given.count(mac) == 1},
        {mac for mac in given if not _first_octet(mac) & 0b01},
        {*given, *weak},
    )
    best = next((tier for tier in tiers if tier), set())
    found = {serial.upper(): serial for serial in sorted(map(normal_serial, serials)) if serial}
    return Identity(
        uuid=normal_uuid(uuid),
        serials=tuple(sorted(found.values())),
        macs=tuple(sorted(best | ({normal_mac(booted)} - {""}))),
    )


def _first_octet(mac: str) -> int:
    """Bit 0 of it says multicast, bit 1 locally administered (IEEE 802-2014, 8.4)."""
    return int(mac[:2], 16)


def keys(identity: Identity) -> tuple[str, ...]:
    """Return what to look a machine up by, "uuid:...", "serial:..." and "mac:...", the strongest first.

    Two identities that share no key are of different machines.
    """
    return (
        *([f"uuid:{identity.uuid}"] if identity.uuid else []),
        *(f"serial:{serial}" for serial in sorted({serial.upper() for serial in identity.serials})),
        *(f"mac:{mac}" for mac in sorted(set(identity.macs))),
    )


def new_id(identity: Identity) -> str:
    """Return the id for a machine that nobody knows yet: "m-" and 12 hex digits of the SHA-256 of its keys.

    Only the lowest MAC counts, so that adding a card and forgetting the machine gives the same id again; UUID and
    serial numbers are both in it, so that boards which share one of them get ids of their own. Raises HalliganError
    when the identity is empty: all such machines would be one.
    """
    own = keys(identity)
    if not own:
        raise HalliganError(
            "the machine says nothing that tells it from others: no UUID, no serial number and no MAC address",
            hint="check what `dmidecode -t system` and `ip link` print on it",
        )
    macs = [key for key in own if key.startswith("mac:")]
    strongest = [key for key in own if not key.startswith("mac:")] + macs[:1]
    return "m-" + hashlib.sha256("\n".join(strongest).encode()).hexdigest()[:12]


# --- two identities -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How alike two identities are. `agree` are the keys of both, `differ` those of one where both tell that kind."""

    points: int = 0
    agree: tuple[str, ...] = ()
    differ: tuple[str, ...] = ()

    @property
    def contradicting(self) -> tuple[str, ...]:
        """The kinds ("uuid", "serial", "mac") of which both tell something and nothing agrees, sorted."""
        return tuple(sorted(_kinds(self.differ) - _kinds(self.agree)))

    @property
    def needed(self) -> int:
        """The points that recognise the machine, given what contradicts."""
        match self.contradicting:
            case ():
                return ENOUGH_ALONE
            case ("serial",) if "uuid" in _kinds(self.agree):
                return ENOUGH_AGAINST_SERIALS
        return ENOUGH

    @property
    def same(self) -> bool:
        return self.points >= self.needed


def compare(a: Identity, b: Identity) -> Score:
    """Return how alike two identities are; the order of the two does not matter."""
    own, other = set(keys(a)), set(keys(b))
    told = _kinds(own) & _kinds(other)
    agree = tuple(sorted(own & other))
    return Score(
        points=_points(agree),
        agree=agree,
        differ=tuple(sorted(key for key in own ^ other if _kind(key) in told)),
    )


def _points(agree: Sequence[str]) -> int:
    counts = {kind: sum(_kind(key) == kind for key in agree) for kind in ("uuid", "serial", "mac")}
    return (
        UUID_POINTS * counts["uuid"]
        + min(SERIAL_POINTS * counts["serial"], SERIALS_MOST)
        + min(MAC_POINTS * counts["mac"], MACS_MOST)
    )


def _kind(key: str) -> str:
    return key.partition(":")[0]


def _kinds(those: Iterable[str]) -> set[str]:
    return {_kind(key) for key in those}


# --- one among many -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognition:
    """Who a machine is: `kind` is "same" (then `machine` is who), "new" or "conflict" (then `others` are ids).

    `reasons` say in words why; those of a conflict are written for the operator who has to decide.
    """

    kind: str
    machine: MachineState | None = None
    others: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


def recognise(known: Iterable[MachineState], identity: Identity) -> Recognition:
    """Return which of the known machines this is. `known` may be all, or just those that share a key.

    A retired machine is still recognised, but contradicts nobody: its parts may live on in others.
    """
    if not keys(identity):
        return Recognition(
            kind=CONFLICT,
            reasons=("it says nothing that tells it from others: no UUID, no serial number and no MAC address",),
        )
    near = sorted((state for state in known if _shares(state.identity, identity)), key=lambda state: state.id)
    alike = [(state, compare(state.identity, identity)) for state in near]
    same = _settle([(state, score) for state, score in alike if score.same])
    if len(same) > 1:
        return _conflict(same, "it fits more than one known machine")
    active = [(state, score) for state, score in alike if state.phase is not Phase.RETIRED]
    if same:
        return _known(same[0], active)
    doubtful = [(state, score) for state, score in active if not _neighbours(state.identity, identity)]
    if doubtful:
        return _conflict(doubtful, "it resembles a known machine, but not enough to be that one")
    return Recognition(kind=NEW, reasons=_new_reasons(alike))


_Scored: TypeAlias = tuple[MachineState, Score]


def _shares(a: Identity, b: Identity) -> bool:
    """Whether two identities have a key in common; says so faster than a comparison, of a thousand machines."""
    if (a.uuid and a.uuid == b.uuid) or not set(a.macs).isdisjoint(b.macs):
        return True
    return not {serial.upper() for serial in a.serials}.isdisjoint(serial.upper() for serial in b.serials)


def _settle(same: list[_Scored]) -> list[_Scored]:
    """A machine that was retired and came back under a new id is that of the new id."""
    active = [(state, score) for state, score in same if state.phase is not Phase.RETIRED]
    return active or same


def _known(found: _Scored, active: list[_Scored]) -> Recognition:
    state, score = found
    sharers = [(other, theirs) for other, theirs in active if other.id != state.id and "mac" in _kinds(theirs.agree)]
    if sharers:
        return _conflict([found, *sharers], "a MAC address of it belongs to more than one known machine")
    return Recognition(kind=SAME, machine=state, reasons=_words(state, score))


def _neighbours(a: Identity, b: Identity) -> bool:
    """Whether two machines are blades of one chassis: a serial number is shared, all else is each one's own."""
    mine, theirs = {s.upper() for s in a.serials}, {s.upper() for s in b.serials}
    if not (mine & theirs and mine - theirs and theirs - mine):
        return False
    return bool(a.uuid and b.uuid and a.uuid != b.uuid and a.macs and b.macs and not set(a.macs) & set(b.macs))


def _conflict(those: Sequence[_Scored], why: str) -> Recognition:
    lines = [line for state, score in those for line in _words(state, score)]
    ids = tuple(sorted(state.id for state, _ in those))
    return Recognition(kind=CONFLICT, others=ids, reasons=(f"{why}: {', '.join(ids)}", *lines, *_advice(those)))


def _advice(those: Sequence[_Scored]) -> list[str]:
    """Return what the patterns of agreement usually mean, each once."""
    lines = [_meaning(score) for _, score in those if not score.same]
    return list(dict.fromkeys(lines)) or ["retire those that are the same machine under an older id, keep one"]


def _meaning(score: Score) -> str:
    agree, against = _kinds(score.agree), score.contradicting
    if "mac" in against:
        return (
            "either all its network ports were replaced: then retire the old machine; or two machines have one UUID"
            " or serial number, as clones and some boards do: then correct the firmware of one"
        )
    if agree == {"mac"}:
        return (
            "a MAC address alone proves nothing when UUID or serial number differ: a network card moved to another"
            " machine, or somebody uses an address that is not theirs; retire the old machine if it is gone"
        )
    if "uuid" in against:
        return "its mainboard may have been replaced: retire the old machine if it is this one"
    return "too little is told to be sure: check the serial numbers and UUID that its firmware gives"


def _new_reasons(alike: Sequence[_Scored]) -> tuple[str, ...]:
    notes = []
    for state, score in alike:
        shared = ", ".join(map(_shown, score.agree))
        if state.phase is Phase.RETIRED:
            notes.append(f"shares {shared} with {state.id}, which is retired")
        else:
            notes.append(f"shares {shared} with {state.id}, as blades of one chassis do; all else is its own")
    return ("no known machine is like it", *notes)


_NAMES = {"uuid": "UUID", "serial": "serial number", "mac": "MAC"}


def _shown(key: str) -> str:
    kind, _, value = key.partition(":")
    return f"{_NAMES[kind]} {value}"


def _words(state: MachineState, score: Score) -> tuple[str, ...]:
    """Return one line: what agrees, what contradicts, and how that counts."""
    who = f"{state.id} ({state.node})" if state.node else state.id
    agree = "the same " + ", ".join(map(_shown, score.agree))
    against = ", ".join(_NAMES[kind] for kind in score.contradicting)
    other = f"; another {against}" if against else ""
    return (f"{who}: {agree}{other} ({score.points} points, {score.needed} needed)",)
