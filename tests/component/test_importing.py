"""What is taken in as an image, and what is refused: real files, made by the tools that make them."""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from orchestrator.errors import HalliganError
from orchestrator.images.importing import import_image
from orchestrator.images.inspecting import BIOS_BOOT, ESP, inspect
from orchestrator.images.library import Image, Library

TOOLS = ("qemu-img", "sfdisk", "mcopy", "mkfs.vfat", "mke2fs", "zstd")
MISSING = [tool for tool in TOOLS if not shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin")]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

MIB = 1024 * 1024
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
WINDOWS = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"


def run(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


def put(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def table(path: Path, script: str, mib: int = 12) -> Path:
    with path.open("wb") as file:
        file.truncate(mib * MIB)
    subprocess.run(["sfdisk", "--quiet", str(path)], input=script, text=True, check=True, capture_output=True)
    return path


def gpt(path: Path, *, loader: bool = True, code: bool = True, root: str = "ext4") -> Path:
    """Make a disk as Debian's is: BIOS boot, ESP, root."""
    kind = WINDOWS if root == "ntfs" else LINUX
    script = f"label: gpt\nstart=2048,size=2048,type={BIOS_BOOT}\nstart=4096,size=8192,type={ESP[0]}\n"
    table(path, f"{script}start=12288,size=8192,type={kind}\n")
    if code:
        put(path, 0, b"\xeb\x63\x90")
        put(path, 1 * MIB, b"\x52\xe8")
    run("mkfs.vfat", "--offset", 4096, path, 4096)
    if loader:
        (path.parent / "loader").write_bytes(b"MZ")
        run("mmd", "-i", f"{path}@@{2 * MIB}", "::EFI", "::EFI/Boot")
        run("mcopy", "-i", f"{path}@@{2 * MIB}", path.parent / "loader", "::EFI/Boot/bootx64.efi")
    magic(path, 6 * MIB, root)
    return path


def magic(path: Path, at: int, kind: str) -> None:
    """Put a file system there, or as much of one as tells its kind."""
    if kind == "ext4":
        run("mke2fs", "-q", "-F", "-t", "ext4", "-E", f"offset={at}", path, "4M")
    else:
        marks = {
            "xfs": (0, b"XFSB"),
            "btrfs": (0x10040, b"_BHRfS_M"),
            "ntfs": (3, b"NTFS    "),
            "lvm": (0x218, b"LVM2 001"),
            "luks": (0, b"LUKS\xba\xbe\0\2"),
        }
        if kind in marks:
            put(path, at + marks[kind][0], marks[kind][1])


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "images")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return gpt(tmp_path / "disk.raw")


def take(library: Library, path: Path, **more: str) -> Image:
    return import_image(path, "mine", library, lambda _line: None, **more)


def refused(library: Library, path: Path, **more: str) -> HalliganError:
    with pytest.raises(HalliganError) as caught:
        take(library, path, **more)
    assert caught.value.hint or path.name in caught.value.summary, "an error says what to do, or which file it is"
    assert not library.images()
    assert not library.folder.exists() or not list(library.folder.iterdir()), "nothing may be left behind"
    return caught.value


# --- what a disk is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loader", "code", "firmware"),
    [(True, True, ("bios", "uefi")), (True, False, ("uefi",)), (False, True, ("bios",))],
)
def test_firmware_is_what_has_something_to_start(
    tmp_path: Path, firmware: tuple[str, ...], *, loader: bool, code: bool
) -> None:
    disk = inspect(gpt(tmp_path / "disk", loader=loader, code=code))
    assert (disk.label, disk.firmware, disk.root, disk.os) == ("gpt", firmware, "ext4", "linux")


def test_a_disk_that_nothing_starts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HalliganError, match="nothing on this disk can start it"):
        inspect(gpt(tmp_path / "disk", loader=False, code=False))


def test_boot_code_on_gpt_counts_only_with_a_bios_boot_partition(tmp_path: Path) -> None:
    path = gpt(tmp_path / "disk")
    put(path, 1 * MIB, bytes(512))  # as on a Windows disk for UEFI: code in the MBR, and nothing behind it
    assert inspect(path).firmware == ("uefi",)


def test_an_old_disk_starts_by_its_active_partition(tmp_path: Path) -> None:
    path = table(tmp_path / "disk", "label: dos\nstart=2048,size=16384,type=7,bootable\n")
    magic(path, MIB, "ntfs")
    put(path, 0, b"\x33\xc0")
    disk = inspect(path)
    assert (disk.label, disk.firmware, disk.root, disk.os) == ("dos", ("bios",), "ntfs", "windows")


