"""From a tree of files to a disk that boots: GPT, GRUB for BIOS and UEFI, root file system last so that it can grow.

Nothing is mounted and no loop device is used: the file systems are made inside the file of the disk by tools that can
(mke2fs -d, mkfs.vfat --offset, mtools). A build works in a container, and leaves nothing behind when it is killed.

What `grub-bios-setup` does to a device is done here to the file. GRUB's boot.img holds at 0x5c the sector of the next
stage, and at 0x66 a jump that is made harmless for hard disks whose BIOS passes a wrong drive; the first sector of
core.img ends in a list of what to load, of which the first entry's start is ours to fill in (GRUB 2.06,
util/setup.c and include/grub/i386/pc/boot.h). UEFI starts Debian's signed shim from the removable path, which starts
the signed GRUB beside it, so that Secure Boot may be on.
"""

from __future__ import annotations

import os
import shutil
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import HalliganError
from orchestrator.lab.host import run

__all__ = ["TOOLS", "Identifiers", "assemble", "bootable", "identifiers", "prepare"]

TOOLS = {"sgdisk": "gdisk", "mke2fs": "e2fsprogs", "mkfs.vfat": "dosfstools", "mcopy": "mtools"}
"""What must be installed here to make a disk -> Debian's package of it."""

SECTOR = 512
MIB = 1024 * 1024
_BIOS_AT, _ESP_AT, _ESP_SIZE, _ROOT_AT = 1 * MIB, 2 * MIB, 64 * MIB, 66 * MIB
_TAIL = 1 * MIB  # the second copy of the partition table
_SPARE = 96 * MIB  # of the root file system, for what the first boot writes before it is grown

_BIOS_MODULES = [
    "biosdisk",
    "part_gpt",
    "ext2",
    "search",
    "search_fs_uuid",
    "normal",
    "configfile",
    "linux",
    "gzio",
    "echo",
    "test",
    "serial",
    "terminal",
    "minicmd",
]
_KERNEL_AT = 0x5C  # in boot.img: GRUB_BOOT_MACHINE_KERNEL_SECTOR
_DRIVE_CHECK_AT = 0x66  # in boot.img: GRUB_BOOT_MACHINE_DRIVE_CHECK
_BOOT_CODE = 440  # bytes of an MBR before the disk's signature
_BLOCKLIST_AT = SECTOR - 12  # in core.img: u64 start, u16 sectors, u16 segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Identifiers:
    """The names by which the parts of one disk find each other."""

    root: str  # UUID of the root file system
    esp: str  # volume serial of the ESP, "XXXX-XXXX"
    disk: str  # GUID of the disk


def identifiers(seed: str) -> Identifiers:
    """Derive identifiers: one recipe gives the same ones, and other images have others."""
    root, esp, disk = (uuid.uuid5(uuid.NAMESPACE_URL, f"halligan:{seed}:{part}") for part in ("root", "esp", "disk"))
    return Identifiers(root=str(root), esp=f"{esp.hex[:4]}-{esp.hex[4:8]}".upper(), disk=str(disk))


def prepare(tree: Path, names: Identifiers, command_line: str) -> None:
    """Put into a tree what the running system needs of its disk: fstab, GRUB's configuration and modules."""
    (tree / "etc/fstab").write_text(
        f"UUID={names.root} / ext4 errors=remount-ro 0 1\n"
        f"UUID={names.esp} /boot/efi vfat umask=0077,noauto,nofail,x-systemd.automount,x-systemd.idle-timeout=60 0 0\n"
    )
    (tree / "boot/efi").mkdir(exist_ok=True)
    grub = tree / "boot/grub"
    for platform in ("i386-pc", "x86_64-efi"):
        target = grub / platform
        target.mkdir(parents=True, exist_ok=True)
        for file in (tree / "usr/lib/grub" / platform).iterdir():
            if file.suffix in (".mod", ".lst") or file.name == "boot.img":
                shutil.copyfile(file, target / file.name)
    # GRUB's own folder also holds what grub-install leaves there: the core image and what it does first.
    (grub / "i386-pc/load.cfg").write_text(_find_root(names))
    run(
        "chroot", tree, "grub-mkimage", "-O", "i386-pc", "-p", "/boot/grub", "-c", "/boot/grub/i386-pc/load.cfg",
        "-o", "/boot/grub/i386-pc/core.img", *_BIOS_MODULES,
    )  # fmt: skip
    kernel, initrd = _newest(tree, "vmlinuz-"), _newest(tree, "initrd.img-")
    # `update-grub` replaces it on the machine with the next kernel; it cannot run here, where there is no disk.
    (grub / "grub.cfg").write_text(
        "set timeout=1\n"
        "if serial --unit=0 --speed=115200; then terminal_output console serial; terminal_input console serial; fi\n"
        "menuentry 'Debian GNU/Linux' {\n"
        f"    linux /boot/{kernel} root=UUID={names.root} ro {command_line}\n"
        f"    initrd /boot/{initrd}\n"
        "}\n"
    )


def _find_root(names: Identifiers) -> str:
    return f"search.fs_uuid {names.root} root\nset prefix=($root)/boot/grub\n"


