"""Taking in a disk image that others made: qcow2, VMDK, VHDX, VHD or raw.

The file comes from somewhere, so that it is judged before any program opens it: qcow2 and VMDK can name other files of
this machine as part of the disk, and what reads them would copy these to every host. The format is told by the file's
own magic number, and qemu-img is told that one and never guesses.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import HalliganError
from orchestrator.images.inspecting import inspect
from orchestrator.images.library import Image, Library, check_name
from orchestrator.lab.host import ENVIRONMENT

__all__ = ["import_image"]

LARGEST = 1024**4
"""Bytes of the largest disk that is taken in. Formats cost nothing to say "a petabyte" in, and we would read it all."""

_FORMATS: tuple[tuple[str, bytes], ...] = (
    ("qcow2", b"QFI\xfb"),
    ("vmdk", b"KDMV"),
    ("vhdx", b"vhdxfile"),
    ("vpc", b"conectix"),
)
_CONVERT = "Convert it where all its files are: `qemu-img convert -O qcow2 FILE NEW`."
# What is no disk image, and what to do about it.
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"# Disk DescriptorFile", "a VMDK that only names other files", _CONVERT),
    (b"COWD", "a VMDK of an old kind (ESX)", _CONVERT),
    (b"\xfd7zXZ\0", "compressed with xz", "Unpack it first: `unxz --keep FILE`."),
    (b"\x1f\x8b", "compressed with gzip", "Unpack it first: `gunzip --keep FILE`."),
    (b"BZh", "compressed with bzip2", "Unpack it first: `bunzip2 --keep FILE`."),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Unpack it first: `unzstd FILE`."),
    (b"PK\x03\x04", "a ZIP archive", "Unpack it first: `unzip FILE`."),
    (b"MSWIM\0\0\0", "a WIM archive of files, not a disk", "Write it to a virtual disk, and import that."),
    (b"<!DOCTYPE", "a web page", "The download went wrong: look at the file."),
    (b"<html", "a web page", "The download went wrong: look at the file."),
)  # fmt: skip


def import_image(
    path: Path,
    name: str,
    library: Library,
    report: Callable[[str], None],
    *,
    checksum: str = "",
    os: str = "",
    seed: str = "",
) -> Image:
    """Take a disk image into the library, and let its name mean it from now on.

    `checksum` is what the file's publisher says: SHA-256 or SHA-512 in hex. `os` and `seed` say what is expected, or
    choose ("configdrive" for a Linux whose cloud-init has no NoCloud); they are derived when left empty. Raises
    HalliganError when the file is not such an image, not whole, encrypted, or refers to other files.
    """
    check_name(name)
    path = path.absolute()
    if not path.is_file():
        raise HalliganError(f"there is no file {path}" if not path.exists() else f"{path} is not a file")
    if checksum:
        report(f"{name}: comparing the checksum of {path.name}")
        _compare(path, checksum)
    kind = _kind(path)
    library.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".importing-", dir=library.folder) as folder:
        raw = path if kind == "raw" else Path(folder) / "disk.raw"
        if kind != "raw":
            _check(path, kind)
            report(f"{name}: converting from {kind}")
            _qemu_img("convert", "--image-opts", "-O", "raw", _options(path, kind), str(raw), timeout_s=4 * 3600)
        if raw.stat().st_size % 512:
            raise HalliganError(f"{path.name} is not a disk, or cut short: its size is not a multiple of 512 bytes")
        disk = inspect(raw)
        chosen_os, chosen_seed = _choose(disk.os, disk.root, os, seed)
        report(f"{name}: {chosen_os} on {disk.root}, starts with {' and '.join(disk.firmware)}; compressing")
        return library.add(
            raw,
            name=name,
            firmware=disk.firmware,
            os=chosen_os,
            seed=chosen_seed,
            root=disk.root,
            source=f"imported from {path.name} ({kind})",
            progress=lambda percent: report(f"{name}: {percent} %"),
        )


def _choose(found: str, root: str, os: str, seed: str) -> tuple[str, str]:
    if os and os != found:
        raise HalliganError(
            f"this is no image of {os}: its root file system is {root}", hint=f"Leave --os out, or say {found}."
        )
    if found == "windows" and seed == "nocloud":
        raise HalliganError("Windows is told who it is by a config drive only", hint="Leave --seed out.")
    return found, seed or ("configdrive" if found == "windows" else "nocloud")


def _compare(path: Path, checksum: str) -> None:
    wanted = checksum.strip().lower().removeprefix("sha256:").removeprefix("sha512:")
    kind = {64: "sha256", 128: "sha512"}.get(len(wanted), "")
    if not kind or set(wanted) - set("0123456789abcdef"):
        raise HalliganError(f"{checksum!r} is no checksum", hint="SHA-256 (64 digits) or SHA-512 (128 digits) in hex.")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found != wanted:
        raise HalliganError(
            f"{path.name} is not the file that its checksum is of",
            detail=[f"expected {kind} {wanted}", f"found    {kind} {found}"],
            hint="Download it again. If it differs again, the checksum is of another file, or this one was changed.",
        )


# --- judging a file before anything opens it ----------------------------------------------------------------------


def _kind(path: Path) -> str:
    """Return qemu-img's name of the format; raises HalliganError for what must not be opened or is no disk."""
    with path.open("rb") as file:
        head = file.read(512)
        file.seek(max(0, path.stat().st_size - 512))
        tail = file.read(512)
    for magic, what, hint in _OTHERS:
        if head[: len(magic)].lower() == magic.lower():
            raise HalliganError(f"{path.name} is {what}", hint=hint)
    kind = next((kind for kind, magic in _FORMATS if head.startswith(magic)), "raw")
    if kind == "raw" and tail.startswith(b"conectix"):
        return "vpc"  # a VHD of fixed size has its only header at the end
    {"qcow2": _judge_qcow2, "vmdk": _judge_vmdk}.get(kind, lambda _path, _head: None)(path, head)
    return kind