def test_an_old_disk_may_have_an_efi_partition(tmp_path: Path) -> None:
    path = table(tmp_path / "disk", "label: dos\nstart=4096,size=8192,type=ef\nstart=12288,size=8192,type=83\n")
    run("mkfs.vfat", "--offset", 4096, path, 4096)
    run("mmd", "-i", f"{path}@@{2 * MIB}", "::EFI", "::EFI/BOOT")
    (tmp_path / "loader").write_bytes(b"MZ")
    run("mcopy", "-i", f"{path}@@{2 * MIB}", tmp_path / "loader", "::EFI/BOOT/BOOTX64.EFI")
    magic(path, 6 * MIB, "xfs")
    assert inspect(path).firmware == ("uefi",)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "ntfs"])
def test_the_root_is_told_by_its_magic_number(tmp_path: Path, kind: str) -> None:
    assert inspect(gpt(tmp_path / "disk", root=kind)).root == kind


def test_of_two_file_systems_the_larger_is_the_root(tmp_path: Path) -> None:
    parts = f"start=2048,size=2048,type={LINUX}\nstart=4096,size=8192,type={LINUX}\n"
    path = table(tmp_path / "disk", f"label: dos\n{parts.replace(LINUX, '83')}")
    magic(path, 1 * MIB, "ntfs")
    magic(path, 2 * MIB, "xfs")
    put(path, 0, b"\xeb\x63")
    put(path, 512, b"GRUB")
    assert (inspect(path).root, inspect(path).firmware) == ("xfs", ("bios",))


@pytest.mark.parametrize(("kind", "said"), [("lvm", "volume group"), ("luks", "encrypted with LUKS"), ("", "no root")])
def test_roots_that_nobody_can_seed_are_refused(tmp_path: Path, kind: str, said: str) -> None:
    with pytest.raises(HalliganError, match=said):
        inspect(gpt(tmp_path / "disk", root=kind))


# --- what is taken in ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"), [("raw", ()), ("qcow2", ()), ("qcow2", ("-c",)), ("vmdk", ()), ("vhdx", ()), ("vpc", ())]
)
def test_every_format_gives_the_same_disk(library: Library, raw: Path, kind: str, options: tuple[str, ...]) -> None:
    path = raw.with_name("image,with=odd:name.img")  # that qemu-img would read options and a protocol into
    run("qemu-img", "convert", *options, "-O", kind, f"file:{raw}", f"file:{path}")
    image = take(library, path)
    library.verify(image)
    assert (image.os, image.seed, image.root, image.firmware) == ("linux", "nocloud", "ext4", ("bios", "uefi"))
    assert image.source == f"imported from {path.name} ({kind})"
    if kind != "vpc":  # which rounds sizes up to its cylinders
        assert image.sha256 == hashlib.sha256(raw.read_bytes()).hexdigest()
    assert library.current("mine") == image


def test_a_fixed_vhd_is_not_taken_for_a_raw_disk(library: Library, raw: Path) -> None:
    path = raw.with_name("fixed.vhd")
    run("qemu-img", "convert", "-O", "vpc", "-o", "subformat=fixed", raw, path)
    image = take(library, path)
    assert image.source.endswith("(vpc)")
    assert image.size < path.stat().st_size


def test_windows_gets_a_config_drive(library: Library, tmp_path: Path) -> None:
    image = take(library, gpt(tmp_path / "windows.raw", root="ntfs"), os="windows")
    assert (image.os, image.seed, image.root) == ("windows", "configdrive", "ntfs")


def test_linux_may_have_one(library: Library, raw: Path) -> None:
    assert take(library, raw, seed="configdrive").seed == "configdrive"


@pytest.mark.parametrize("kind", ["sha256", "sha512"])
def test_the_right_checksum_is_accepted(library: Library, raw: Path, kind: str) -> None:
    take(library, raw, checksum=hashlib.new(kind, raw.read_bytes()).hexdigest().upper())


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_wrong_checksum(library: Library, raw: Path) -> None:
    error = refused(library, raw, checksum="0" * 64)
    assert hashlib.sha256(raw.read_bytes()).hexdigest() in error.detail[1]


@pytest.mark.parametrize("checksum", ["abc", "z" * 64, "0" * 40])
def test_a_checksum_that_is_none(library: Library, raw: Path, checksum: str) -> None:
    assert "is no checksum" in refused(library, raw, checksum=checksum).summary