def _newest(tree: Path, prefix: str) -> str:
    found = sorted(path.name for path in (tree / "boot").glob(f"{prefix}*"))
    if not found:
        raise HalliganError(f"the tree has no /boot/{prefix}*, so that it cannot boot")
    return found[-1]


def assemble(tree: Path, target: Path, names: Identifiers) -> None:
    """Write a prepared tree as a raw disk."""
    used = sum(_blocks(Path(folder, name)) for folder, _, files in os.walk(tree) for name in files)
    used += sum(len(folders) for _, folders, _ in os.walk(tree)) * 4096
    root_size = _round(used + used // 8 + _SPARE)
    with target.open("wb") as file:
        file.truncate(_ROOT_AT + root_size + _TAIL)
    _partition(target, root_size, names)
    _root(tree, target, root_size, names)
    _esp(tree, target, names)
    _bios(tree, target)


def _blocks(path: Path) -> int:
    return -(-path.lstat().st_size // 4096) * 4096


def _round(size: int) -> int:
    return -(-size // (8 * MIB)) * 8 * MIB


def _partition(target: Path, root_size: int, names: Identifiers) -> None:
    end = (_ROOT_AT + root_size) // SECTOR - 1
    run(
        "sgdisk", "--clear", f"--disk-guid={names.disk}",
        f"--new=1:{_BIOS_AT // SECTOR}:{_ESP_AT // SECTOR - 1}", "--typecode=1:ef02", "--change-name=1:bios",
        f"--new=2:{_ESP_AT // SECTOR}:{_ROOT_AT // SECTOR - 1}", "--typecode=2:ef00", "--change-name=2:esp",
        f"--new=3:{_ROOT_AT // SECTOR}:{end}", "--typecode=3:8304", "--change-name=3:root",
        target,
    )  # fmt: skip


def _root(tree: Path, target: Path, size: int, names: Identifiers) -> None:
    """Make the root file system; old features only, because GRUB must read it and other hosts may resize it.

    The inode tables are zeros in the file already, so that neither we nor the first boot need write them.
    """
    run(
        "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "1", "-L", "root", "-U", names.root,
        "-O", "^metadata_csum_seed,^orphan_file",
        "-E", f"offset={_ROOT_AT},hash_seed={names.disk},assume_storage_prezeroed=1,lazy_itable_init=1",
        "-d", tree, target, str(size // 4096),
    )  # fmt: skip


def _esp(tree: Path, target: Path, names: Identifiers) -> None:
    serial = names.esp.replace("-", "")
    offset, kib = str(_ESP_AT // SECTOR), str(_ESP_SIZE // 1024)
    run("mkfs.vfat", "-F", "32", "-s", "1", "-n", "ESP", "-i", serial, "--offset", offset, target, kib)
    volume = f"{target}@@{_ESP_AT}"
    config = target.with_suffix(".grub.cfg")
    config.write_text(f"search.fs_uuid {names.root} root\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n")
    run("mmd", "-i", volume, "::EFI", "::EFI/BOOT", "::EFI/debian")
    for source, place in (
        (tree / "usr/lib/shim/shimx64.efi.signed", "EFI/BOOT/BOOTX64.EFI"),
        (tree / "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", "EFI/BOOT/grubx64.efi"),
        (config, "EFI/debian/grub.cfg"),  # where Debian's signed GRUB looks
    ):
        run("mcopy", "-i", volume, source, f"::{place}")
    config.unlink()


def _bios(tree: Path, target: Path) -> None:
    grub = tree / "boot/grub/i386-pc"
    boot, core = bootable((grub / "boot.img").read_bytes(), (grub / "core.img").read_bytes(), _BIOS_AT // SECTOR)
    if len(core) > _ESP_AT - _BIOS_AT:
        raise HalliganError(f"GRUB's core image has {len(core)} bytes, more than its partition")
    with target.open("r+b") as file:
        file.write(boot[:_BOOT_CODE])
        file.seek(_BIOS_AT)
        file.write(core)


def bootable(boot: bytes, core: bytes, sector: int) -> tuple[bytes, bytes]:
    """Return GRUB's boot.img and core.img as they must be written when core.img goes to `sector` in one piece."""
    start, count, segment = struct.unpack_from("<QHH", core, _BLOCKLIST_AT)
    sectors = -(-len(core) // SECTOR)
    if len(boot) != SECTOR or count != sectors - 1 or segment != 0x820:
        raise HalliganError(
            "this GRUB's boot images are not laid out as those of GRUB 2.06",
            detail=[f"boot.img {len(boot)} bytes, core.img {sectors} sectors, list {start} {count} {segment:#x}"],
        )
    patched_boot, patched_core = bytearray(boot), bytearray(core.ljust(sectors * SECTOR, b"\0"))
    struct.pack_into("<Q", patched_boot, _KERNEL_AT, sector)
    patched_boot[_DRIVE_CHECK_AT : _DRIVE_CHECK_AT + 2] = b"\x90\x90"
    struct.pack_into("<QHH", patched_core, _BLOCKLIST_AT, sector + 1, count, segment)
    return bytes(patched_boot), bytes(patched_core)