def _judge_qcow2(path: Path, head: bytes) -> None:
    """Read the header as docs/interop/qcow2.txt of QEMU describes it."""
    version, backing = struct.unpack_from(">IQ", head, 4)
    encrypted = struct.unpack_from(">I", head, 32)[0]
    incompatible = struct.unpack_from(">Q", head, 72)[0] if version >= 3 else 0
    if backing:
        raise _refers(path, "a backing file")
    if incompatible & 4:
        raise _refers(path, "an external data file")
    if encrypted:
        raise HalliganError(
            f"{path.name} is encrypted", hint="Convert it with its key first: `qemu-img convert` into a new file."
        )


def _judge_vmdk(path: Path, head: bytes) -> None:
    """A sparse extent with a capacity is the disk; without one QEMU would follow the names in its description."""
    if struct.unpack_from("<Q", head, 12)[0] == 0:
        raise _refers(path, "the files of its description")


def _refers(path: Path, what: str) -> HalliganError:
    return HalliganError(
        f"{path.name} is not a whole disk: it refers to {what}, which would be read from this machine",
        hint=_CONVERT,
    )


def _check(path: Path, kind: str) -> None:
    told = _qemu_img("info", "--output=json", "--image-opts", _options(path, kind), timeout_s=60)
    said: Mapping[str, Any] = json.loads(told)
    if said.get("backing-filename") or said.get("full-backing-filename"):
        raise _refers(path, "a backing file")
    if said.get("encrypted"):
        raise HalliganError(f"{path.name} is encrypted", hint="Convert it with its key first.")
    data = said.get("format-specific", {}).get("data", {})
    names = [str(extent.get("filename", "")) for extent in data.get("extents", [])]
    if data.get("data-file") or any(Path(name).name != path.name for name in names if name):
        raise _refers(path, "other files")
    if int(said["virtual-size"]) > LARGEST:
        raise HalliganError(f"{path.name} says that it is a disk of {int(said['virtual-size']):,} bytes: too large")
    if kind != "vpc":  # whose check QEMU cannot do
        _whole(path, kind)


def _whole(path: Path, kind: str) -> None:
    """Have the format's own tables checked: of a file that is cut short the rest would be read as zeros."""
    words = ["qemu-img", "check", "--output=json", "--image-opts", _options(path, kind)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=3600, env=dict(ENVIRONMENT), check=False)
    if done.returncode not in (0, 3, 63):  # 3: space that nothing uses; 63: there is nothing to check
        raise HalliganError(
            f"{path.name} is damaged or cut short",
            detail=[line[:300] for line in done.stderr.splitlines()[:3]],
            hint="Download it again, and compare its checksum (--checksum).",
        )


def _options(path: Path, kind: str) -> str:
    """Name a file so that qemu-img reads neither a protocol nor a format into it (a comma is doubled)."""
    return f"driver={kind},file.driver=file,file.filename={str(path).replace(',', ',,')}"


def _qemu_img(*words: str, timeout_s: float) -> str:
    if shutil.which("qemu-img", path=ENVIRONMENT["PATH"]) is None:
        raise HalliganError("the program qemu-img is not installed", hint="apt install qemu-utils")
    try:
        done = subprocess.run(
            ["qemu-img", *words], capture_output=True, text=True, timeout=timeout_s, env=dict(ENVIRONMENT), check=False
        )
    except subprocess.TimeoutExpired:
        raise HalliganError(f"qemu-img {words[0]} did not end within {timeout_s:.0f} s") from None
    if done.returncode != 0:
        raise HalliganError(
            "the image cannot be read: damaged, cut short, or of a kind that QEMU does not know",
            detail=[line[:300] for line in done.stderr.splitlines()[:3]],
            hint="Download it again, and compare its checksum (--checksum).",
        )
    return done.stdout