def test_a_file_that_is_not_there(library: Library, tmp_path: Path) -> None:
    assert "there is no file" in refused(library, tmp_path / "nothing.qcow2").summary
    assert "is not a file" in refused(library, tmp_path).summary


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xfd7zXZ\0" + bytes(506), "compressed with xz"),
        (b"\x1f\x8b\x08" + bytes(509), "compressed with gzip"),
        (b"<!doctype html><p>404", "a web page"),
        (b"# Disk DescriptorFile\nRW 1 FLAT \"/etc/shadow\" 0\n", "only names other files"),
        (b"hello, world", "not a multiple of 512"),
        (bytes(1024), "no partition table"),
        (b"", "no partition table"),
    ],
)  # fmt: skip
def test_what_is_no_disk(library: Library, tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    assert said in str(refused(library, path))


def test_a_file_system_without_a_disk_around_it(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "root.ext4"
    run("mke2fs", "-q", "-t", "ext4", path, "4M")
    error = refused(library, path)
    assert "no partition table" in error.summary
    assert error.detail == ("it is a single ext4 file system",)


def test_a_backing_file(library: Library, raw: Path) -> None:
    path = raw.with_name("overlay.qcow2")
    run("qemu-img", "create", "-f", "qcow2", "-b", raw, "-F", "raw", path)
    assert "refers to a backing file" in refused(library, path).summary


def test_an_external_data_file(library: Library, raw: Path) -> None:
    path = raw.with_name("outside.qcow2")
    run("qemu-img", "convert", "-O", "qcow2", "-o", f"data_file={raw.with_name('data')},data_file_raw=on", raw, path)
    assert "refers to an external data file" in refused(library, path).summary


def test_a_vmdk_that_names_other_files(library: Library, raw: Path) -> None:
    path = raw.with_name("flat.vmdk")
    run("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", raw, path)
    assert "only names other files" in refused(library, path).summary


def test_a_vmdk_with_a_parent(library: Library, raw: Path) -> None:
    base, path = raw.with_name("base.vmdk"), raw.with_name("child.vmdk")
    run("qemu-img", "convert", "-O", "vmdk", raw, base)
    run("qemu-img", "create", "-f", "vmdk", "-b", base, "-F", "vmdk", path)
    assert "refers to a backing file" in refused(library, path).summary


def test_a_vmdk_whose_description_would_be_followed(library: Library, raw: Path) -> None:
    path = raw.with_name("sparse.vmdk")
    run("qemu-img", "convert", "-O", "vmdk", raw, path)
    put(path, 12, struct.pack("<Q", 0))
    assert "refers to the files of its description" in refused(library, path).summary


def test_an_encrypted_image(library: Library, raw: Path) -> None:
    path = raw.with_name("secret.qcow2")
    key = ("--object", "secret,id=key,data=secret")
    run("qemu-img", "create", *key, "-f", "qcow2", "-o", "encrypt.format=aes,encrypt.key-secret=key", path, "12M")
    assert "is encrypted" in refused(library, path).summary
    put(path, 32, struct.pack(">I", 2))  # LUKS, whose making would be measured in seconds
    assert "is encrypted" in refused(library, path).summary


def test_a_disk_of_a_petabyte(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "bomb.qcow2"
    run("qemu-img", "create", "-f", "qcow2", path, "1P")
    assert "too large" in refused(library, path).summary


@pytest.mark.parametrize("kind", ["raw", "qcow2", "vmdk", "vhdx", "vpc"])
def test_an_image_that_is_cut_short(library: Library, raw: Path, kind: str) -> None:
    put(raw, 8 * MIB, b"\xa5" * 2 * MIB)  # something that the rest of the file must hold
    path = raw.with_name("cut.img")
    run("qemu-img", "convert", "-O", kind, raw, path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 2 // 3 // 512 * 512)
    assert "cut short" in refused(library, path).summary


def test_an_image_whose_header_is_garbage(library: Library, raw: Path) -> None:
    path = raw.with_name("bad.qcow2")
    run("qemu-img", "convert", "-O", "qcow2", raw, path)
    put(path, 40, b"\xff" * 24)  # where its tables are
    assert "damaged" in refused(library, path).summary


def test_an_os_that_it_is_not(library: Library, raw: Path, tmp_path: Path) -> None:
    assert "no image of windows" in refused(library, raw, os="windows").summary
    windows = gpt(tmp_path / "windows.raw", root="ntfs")
    assert "config drive" in refused(library, windows, seed="nocloud").summary
