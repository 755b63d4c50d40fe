"""What is on a disk image: can it start, in which firmware modes, and what is its root file system?

Nothing is mounted. The partition table is read by sfdisk, file systems are known by their magic numbers, the EFI system
partition is looked into with mtools.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import HalliganError
from orchestrator.lab.host import ENVIRONMENT

__all__ = ["Disk", "Partition", "inspect"]

ESP = ("C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "ef")  # GPT's type, MBR's type
BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
_PROTECTIVE = "ee"  # MBR's type of the partition that stands for a GPT; seen only when there is no GPT any more

_MAGIC: Mapping[str, tuple[int, bytes]] = {
    "ext4": (0x438, b"\x53\xef"),  # ext2 and ext3 as well: whoever mounts one with the driver of ext4 gets it
    "xfs": (0, b"XFSB"),
    "btrfs": (0x10040, b"_BHRfS_M"),
    "ntfs": (3, b"NTFS    "),
    "lvm": (0x218, b"LVM2 001"),
    "luks": (0, b"LUKS\xba\xbe"),
    "bitlocker": (3, b"-FVE-FS-"),
}
_ROOTS = ("ext4", "xfs", "btrfs", "ntfs")
_ENCRYPTED = {"luks": "encrypted with LUKS", "bitlocker": "encrypted with BitLocker"}
_BOOT_CODE = 440  # bytes of an MBR before the disk's signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One partition: `start` and `size` in bytes, `kind` as the table calls it, `holds` what its magic number says."""

    number: int
    start: int
    size: int
    kind: str
    active: bool
    holds: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """What was found: `label` is "gpt" or "dos", `root` the kind of the largest file system that can be a root."""

    label: str
    partitions: tuple[Partition, ...]
    firmware: tuple[str, ...]
    root: str

    @property
    def os(self) -> str:
        return "windows" if self.root == "ntfs" else "linux"


def inspect(raw: Path) -> Disk:
    """Judge a raw disk. Raises HalliganError: no partitions, cut short, no root file system, nothing that starts it."""
    label, partitions = _table(raw)
    size = raw.stat().st_size
    for partition in partitions:
        if partition.start + partition.size > size:
            raise HalliganError(
                f"the image is cut short: partition {partition.number} ends at byte "
                f"{partition.start + partition.size:,}, the disk at {size:,}",
                hint="Download it again, and compare its checksum (--checksum).",
            )
    root = _root(partitions)
    firmware = tuple(_firmware(raw, label, partitions))
    if not firmware:
        raise HalliganError(
            "nothing on this disk can start it: no loader at EFI/BOOT/BOOTX64.EFI in an EFI system partition, "
            "and no boot code for a BIOS",
            detail=_told(partitions),
            hint="Images for containers have no boot loader; take the one for virtual machines or bare metal.",
        )
    return Disk(label=label, partitions=partitions, firmware=firmware, root=root)


def _told(partitions: Iterable[Partition]) -> list[str]:
    return [
        f"partition {each.number}: {each.size // 1024 // 1024} MiB, type {each.kind}, {each.holds or 'unknown'}"
        for each in partitions
    ]


def _table(raw: Path) -> tuple[str, tuple[Partition, ...]]:
    words = ["sfdisk", "--json", str(raw)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=dict(ENVIRONMENT), check=False)
    except FileNotFoundError:
        raise HalliganError("the program sfdisk is not installed", hint="apt install fdisk") from None
    try:
        table: Mapping[str, Any] = json.loads(done.stdout)["partitiontable"]
    except (ValueError, KeyError):
        table = {}
    if table.get("label") not in ("gpt", "dos") or not table.get("partitions"):
        raise HalliganError(
            "the image has no partition table (GPT or MBR), or an empty one", detail=_why(raw), hint=_WHOLE_DISK
        )
    if any(str(entry["type"]) == _PROTECTIVE for entry in table["partitions"]):
        raise HalliganError(
            "the image is cut short or damaged: it should have a GPT, and that is not valid for a disk of "
            f"{raw.stat().st_size:,} bytes",
            hint="Download it again, and compare its checksum (--checksum).",
        )
    sector = int(table.get("sectorsize", 512))
    with raw.open("rb") as file:
        found = []
        for index, entry in enumerate(table["partitions"], 1):
            start, size = int(entry["start"]) * sector, int(entry["size"]) * sector
            holds = next((kind for kind, mark in _MAGIC.items() if _has(file, start, size, mark)), "")
            found.append(
                Partition(
                    number=index,
                    start=start,
                    size=size,
                    kind=str(entry["type"]),
                    active=bool(entry.get("bootable")),
                    holds=holds,
                )
            )
    return str(table["label"]), tuple(found)


