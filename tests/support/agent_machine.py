"""A machine for tests of the discovery agent: a root folder with /sys, /proc and tools that print what was recorded.

Its disks are loop devices over sparse files (or the files themselves), so that partitions and file systems are real.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.agents import AGENT, BootService

MIB = 1 << 20
SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def tool(*argv: str | Path, **options: Any) -> str:
    """Run a tool that has to succeed; return what it prints."""
    environment = {**os.environ, "PATH": SBIN, "LC_ALL": "C"}
    ran = subprocess.run(
        [str(each) for each in argv], capture_output=True, text=True, env=environment, check=False, **options
    )
    assert ran.returncode == 0, f"{argv}: {ran.stdout}{ran.stderr}"
    return str(ran.stdout)


def _quiet(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, env={"PATH": SBIN}, check=False)


def missing(*names: str) -> str:
    """Return which of these tools is not installed here, or nothing."""
    return ", ".join(name for name in names if shutil.which(name, path=SBIN) is None)


def no_loops() -> str:
    """Return why loop devices cannot be used here, or nothing."""
    if os.geteuid() != 0:
        return "loop devices need root"
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(MIB)
        ran = _quiet("losetup", "-f", "--show", file.name)
        if ran.returncode:
            return f"no loop device: {ran.stderr.strip()}"
        tool("losetup", "-d", ran.stdout.strip())
    return ""


class MadeMachine:
    """A root folder that looks like a machine; `path` is for the agent's `--root`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "root"
        self.tools = folder / "tools"
        self.tools.mkdir(parents=True)
        self.put("/proc/meminfo", "MemTotal:        1000000 kB\n")
        self.put("/proc/cpuinfo", "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu vmx\n\n")
        self.put("/proc/self/mountinfo", "")
        self.put("/proc/swaps", "Filename\n")
        self.put("/run/halligan/bootif", "52:54:00:00:00:01\n")
        for name in ("ip", "modprobe", "udevadm", "dmidecode", "lshw", "lspci", "ipmitool", "lldpcli", "systemctl"):
            self.fake(name)
        for name in ("efibootmgr", "ethtool", "nvme", "systemd-detect-virt", "reboot", "poweroff", "mdadm", "dmsetup"):
            self.fake(name, code=1)

    def put(self, name: str, content: str | bytes) -> Path:
        path = self.path / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def fake(self, name: str, output: str = "", *, code: int = 0) -> None:
        """Let a tool print `output`; its calls are noted."""
        (self.tools / f"{name}.out").write_text(output)
        script = self.tools / name
        script.write_text(f'#!/bin/sh\necho "$@" >> "{script}.calls"\ncat "{script}.out"\nexit {code}\n')
        script.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        path = self.tools / f"{name}.calls"
        return path.read_text().splitlines() if path.exists() else []

    def site(self, service: BootService, **more: Any) -> None:
        """Write what the boot service tells a boot."""
        said = {"server": service.server, "files": service.files_url, "token": "token-1", "mode": service.mode}
        self.put("/etc/halligan/site.json", json.dumps({**said, "lldp_s": 0, "restart_s": 0.2, **more}))
        self.put("/etc/halligan/ca.pem", service.authority.ca.read_bytes())

    def disk(self, name: str, device: Path, *, serial: str = "", wwn: str = "", by_path: str = "") -> dict[str, Any]:
        """Show a device (or file) as the disk /dev/`name`; return it as an order has it."""
        with device.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
        number = device.stat().st_rdev
        sys_folder = f"/sys/block/{name}"
        self.put(f"{sys_folder}/size", f"{size // 512}\n")
        self.put(f"{sys_folder}/dev", f"{os.major(number)}:{os.minor(number)}\n")
        self.put(f"{sys_folder}/serial", serial)
        self.put(f"{sys_folder}/wwid", wwn.replace("0x", "naa."))
        self.put(f"{sys_folder}/queue/rotational", "0")
        self.put(f"{sys_folder}/queue/logical_block_size", "512")
        (self.path / "dev").mkdir(exist_ok=True)
        (self.path / "dev" / name).symlink_to(device)
        if by_path:
            link = self.path / "dev/disk/by-path" / by_path.rpartition("/")[2]
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(f"../../{name}")
        return {"name": f"/dev/{name}", "serial": serial, "wwn": wwn, "size": size, "by_path": by_path}

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self.tools}:{SBIN}", "PYTHONUNBUFFERED": "1"}

    @contextlib.contextmanager
    def agent(self) -> Iterator[RunningAgent]:
        """Run the agent of this machine, with a mount namespace of its own where that can be had."""
        apart = ["setpriv", "--pdeathsig", "KILL", *(["unshare", "-m"] if os.geteuid() == 0 else [])]
        output = self.path.parent / "console"
        with output.open("ab") as stream:
            child = subprocess.Popen(
                [*apart, sys.executable, str(AGENT), "--root", str(self.path), "--keep-clock"],
                stdout=stream, stderr=stream, env=self.environment(), start_new_session=True,
            )  # fmt: skip
            running = RunningAgent(child, output)
            try:
                yield running
            finally:
                running.kill()