_WHOLE_DISK = "Halligan writes whole disks: with a partition table, a boot loader and a root file system."


def _why(raw: Path) -> list[str]:
    with raw.open("rb") as file:
        size = raw.stat().st_size
        lone = next((kind for kind, mark in _MAGIC.items() if _has(file, 0, size, mark)), "")
        if lone:
            return [f"it is a single {lone} file system"]
        file.seek(0x8001)
        return ["it is an installation CD (ISO 9660), not an installed system"] if file.read(5) == b"CD001" else []


def _has(file: Any, start: int, size: int, mark: tuple[int, bytes]) -> bool:
    offset, magic = mark
    if offset + len(magic) > size:
        return False
    file.seek(start + offset)
    return bool(file.read(len(magic)) == magic)


def _root(partitions: tuple[Partition, ...]) -> str:
    roots = [each for each in partitions if each.holds in _ROOTS]
    if roots:
        return max(roots, key=lambda each: each.size).holds
    for each in partitions:
        if each.holds in _ENCRYPTED:
            raise HalliganError(
                f"partition {each.number} is {_ENCRYPTED[each.holds]}: nobody could tell the system who it is",
                hint="Take an image that is not encrypted; disks can be encrypted on the machine.",
            )
        if each.holds == "lvm":
            raise HalliganError(
                f"the root file system is in a volume group of LVM (partition {each.number})",
                hint="Take an image with a plain partition: one volume group on many machines is one too few names.",
            )
    raise HalliganError(
        "the disk has no root file system of a kind that Halligan knows (ext4, xfs, btrfs, ntfs)",
        detail=_told(partitions),
        hint=_WHOLE_DISK,
    )


# --- starting -----------------------------------------------------------------------------------------------------


def _firmware(raw: Path, label: str, partitions: Iterable[Partition]) -> Iterable[str]:
    listed = tuple(partitions)
    with raw.open("rb") as file:
        code = any(file.read(_BOOT_CODE))
        if label == "gpt":  # code alone means nothing: Windows writes it to disks that only UEFI can start
            homes = [each for each in listed if each.kind.upper() == BIOS_BOOT]
            second = any(_written(file, each.start) for each in homes)
        else:  # GRUB lives behind the MBR, everything else in the active partition
            second = any(each.active for each in listed) or _written(file, 512)
    if code and second:
        yield "bios"
    if any(each.kind.upper() in (ESP[0], ESP[1].upper()) and _has_loader(raw, each) for each in listed):
        yield "uefi"


def _written(file: Any, at: int) -> bool:
    file.seek(at)
    return any(file.read(512))


def _has_loader(raw: Path, esp: Partition) -> bool:
    """Look for the loader that firmware starts without having been told of the disk before (UEFI 2.10, 3.5.1.1)."""
    words = ["mdir", "-b", "-i", f"{raw}@@{esp.start}", "::EFI/BOOT/BOOTX64.EFI"]
    try:
        environment = {**ENVIRONMENT, "MTOOLS_SKIP_CHECK": "1"}  # other makers' FATs break rules that only DOS needed
        return subprocess.run(words, capture_output=True, timeout=60, env=environment, check=False).returncode == 0
    except FileNotFoundError:
        raise HalliganError("the program mdir is not installed", hint="apt install mtools") from None