@dataclass(frozen=True, slots=True)
class RunningAgent:
    child: subprocess.Popen[bytes]
    output: Path

    def console(self) -> str:
        return self.output.read_text(errors="replace")

    def kill(self) -> None:
        """End the agent, and what it runs, as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait(30)


@contextlib.contextmanager
def loop(file: Path, size: int) -> Iterator[Path]:
    """Give a loop device over a new sparse file, full of old data at both ends."""
    with file.open("wb") as stream:
        stream.truncate(size)
        for at in (0, size // 2, size - MIB):
            stream.seek(at)
            stream.write(b"old data" * (MIB // 8))
    device = Path(tool("losetup", "-f", "--show", file).strip())
    try:
        yield device
    finally:
        _quiet("partx", "-d", str(device))
        tool("losetup", "-d", device)


# --- images ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MadeImage:
    raw: bytes
    packed: bytes

    def order(self, name: str = "debian-12") -> dict[str, Any]:
        digest = hashlib.sha256(self.raw).hexdigest()
        return {"name": name, "path": f"/files/images/{name}.raw.zst", "sha256": digest, "size": len(self.raw)}


def pack(file: Path) -> MadeImage:
    tool("zstd", "-q", "-f", "-3", file, "-o", f"{file}.zst")
    return MadeImage(file.read_bytes(), Path(f"{file}.zst").read_bytes())


def linux_image(folder: Path, *, loader: str = "/EFI/BOOT/BOOTX64.EFI", bios: bool = True) -> MadeImage:
    """Make a small disk as images are: boot code, BIOS boot partition, ESP, and an ext4 root that holds random data."""
    folder.mkdir(parents=True)
    tree = folder / "tree"
    for name in ("etc/ssh", "etc/cloud/cloud.cfg.d", "usr/bin", "var/lib"):
        (tree / name).mkdir(parents=True)
    (tree / "etc/ssh/ssh_host_rsa_key").write_text("the key of the image, which everybody has\n")
    (tree / "etc/ssh/ssh_host_rsa_key.pub").write_text("ssh-rsa AAAA everybody\n")
    (tree / "var/lib/cloud").symlink_to("/srv/cloud")  # seen from outside it would lead into the installing system
    (tree / "srv").mkdir()
    (tree / "usr/bin/blob").write_bytes(os.urandom(12 * MIB))
    file = folder / "linux.raw"
    with file.open("wb") as stream:
        stream.truncate(48 * MIB)
    tool("sgdisk", "--clear", "-n", "1:2048:4095", "-t", "1:ef02", "-n", "2:4096:20479", "-t", "2:ef00",
         "-n", "3:20480:0", "-t", "3:8304", "-c", "3:the root", "-A", "3:set:59", file)  # fmt: skip
    with file.open("r+b") as stream:
        if bios:
            stream.write(b"\xeb\x63" * 220)
            stream.seek(MIB)
            stream.write(b"core" * 1000)
        stream.seek(440 + 6)
    offset = 10 * MIB
    tool("mke2fs", "-q", "-t", "ext4", "-d", tree, "-E", f"offset={offset}", file, f"{(37 * MIB) // 1024}k")
    tool("mkfs.vfat", "--offset", "4096", file, str(8 * 1024))
    _fat(file, 2 * MIB, {loader: b"MZ"} if loader else {})
    return pack(file)


def _fat(file: Path, offset: int, files: Mapping[str, bytes]) -> None:
    at = f"{file}@@{offset}"
    for name, content in files.items():
        folders = name.strip("/").split("/")[:-1]
        for depth in range(len(folders)):
            folder = "::/" + "/".join(folders[: depth + 1])
            _quiet("mmd", "-i", at, folder)
        source = file.with_suffix(".part")
        source.write_bytes(content)
        tool("mcopy", "-o", "-i", at, source, f"::{name}")


def windows_image(folder: Path) -> MadeImage:
    """Make a disk with an ESP and an NTFS partition."""
    folder.mkdir(parents=True)
    file, ntfs = folder / "windows.raw", folder / "ntfs"
    with file.open("wb") as stream:
        stream.truncate(24 * MIB)
    tool("sgdisk", "--clear", "-n", "1:2048:18431", "-t", "1:ef00", "-n", "2:18432:0", "-t", "2:0700", file)
    tool("mkfs.vfat", "--offset", "2048", file, str(8 * 1024))
    _fat(file, MIB, {"/EFI/Boot/bootx64.efi": b"MZ", "/EFI/Microsoft/Boot/bootmgfw.efi": b"MZ"})
    with ntfs.open("wb") as stream:
        stream.truncate(14 * MIB)
    tool("mkntfs", "-q", "-F", "-f", ntfs)
    with file.open("r+b") as stream:
        stream.seek(9 * MIB)
        stream.write(ntfs.read_bytes())
    return pack(file)


def dos_image(folder: Path) -> MadeImage:
    """Make a disk with a DOS table: one active partition with ext4."""
    folder.mkdir(parents=True)
    tree = folder / "tree"
    for name in ("etc/ssh", "usr/bin", "var"):
        (tree / name).mkdir(parents=True)
    file = folder / "dos.raw"
    with file.open("wb") as stream:
        stream.truncate(24 * MIB)
    tool("sfdisk", "-q", file, input="label: dos\nstart=2048, type=83, bootable\n")
    with file.open("r+b") as stream:
        stream.write(b"\xeb\x63" * 220)
    tool("mke2fs", "-q", "-t", "ext4", "-d", tree, "-E", f"offset={MIB}", file, f"{23 * 1024}k")
    return pack(file)
