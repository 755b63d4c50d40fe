#!/usr/bin/env python3
"""Halligan's discovery agent: looks at the machine it runs on, tells the boot service, and does what it is told.

It runs in the discovery image, which a machine boots over the network; nothing of it stays on the machine. One file of
standard-library Python (3.11 and later), because the image is small. It only ever calls the server (agent protocol v1,
`docs/architecture.md`), trusts nothing but the site's CA, and brings along no secret but a token that is good once.

    /etc/halligan/site.json   where the server is, and the token (the boot service makes it for each boot)
    /etc/halligan/ca.pem      the certificate authority of the site
    /run/halligan/bootif      the MAC address of the NIC that the machine booted from
    /run/halligan/agent/      what must survive a restart of this program: the credential, and the tasks it has begun

Names of facts are those of ironic-python-agent's inventory, and some more.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import email.utils
import fcntl
import hashlib
import http.client
import itertools
import json
import os
import re
import secrets
import signal
import socket
import ssl
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar, cast
from urllib.parse import quote, urlsplit

VERSION = "1"
PROTOCOL = 1
LOG_LIMIT = 64 * 1024  # bytes of a task's log that travel with its result
FACTS_LIMIT = 1024 * 1024  # bytes; the server refuses more
DAY = 86400.0

Json = dict[str, Any]
T = TypeVar("T")


# --- the machine as collectors see it -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command came to. `code` is 127 if it does not exist and 124 if it took too long."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def said(self) -> str:
        """Return its last words, for people."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.code}"


Runner = Callable[[Sequence[str], float], Ran]


def run_command(argv: Sequence[str], limit: float) -> Ran:
    """Run `argv` without a shell for at most `limit` seconds; its children go with it.

    Output goes through files, not pipes: a grandchild that keeps a pipe open must not hold us.
    """
    environment = {**os.environ, "LC_ALL": "C", "LANG": "C"}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            child = subprocess.Popen(
                list(argv), stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, start_new_session=True
            )
        except OSError as error:
            return Ran(127, err=f"{argv[0]}: {error.strerror}")
        try:
            code = child.wait(limit)
        except subprocess.TimeoutExpired:
            code = 124
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(5)  # one that hangs in the kernel stays; the collectors go on without it
        said = []
        for stream in (out, err):
            stream.seek(0)
            said.append(stream.read(4 << 20).decode("utf-8", "replace"))
    if code == 124:
        said[1] += f"\n{argv[0]}: no answer within {limit:.0f} s"
    return Ran(code, *said)


class Machine:
    """A machine as seen through a root folder and a runner of commands, so that tests can show another one."""

    def __init__(self, root: Path = Path("/"), runner: Runner = run_command) -> None:
        self.root = root
        self._runner = runner

    def path(self, name: str) -> Path:
        """Return where the file with the absolute path `name` is."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str:
        """Return the text of a file without white space around it; empty if it cannot be read (many of /sys cannot)."""
        return self.read_bytes(name).decode("utf-8", "replace").replace("\0", "").strip()

    def read_bytes(self, name: str) -> bytes:
        try:
            return self.path(name).read_bytes()
        except OSError:
            return b""

    def exists(self, name: str) -> bool:
        return self.path(name).exists()

    def children(self, name: str) -> list[str]:
        """Return the sorted names of what is in a folder; none if it does not exist."""
        try:
            return sorted(entry.name for entry in self.path(name).iterdir())
        except OSError:
            return []

    def target(self, name: str) -> str:
        """Return the real path of `name`, as seen inside the root; empty if it does not exist."""
        try:
            real = self.path(name).resolve(strict=True)
        except OSError:
            return ""
        root = self.root.resolve()
        return "/" + str(real.relative_to(root)) if real.is_relative_to(root) else str(real)

    def run(self, *argv: str, limit: float = 20.0) -> Ran:
        return self._runner(argv, limit)

    def write(self, name: str, text: str, mode: int = 0o600) -> None:
        """Replace a file in one step; its folder is made when missing."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as stream:
            stream.write(text)
        new.replace(path)


class Console:
    """Says on the machine's console and in the journal what the agent does, a line at a time."""

    def __init__(self, device: Path | None = None) -> None:
        self._device = device
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        line = f"halligan: {text}\n"
        with self._lock:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.write(line)
                sys.stdout.flush()
            if self._device is None or _on_console():
                return
            with contextlib.suppress(OSError):  # a machine without a console works as well
                handle = os.open(self._device, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
                try:
                    os.write(handle, line.replace("\n", "\r\n").encode())
                finally:
                    os.close(handle)


def _on_console() -> bool:
    """Return whether what we print reaches the console anyway: stdout is a terminal, or the kernel's log (1, 11)."""
    try:
        at = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):
        return False
    return sys.stdout.isatty() or (stat.S_ISCHR(at.st_mode) and at.st_rdev == os.makedev(1, 11))


# --- words of firmware ----------------------------------------------------------------------------------------------

_PLACEHOLDERS = frozenset(
    {
        *(
            "none",
            "n/a",
            "na",
            "null",
            "unknown",
            "empty",
            "[empty]",
            "default",
            "oem",
            "o.e.m.",
            "invalid",
            "undefined",
        ),
        *(
            "012345678",
            "0123456789",
            "123456789",
            "1234567890",
            "01234567890123456789",
            "noserial",
            "no serial",
            "serial",
        ),
        *("to be filled by o.e.m.", "to be filled by o.e.m", "to be filled by oem", "not specified", "not available"),
        *("not applicable", "not provided", "not settable", "not present", "no asset information", "no asset tag"),
        *("default string", "system serial number", "system manufacturer", "system product name", "system version"),
        *("chassis serial number", "board serial number", "base board serial number", "serial number", "empty string"),
        *("no module installed", "<out of spec>", "<bad index>", "asset-1234567890"),
    }
)


def clean(text: str) -> str:
    """Return what firmware says, or nothing where it only fills the field ("To Be Filled By O.E.M.", "FFFFFFFF")."""
    text = " ".join(text.split())
    low = text.lower()
    if low in _PLACEHOLDERS or not re.search(r"[a-z0-9]", low):
        return ""
    return (
        ""
        if re.fullmatch(r"(?:0x)?(?:0+|f{4,}|x{4,})", low.replace("-", "").replace(":", "").replace(" ", ""))
        else text
    )


_BOGUS_UUIDS = frozenset(
    {
        # Set by boards whose maker never set one: each is on thousands of machines.
        "03000200-0400-0500-0006-000700080009",
        "00020003-0004-0005-0006-000700080009",
        "12345678-1234-5678-90ab-cddeefaabbcc",
        "01234567-8910-1112-1314-151617181920",
    }
)


def clean_uuid(text: str) -> str:
    """Return an SMBIOS UUID in lower case, or nothing if it tells nothing (all zero, all F, a maker's filler)."""
    text = text.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", text):
        return ""
    digits = text.replace("-", "")
    return "" if len(set(digits)) == 1 or digits.endswith("0" * 16) or text in _BOGUS_UUIDS else text


def clean_mac(text: str) -> str:
    """Return a MAC address in lower case with colons ("01-" of PXE's BOOTIF is taken off), or nothing if it is none."""
    digits = re.sub(r"[^0-9a-f]", "", text.strip().lower())
    if len(digits) == 14 and digits.startswith("01"):
        digits = digits[2:]
    if len(digits) != 12 or digits in ("0" * 12, "f" * 12):
        return ""
    return ":".join(digits[at : at + 2] for at in range(0, 12, 2))


def number(text: str, base: int = 10) -> int | None:
    try:
        return int(text, base)
    except ValueError:
        return None


# --- basic facts: /sys and /proc only, well under a second ----------------------------------------------------------


def cpu_facts(machine: Machine) -> Json:
    blocks = [
        {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        for block in machine.read("/proc/cpuinfo").split("\n\n")
    ]
    cpus = [block for block in blocks if "processor" in block]
    first = cpus[0] if cpus else {}
    khz = number(machine.read("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"))
    sockets = {block["physical id"] for block in cpus if "physical id" in block}
    return {
        "model_name": first.get("model name") or first.get("Processor") or "",
        "frequency": f"{khz / 1000:.4f}" if khz else first.get("cpu MHz", ""),
        "count": len(cpus),
        "architecture": os.uname().machine,
        "flags": sorted(set((first.get("flags") or first.get("Features") or "").split())),
        "socket_count": len(sockets) or min(1, len(cpus)),
    }


def memory_facts(machine: Machine) -> Json:
    """Return what the kernel has (`total`, bytes) and what is plugged in (`physical_mb`), as far as /sys knows."""
    found = re.search(r"^MemTotal:\s+(\d+)", machine.read("/proc/meminfo"), re.MULTILINE)
    total = int(found[1]) * 1024 if found else 0
    folder = "/sys/devices/system/memory"
    size = number(machine.read(f"{folder}/block_size_bytes"), 16) or 0
    blocks = [
        name
        for name in machine.children(folder)
        if re.fullmatch(r"memory\d+", name) and machine.read(f"{folder}/{name}/online") in ("1", "")
    ]
    return {"total": total, "physical_mb": (size * len(blocks) or total) >> 20, "dimms": []}


_VIRTUAL_DISKS = re.compile(r"(?:loop|ram|zram|sr|fd|dm-|md|nbd|drbd|zd|bcache|pmem|mtdblock)\d|mmcblk\d+(?:boot|rpmb)")


def disk_facts(machine: Machine) -> list[Json]:
    """Return the disks that an operating system could be written to, or that should be erased one day."""
    names = [name for name in machine.children("/sys/block") if not _VIRTUAL_DISKS.match(name)]
    paths = _disk_paths(machine)
    disks = [_disk(machine, name, paths) for name in names if machine.read(f"/sys/block/{name}/hidden") != "1"]
    return [disk for disk in disks if disk["size"]]


def _disk_paths(machine: Machine) -> dict[str, str]:
    """Map a disk's name to its path in /dev/disk/by-path, the shortest if there are more."""
    folder = "/dev/disk/by-path"
    found: dict[str, str] = {}
    for name in sorted(machine.children(folder), key=lambda each: (len(each), each)):
        with contextlib.suppress(OSError):
            found.setdefault(machine.path(f"{folder}/{name}").readlink().name, f"{folder}/{name}")
    return found


def _disk(machine: Machine, name: str, paths: Mapping[str, str]) -> Json:
    sys = f"/sys/block/{name}"
    udev = _udev(machine, f"b{machine.read(f'{sys}/dev')}")
    real = machine.target(sys)
    return {
        "name": f"/dev/{name}",
        "model": clean(machine.read(f"{sys}/device/model") or udev.get("ID_MODEL", "").replace("_", " ")),
        "size": (number(machine.read(f"{sys}/size")) or 0) * 512,  # always in units of 512 bytes, whatever the disk
        "rotational": machine.read(f"{sys}/queue/rotational") == "1",
        "wwn": _wwn(machine, sys, udev),
        "serial": _disk_serial(machine, sys, udev),
        "vendor": clean(machine.read(f"{sys}/device/vendor") or udev.get("ID_VENDOR", "")),
        "hctl": _hctl(machine, sys),
        "by_path": paths.get(name, ""),
        "logical_sectors": number(machine.read(f"{sys}/queue/logical_block_size")) or 512,
        "physical_sectors": number(machine.read(f"{sys}/queue/physical_block_size")) or 512,
        "tran": _transport(name, real),
        "nvme": name.startswith("nvme"),
        "removable": machine.read(f"{sys}/removable") == "1",
    }


def _udev(machine: Machine, key: str) -> dict[str, str]:
    """Return what udev found out about a device: "b8:0" is a disk, "n2" a NIC."""
    lines = machine.read(f"/run/udev/data/{key}").splitlines()
    return dict(line[2:].split("=", 1) for line in lines if line.startswith("E:") and "=" in line)


def _disk_serial(machine: Machine, sys: str, udev: Mapping[str, str]) -> str:
    page = machine.read_bytes(f"{sys}/device/vpd_pg80")[4:].decode("ascii", "replace")
    said = (
        udev.get("ID_SCSI_SERIAL", ""),
        page,
        machine.read(f"{sys}/device/serial"),
        machine.read(f"{sys}/serial"),  # virtio
        udev.get("ID_SERIAL_SHORT", ""),
    )
    return next((text for text in map(clean, said) if text), "")


def _wwn(machine: Machine, sys: str, udev: Mapping[str, str]) -> str:
    said = udev.get("ID_WWN_WITH_EXTENSION") or udev.get("ID_WWN") or ""
    said = said or machine.read(f"{sys}/wwid") or machine.read(f"{sys}/device/wwid")
    said = said.lower()
    if said.startswith("naa."):
        return f"0x{said[4:]}"
    return "" if said.startswith("t10.") or " " in said else said  # a t10 name is model and serial once more


def _hctl(machine: Machine, sys: str) -> str:
    name = machine.target(f"{sys}/device").rpartition("/")[2]
    return name if re.fullmatch(r"\d+(?::\d+){3}", name) else ""


def _transport(name: str, real: str) -> str:
    if name.startswith(("nvme", "mmcblk")):
        return "nvme" if name.startswith("nvme") else "mmc"
    marks = (("/usb", "usb"), ("/ata", "sata"), ("/virtio", "virtio"), ("/end_device-", "sas"), ("/rport-", "fc"))
    return next((tran for mark, tran in (*marks, ("/session", "iscsi")) if mark in real), "")


def interface_facts(machine: Machine) -> list[Json]:
    """Return the NICs that are hardware: no bridges, bonds, VLANs, tunnels or virtual functions."""
    folder = "/sys/class/net"
    names = [name for name in machine.children(folder) if machine.exists(f"{folder}/{name}/device")]
    names = [name for name in names if not machine.exists(f"{folder}/{name}/device/physfn")]
    names = [name for name in names if machine.read(f"{folder}/{name}/type") in ("1", "32")]  # Ethernet, InfiniBand
    addresses = _addresses(machine) if names else {}
    return [_interface(machine, name, addresses.get(name, {})) for name in names]


def _interface(machine: Machine, name: str, addresses: Mapping[str, str]) -> Json:
    sys = f"/sys/class/net/{name}"
    real = machine.target(f"{sys}/device")
    pci = re.findall(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", real)
    speed = number(machine.read(f"{sys}/speed"))
    udev = _udev(machine, f"n{machine.read(f'{sys}/ifindex')}")
    text = machine.read(f"{sys}/address").lower()
    return {
        "name": name,
        "mac_address": clean_mac(text) or text,
        "ipv4_address": addresses.get("inet"),
        "ipv6_address": addresses.get("inet6"),
        "has_carrier": machine.read(f"{sys}/carrier") == "1",
        "vendor": machine.read(f"{sys}/device/vendor"),
        "product": machine.read(f"{sys}/device/device"),
        "biosdevname": udev.get("ID_NET_NAME_ONBOARD"),
        "speed_mbps": speed if speed and speed > 0 else None,
        "pci_address": pci[-1] if pci else "",
        "driver": machine.target(f"{sys}/device/driver").rpartition("/")[2],
        "usb": "/usb" in real,  # such as the NIC to the BMC, whose MAC address a whole series may share
    }


def _addresses(machine: Machine) -> dict[str, dict[str, str]]:
    """Map NICs to their first global addresses: {"eth0": {"inet": "192.0.2.7", "inet6": "2001:db8::7"}}."""
    found: dict[str, dict[str, str]] = {}
    for link in parsed(machine.run("ip", "-j", "addr", limit=5).out, []):
        for address in link.get("addr_info", []) if isinstance(link, dict) else []:
            if address.get("scope") == "global" and not address.get("temporary"):
                found.setdefault(link["ifname"], {}).setdefault(address["family"], address["local"])
    return found


def parsed(text: str, otherwise: Any) -> Any:
    """Return what JSON text says, or `otherwise` if it is none or of another kind."""
    try:
        found = json.loads(text)
    except ValueError:
        return otherwise
    return found if isinstance(found, type(otherwise)) else otherwise


def vendor_facts(machine: Machine) -> Json:
    dmi = "/sys/class/dmi/id"
    text = {name: clean(machine.read(f"{dmi}/{name}")) for name in machine.children(dmi)}
    tree = "/proc/device-tree"  # boards without SMBIOS
    serial = text.get("product_serial") or clean(machine.read(f"{tree}/serial-number"))
    serials = [serial, text.get("board_serial", ""), text.get("chassis_serial", "")]
    return {
        "product_name": text.get("product_name") or clean(machine.read(f"{tree}/model")),
        "serial_number": serial,
        "manufacturer": text.get("sys_vendor", ""),
        "uuid": clean_uuid(machine.read(f"{dmi}/product_uuid")),
        "firmware": {
            "vendor": text.get("bios_vendor", ""),
            "version": text.get("bios_version", ""),
            "build_date": text.get("bios_date", ""),
        },
        "serials": list(dict.fromkeys(each for each in serials if each)),
    }


def boot_facts(machine: Machine) -> Json:
    """Return how this boot came about. The firmware's Secure Boot variable has four bytes of attributes in front."""
    variables = "/sys/firmware/efi/efivars"
    secure = machine.read_bytes(f"{variables}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")
    return {
        "current_boot_mode": "uefi" if machine.exists("/sys/firmware/efi") else "bios",
        "pxe_interface": boot_mac(machine),
        "secure_boot": secure[4:5] == b"\x01",
    }


def boot_mac(machine: Machine) -> str:
    found = clean_mac(machine.read("/run/halligan/bootif"))
    if found:
        return found
    named = re.search(r"\bBOOTIF=(\S+)", machine.read("/proc/cmdline"))
    return clean_mac(named[1]) if named else ""


_HYPERVISORS = (
    ("qemu", "kvm"),
    ("kvm", "kvm"),
    ("vmware", "vmware"),
    ("virtualbox", "virtualbox"),
    ("innotek", "virtualbox"),
    ("xen", "xen"),
    ("amazon ec2", "kvm"),
    ("google compute engine", "kvm"),
    ("openstack", "kvm"),
    ("bochs", "kvm"),
    ("parallels", "parallels"),
    ("virtual machine", "hyperv"),
)


def virtual_facts(machine: Machine, cpu: Json, vendor: Json) -> Json:
    flags = cpu["flags"]
    kind = next((flag for flag in ("vmx", "svm") if flag in flags), "")
    module = {"vmx": "kvm_intel", "svm": "kvm_amd"}.get(kind, "")
    nested = machine.read(f"/sys/module/{module}/parameters/nested") in ("Y", "1") if module else False
    words = f"{vendor['manufacturer']} {vendor['product_name']}".lower()
    above = next((name for mark, name in _HYPERVISORS if mark in words), "")
    if not above and "hypervisor" in flags:
        above = "unknown"
    return {"cpu": kind, "nested": nested, "hypervisor": above}


def tpm_facts(machine: Machine) -> Json:
    names = machine.children("/sys/class/tpm")
    major = machine.read(f"/sys/class/tpm/{names[0]}/tpm_version_major") if names else ""
    return {"present": bool(names), "version": {"2": "2.0", "1": "1.2"}.get(major, "")}


def pci_facts(machine: Machine) -> list[Json]:
    folder = "/sys/bus/pci/devices"
    keys = (("vendor_id", "vendor"), ("product_id", "device"), ("class", "class"), ("revision", "revision"))
    return [
        {key: machine.read(f"{folder}/{bus}/{name}").removeprefix("0x") for key, name in keys} | {"bus": bus}
        for bus in machine.children(folder)
    ]


# Display adapters that only show a console: those of BMCs (ASPEED, Matrox, Hisilicon, XGI) and of hypervisors.
_CONSOLES = frozenset({"1a03", "102b", "19e5", "18ca", "1234", "1013", "1b36", "1af4", "15ad", "1414", "80ee"})


def gpu_facts(devices: Sequence[Json], names: Mapping[str, tuple[str, str]]) -> list[Json]:
    """Return display controllers and accelerators (PCI classes 03 and 12) that compute; `names` is by PCI address."""
    return [
        {
            "vendor_id": device["vendor_id"],
            "product_id": device["product_id"],
            "vendor": names.get(device["bus"], ("", ""))[0],
            "product": names.get(device["bus"], ("", ""))[1],
            "pci_address": device["bus"],
        }
        for device in devices
        if device["class"][:2] in ("03", "12") and device["vendor_id"] not in _CONSOLES
    ]


def usb_facts(machine: Machine) -> list[Json]:
    folder = "/sys/bus/usb/devices"
    keys = (("vendor_id", "idVendor"), ("product_id", "idProduct"), ("vendor", "manufacturer"), ("product", "product"))
    found = [
        {key: machine.read(f"{folder}/{bus}/{name}") for key, name in keys} | {"bus": bus}
        for bus in machine.children(folder)
    ]
    return [device for device in found if device["vendor_id"] not in ("", "1d6b")]  # 1d6b: the kernel's own hubs


def basic_facts(machine: Machine, clock: float) -> Json:
    """Return the facts document as far as files of the kernel tell it."""
    cpu, vendor, devices = cpu_facts(machine), vendor_facts(machine), pci_facts(machine)
    return {
        "inventory": {
            "cpu": cpu,
            "memory": memory_facts(machine),
            "disks": disk_facts(machine),
            "interfaces": interface_facts(machine),
            "system_vendor": vendor,
            "boot": boot_facts(machine),
            "bmc_address": None,
            "bmc_v6address": None,
            "bmc_mac": None,
            "hostname": socket.gethostname(),
            "virtualization": virtual_facts(machine, cpu, vendor),
            "tpm": tpm_facts(machine),
            "gpus": gpu_facts(devices, {}),
        },
        "pci_devices": devices,
        "usb_devices": usb_facts(machine),
        "lldp": {},
        "agent": {"version": VERSION, "level": "basic", "notes": []},
        "clock": clock,
    }


def identity(facts: Json) -> Json:
    """Return what tells this machine from others. The NIC to the BMC is left out unless the machine booted from it."""
    inventory = facts["inventory"]
    vendor, booted = inventory["system_vendor"], inventory["boot"]["pxe_interface"]
    macs = {nic["mac_address"] for nic in inventory["interfaces"] if not nic["usb"]} | {booted}
    return {"uuid": vendor["uuid"], "serials": vendor["serials"], "macs": sorted(mac for mac in macs if clean_mac(mac))}


# --- full facts: what the well-known tools say ----------------------------------------------------------------------


class Tools:
    """Runs the tools, and notes what does not work: a tool that is missing or fails costs some facts, nothing else."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.notes: list[str] = []

    def run(self, *argv: str, limit: float = 20.0) -> str:
        """Return what a tool prints; empty, with a note, if it fails."""
        ran = self.machine.run(*argv, limit=limit)
        if ran.ok:
            return ran.out
        self.notes.append(f"{argv[0]}: {'not installed' if ran.code == 127 else ran.said}"[:300])
        return ""

    def attempt(self, name: str, read: Callable[[], T]) -> T | None:
        """Return what `read` returns, or None with a note: no firmware's odd text may end the agent."""
        try:
            return read()
        except Exception as error:
            self.notes.append(f"{name}: cannot be read ({type(error).__name__}: {error})"[:300])
            return None


DmiTable = tuple[int, dict[str, str]]


def dmi_tables(text: str) -> list[DmiTable]:
    """Return the tables of dmidecode's output as (type, fields); lists within a field (flags) are left out."""
    tables: list[DmiTable] = []
    for line in text.splitlines():
        if begun := re.match(r"Handle 0x[0-9A-Fa-f]+, DMI type (\d+)", line):
            tables.append((int(begun[1]), {}))
        elif tables and (found := re.match(r"\t([^\t:][^:]*):\s*(.*)", line)):
            tables[-1][1].setdefault(found[1], found[2].strip())
    return tables


_UNITS = {"kb": 1 / 1024, "mb": 1, "gb": 1024, "tb": 1024 * 1024}


def dmi_dimms(tables: Sequence[DmiTable]) -> list[Json]:
    """Return the memory modules (SMBIOS type 17); empty slots and the firmware's flash chip are none."""
    found = []
    for kind, fields in tables:
        size = re.fullmatch(r"(\d+) ([kMGT]i?B)", fields.get("Size", ""))
        if kind != 17 or size is None or "flash" in fields.get("Type", "").lower():
            continue
        speed = re.match(r"\d+", fields.get("Configured Memory Speed", "") or "") or re.match(
            r"\d+", fields.get("Configured Clock Speed", "") or fields.get("Speed", "")
        )
        found.append(
            {
                "locator": fields.get("Locator", ""),
                "size_mb": int(int(size[1]) * _UNITS[size[2].lower().replace("i", "")]),
                "type": clean(fields.get("Type", "")),
                "speed_mts": int(speed[0]) if speed else None,
                "manufacturer": clean(fields.get("Manufacturer", "")),
                "part_number": clean(fields.get("Part Number", "")),
                "serial_number": clean(fields.get("Serial Number", "")),
            }
        )
    return found


def dmi_vendor(tables: Sequence[DmiTable]) -> Json:
    """Return what tables 0 to 3 (firmware, system, board, chassis) say, in the shape of `vendor_facts`."""
    first: dict[int, dict[str, str]] = {}
    for kind, fields in tables:
        first.setdefault(kind, {key: clean(value) for key, value in fields.items()})
    bios, system = first.get(0, {}), first.get(1, {})
    serials = [first.get(kind, {}).get("Serial Number", "") for kind in (1, 2, 3)]
    return {
        "product_name": system.get("Product Name", ""),
        "serial_number": system.get("Serial Number", ""),
        "manufacturer": system.get("Manufacturer", ""),
        "uuid": clean_uuid(system.get("UUID", "")),
        "firmware": {
            "vendor": bios.get("Vendor", ""),
            "version": bios.get("Version", ""),
            "build_date": bios.get("Release Date", ""),
        },
        "serials": list(dict.fromkeys(each for each in serials if each)),
    }


def filled(first: Json, second: Json) -> Json:
    """Return `first` with its empty values taken from `second`, level by level."""
    merged = dict(first)
    for key, value in second.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = filled(merged[key], value)
        elif not merged.get(key):
            merged[key] = value
    return merged


def lshw_nodes(text: str) -> list[Json]:
    """Return all nodes of `lshw -json`, whose tree stands alone or in a list, by version."""
    found: Any = json.loads(text) if text.strip() else []
    waiting = list(found) if isinstance(found, list) else [found]
    nodes: list[Json] = []
    while waiting:
        node = waiting.pop(0)
        nodes.append(node)
        waiting += node.get("children", [])
    return nodes


def lshw_dimms(nodes: Sequence[Json]) -> list[Json]:
    """Return the memory modules that lshw knows, for machines where dmidecode says nothing."""
    return [
        {
            "locator": node.get("slot", ""),
            "size_mb": int(node["size"]) >> 20,
            "type": next(iter(re.findall(r"\b(?:LP)?DDR\d?\b", node.get("description", ""))), ""),
            "speed_mts": int(node["clock"]) // 1_000_000 if node.get("clock") else None,
            "manufacturer": clean(node.get("vendor", "")),
            "part_number": clean(node.get("product", "")),
            "serial_number": clean(node.get("serial", "")),
        }
        for node in nodes
        if node.get("id", "").startswith("bank") and node.get("class") == "memory" and node.get("size")
    ]


def lshw_vendor(nodes: Sequence[Json]) -> Json:
    """Return the system's names as lshw has them, for boards without SMBIOS."""
    top = next((node for node in nodes if node.get("class") == "system"), {})
    firmware = next((node for node in nodes if node.get("id") == "firmware"), {})
    return {
        "product_name": re.sub(r"\s*\([^)]*\)$", "", clean(top.get("product", ""))),
        "serial_number": clean(top.get("serial", "")),
        "manufacturer": clean(top.get("vendor", "")),
        "uuid": clean_uuid(str(top.get("configuration", {}).get("uuid", ""))),
        "firmware": {
            "vendor": clean(firmware.get("vendor", "")),
            "version": clean(firmware.get("version", "")),
            "build_date": clean(firmware.get("date", "")),
        },
    }


def lshw_disks(nodes: Sequence[Json]) -> dict[str, Json]:
    """Map device names to the model and vendor that lshw knows."""
    found: dict[str, Json] = {}
    for node in nodes:
        names = node.get("logicalname", [])
        for name in [names] if isinstance(names, str) else names:
            if node.get("class") in ("disk", "storage") and name.startswith("/dev/"):
                text = {key: clean(str(node.get(word, ""))) for key, word in _LSHW_DISK}
                found[name] = filled(text, found.get(name, {}))
    return found


# No serial: disks are found again by what the kernel and udev say, which lshw might say otherwise.
_LSHW_DISK = (("model", "product"), ("vendor", "vendor"))


def pci_names(text: str) -> dict[str, tuple[str, str]]:
    """Map PCI addresses to (vendor, product) from `lspci -D -vmmnn`."""
    found = {}
    for record in text.split("\n\n"):
        fields = dict(line.split(":\t", 1) for line in record.splitlines() if ":\t" in line)
        vendor, device = (re.sub(r"\s*\[[0-9a-f]{4}\]$", "", fields.get(key, "")) for key in ("Vendor", "Device"))
        if "Slot" in fields:
            found[fields["Slot"].strip()] = (vendor.strip(), device.strip())
    return found


def nvme_disks(text: str) -> dict[str, Json]:
    """Map device names to the model and firmware of `nvme list -o json`."""
    devices = parsed(text, {}).get("Devices") or []
    return {
        device["DevicePath"]: {
            "model": clean(str(device.get("ModelNumber", ""))),
            "firmware": clean(str(device.get("Firmware", ""))),
        }
        for device in devices
        if device.get("DevicePath")
    }


def ethtool_fields(text: str) -> dict[str, str]:
    found = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in found}


def nic_details(tools: Tools, nic: Json) -> Json:
    """Return a NIC with its firmware's version, and with its speed where only ethtool knows it."""
    about = ethtool_fields(tools.machine.run("ethtool", "-i", nic["name"], limit=5).out)
    details: Json = {"firmware": clean(about.get("firmware-version", "")), "driver": about.get("driver", "")}
    if nic["has_carrier"] and not nic["speed_mbps"]:
        speed = re.match(
            r"\d+", ethtool_fields(tools.machine.run("ethtool", nic["name"], limit=5).out).get("Speed", "")
        )
        details |= {"speed_mbps": int(speed[0])} if speed else {}
    return filled(nic, details)


def bmc_lan(text: str) -> Json:
    """Return address and MAC from `ipmitool lan print`; empty if the channel has none."""
    fields = ethtool_fields(text)
    address = fields.get("IP Address", "")
    if not re.fullmatch(r"\d+(?:\.\d+){3}", address) or address == "0.0.0.0":  # noqa: S104 - nothing is bound
        address = ""
    return {"bmc_address": address or None, "bmc_mac": clean_mac(fields.get("MAC Address", "")) or None}


def bmc_lan6(text: str) -> str | None:
    """Return the first active global address from `ipmitool lan6 print`."""
    found = re.findall(r"Address:\s+([0-9a-fA-F:]+)/\d+\s+(?:Status:\s+(\w+))?", text)
    usable = [address for address, status in found if status in ("active", "") and address != "::"]
    return next((address for address in usable if not address.lower().startswith("fe80")), None)


def bmc_facts(tools: Tools) -> Json:
    """Ask the BMC, over its device, for its addresses. The first channel that has one is it (1 is the usual one)."""
    machine = tools.machine
    for module in ("ipmi_devintf", "ipmi_si", "ipmi_ssif"):
        machine.run("modprobe", "-q", module, limit=10)
    if not any(machine.exists(path) for path in ("/dev/ipmi0", "/dev/ipmi/0", "/dev/ipmidev/0")):
        tools.notes.append("ipmitool: this machine has no IPMI device")
        return {}
    found: Json = {}
    for channel in ("1", "2", "3", "6", "7", "8"):
        ran = machine.run("ipmitool", "lan", "print", channel, limit=15)
        if ran.code in (124, 127):
            tools.notes.append(f"ipmitool: {'not installed' if ran.code == 127 else ran.said}")
            break
        found = filled(found, bmc_lan(ran.out)) if ran.ok else found
        if found.get("bmc_address"):
            six = machine.run("ipmitool", "lan6", "print", channel, limit=15)
            return {**found, "bmc_v6address": bmc_lan6(six.out)}
    return found


def _each(value: Any) -> list[Any]:
    """Return a list of what lldpcli gives alone or in a list, by count."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _value(value: Any) -> str:
    """Return the text of lldpcli's "x", {"value": "x"} or [{"value": "x"}]."""
    first = next(iter(_each(value)), "")
    return str(first.get("value", "")) if isinstance(first, dict) else str(first)


def lldp_neighbours(text: str) -> dict[str, list[Json]]:
    """Return NIC -> neighbours from `lldpcli show neighbors -f json`.

    With one neighbour `interface` is an object, with more it is a list of objects; a chassis stands under its name if
    it has one, and bare if not.
    """
    found: dict[str, list[Json]] = {}
    for group in _each(parsed(text, {}).get("lldp", {})):
        for entry in _each(group.get("interface")):
            for nic, neighbours in entry.items():
                found.setdefault(nic, []).extend(_neighbour(each) for each in _each(neighbours))
    return found


def _neighbour(said: Json) -> Json:
    chassis: Json = next(iter(_each(said.get("chassis"))), {})
    name = ""
    if "id" not in chassis and len(chassis) == 1:
        name, chassis = next(iter(chassis.items()))
    port: Json = next(iter(_each(said.get("port"))), {})
    vlans = [number(str(vlan.get("vlan-id", ""))) for vlan in _each(said.get("vlan")) if isinstance(vlan, dict)]
    return {
        "system_name": name or _value(chassis.get("name")),
        "chassis_id": _value(chassis.get("id")),
        "port_id": _value(port.get("id")),
        "port_description": _value(port.get("descr")),
        "management_address": _value(chassis.get("mgmt-ip")),
        "vlans": sorted({vlan for vlan in vlans if vlan}),
    }


def lldp_facts(tools: Tools, until: float) -> dict[str, list[Json]]:
    """Listen until every NIC with a link has heard its switch, or until the monotonic time `until`."""
    while True:
        ran = tools.machine.run("lldpcli", "show", "neighbors", "-f", "json", limit=10)
        heard = lldp_neighbours(ran.out) if ran.ok else {}
        linked = {nic["name"] for nic in interface_facts(tools.machine) if nic["has_carrier"]}
        if ran.code == 127 or linked <= set(heard) or time.monotonic() >= until:
            break
        time.sleep(min(2.0, max(0.1, until - time.monotonic())))
    if not ran.ok:
        tools.notes.append(f"lldpcli: {'not installed' if ran.code == 127 else ran.said}")
    return heard


def links_up(machine: Machine) -> None:
    """Switch all NICs on: one that is down knows neither its link nor its neighbour."""
    for nic in interface_facts(machine):
        if not nic["has_carrier"]:
            machine.run("ip", "link", "set", nic["name"], "up", limit=5)


def full_facts(tools: Tools, clock: float) -> Json:
    """Return all facts but those of LLDP."""
    flags = cpu_facts(tools.machine)["flags"]
    module = "kvm_intel" if "vmx" in flags else "kvm_amd" if "svm" in flags else ""
    if module:
        tools.machine.run("modprobe", "-q", module, limit=10)  # only the module knows whether guests may nest
    facts = basic_facts(tools.machine, clock)
    tables = tools.attempt("dmidecode", lambda: dmi_tables(tools.run("dmidecode"))) or []
    nodes = tools.attempt("lshw", lambda: lshw_nodes(tools.run("lshw", "-json", "-quiet", limit=90))) or []
    names = tools.attempt("lspci", lambda: pci_names(tools.run("lspci", "-D", "-vmmnn"))) or {}
    inventory = facts["inventory"]
    vendor = filled(inventory["system_vendor"], tools.attempt("dmidecode", lambda: dmi_vendor(tables)) or {})
    vendor = filled(vendor, tools.attempt("lshw", lambda: lshw_vendor(nodes)) or {})
    bmc = tools.attempt("ipmitool", lambda: bmc_facts(tools)) or {}
    found = {
        **inventory,
        "system_vendor": vendor,
        "memory": _memory_details(tools, inventory["memory"], tables, nodes),
        "disks": _disk_details(tools, inventory["disks"], nodes),
        "interfaces": [
            tools.attempt("ethtool", partial(nic_details, tools, nic)) or nic for nic in inventory["interfaces"]
        ],
        **{key: bmc.get(key) for key in ("bmc_address", "bmc_v6address", "bmc_mac")},
        "virtualization": _virtual_details(tools, virtual_facts(tools.machine, inventory["cpu"], vendor)),
        "gpus": gpu_facts(facts["pci_devices"], names),
    }
    agent = {"version": VERSION, "level": "full", "notes": tools.notes}
    return {**facts, "inventory": found, "agent": agent}


def _memory_details(tools: Tools, memory: Json, tables: Sequence[DmiTable], nodes: Sequence[Json]) -> Json:
    dimms = tools.attempt("dmidecode", lambda: dmi_dimms(tables)) or tools.attempt("lshw", lambda: lshw_dimms(nodes))
    plugged = sum(dimm["size_mb"] for dimm in dimms or [])
    return {**memory, "physical_mb": plugged or memory["physical_mb"], "dimms": dimms or []}


def _disk_details(tools: Tools, disks: Sequence[Json], nodes: Sequence[Json]) -> list[Json]:
    known = tools.attempt("lshw", lambda: lshw_disks(nodes)) or {}
    if any(disk["nvme"] for disk in disks):
        more = tools.attempt("nvme", lambda: nvme_disks(tools.run("nvme", "list", "-o", "json"))) or {}
        known = {name: filled(more.get(name, {}), known.get(name, {})) for name in {*more, *known}}
    return [filled(disk, known.get(disk["name"], {})) for disk in disks]


def _virtual_details(tools: Tools, found: Json) -> Json:
    if not found["hypervisor"]:
        return found
    said = tools.machine.run("systemd-detect-virt", "--vm", limit=5).out.strip()
    names = {"qemu": "kvm", "microsoft": "hyperv", "oracle": "virtualbox", "none": "", "amazon": "kvm"}
    return {**found, "hypervisor": names.get(said, said) or found["hypervisor"]}


def bounded(facts: Json) -> Json:
    """Return facts that the server takes: lists of devices go first where a machine has too many."""
    for key in ("usb_devices", "pci_devices"):
        if len(json.dumps(facts, separators=(",", ":"))) > FACTS_LIMIT:
            notes = [*facts["agent"]["notes"], f"{key}: left out, the facts are too large"]
            facts = {**facts, key: [], "agent": {**facts["agent"], "notes": notes}}
    return facts


# --- the server -----------------------------------------------------------------------------------------------------


class UnreachableError(Exception):
    """The server gives no sensible answer now; try again."""


class RefusedError(Exception):
    """The server knows us no longer, or does not want this machine: only a new boot (or a person) can help."""


class UnwantedError(Exception):
    """The task that is running is no longer wanted."""


@dataclass(frozen=True, slots=True)
class Site:
    """What the boot service told this boot: URLs, token, and the parts that only rescue has."""

    server: str
    files: str
    token: str = field(default="", repr=False)
    mode: str = "discover"
    authorized_keys: tuple[str, ...] = ()
    lldp_s: float = 35.0  # switches speak every 30 s
    restart_s: float = 300.0  # a refused machine boots again after this time; 0 is never

    @classmethod
    def read(cls, machine: Machine) -> Site:
        """Read site.json; ValueError says what is wrong with it."""
        path = "/etc/halligan/site.json"
        if not machine.exists(path):
            raise ValueError(f"{path} is missing: the boot service adds it to each boot (site.cpio)")
        said: Json = parsed(machine.read(path), {})
        for key in ("server", "files"):
            if urlsplit(str(said.get(key, ""))).scheme not in ("http", "https"):
                raise ValueError(f"{path}: '{key}' must be a URL")
        if urlsplit(said["server"]).scheme != "https":
            raise ValueError(f"{path}: 'server' must be https: credentials travel there")
        return cls(
            server=said["server"].rstrip("/"),
            files=said["files"].rstrip("/"),
            token=str(said.get("token", "")),
            mode=str(said.get("mode", "discover")),
            authorized_keys=tuple(map(str, said.get("authorized_keys", ()))),
            lldp_s=float(said.get("lldp_s", cls.__dataclass_fields__["lldp_s"].default)),
            restart_s=float(said.get("restart_s", cls.__dataclass_fields__["restart_s"].default)),
        )


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Json

    @property
    def said(self) -> str:
        error, hint = str(self.body.get("error", "")), str(self.body.get("hint", ""))
        return f"{self.status} {error}" + (f" ({hint})" if hint else "")


class Client:
    """Speaks protocol v1 over HTTPS, one connection per call at most; it keeps one open between calls.

    It believes the site's CA and nothing else, and checks the server's name or address.
    """

    def __init__(self, server: str, authority: Path, timeout: float = 30.0) -> None:
        parts = urlsplit(server)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._prefix = parts.path.rstrip("/")
        self._context = ssl.create_default_context(cafile=str(authority))
        self._timeout = timeout
        self._open: http.client.HTTPSConnection | None = None

    def call(self, method: str, path: str, key: str, body: Json | None = None, *, wait: float = 0.0) -> Answer:
        """Return the server's answer; `wait` is how long it may think. UnreachableError if there is none, or 5xx."""
        reused = self._open is not None
        try:
            answer = self._call(method, path, key, body, wait)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            # An idle connection that the server has closed says nothing about the server.
            if reused and isinstance(error, http.client.RemoteDisconnected | ConnectionResetError | BrokenPipeError):
                return self.call(method, path, key, body, wait=wait)
            raise UnreachableError(_plain(error)) from error
        if answer.status >= 500 or answer.status == 429:
            raise UnreachableError(f"the server says {answer.said}")
        return answer

    def _call(self, method: str, path: str, key: str, body: Json | None, wait: float) -> Answer:
        if self._open is None:
            self._open = http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout, context=self._context
            )
            self._open.connect()
        self._open.sock.settimeout(self._timeout + wait)
        headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
        data = None
        if body is not None:
            data = json.dumps(body, separators=(",", ":")).encode()
            headers["Content-Type"] = "application/json"
        self._open.request(method, self._prefix + path, data, headers)
        response = self._open.getresponse()
        text = response.read(4 << 20)
        if response.will_close or response.read(1):
            self.close()
        return Answer(response.status, parsed(text.decode("utf-8", "replace"), {}))

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def _plain(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not good: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class BackOff:
    """Waits longer after each failure: 1, 2, 4, 8, 15 s, give or take a quarter, so that a room of machines spreads."""

    def __init__(self, first: float = 1.0, most: float = 15.0) -> None:
        self._first, self._most, self._count = first, most, 0

    def reset(self) -> None:
        self._count = 0

    def next(self) -> float:
        """Return how many seconds to wait now."""
        seconds = min(self._first * 2.0 ** min(self._count, 10), self._most)
        self._count += 1
        return seconds * (0.75 + secrets.randbelow(501) / 1000)


# --- the clock ------------------------------------------------------------------------------------------------------


def _set_clock(now: float) -> None:
    time.clock_settime(time.CLOCK_REALTIME, now)


@dataclass(frozen=True, slots=True)
class Clock:
    """The machine's clock, which may be years off: a dead battery stops TLS ("not yet valid") before it begins."""

    now: Callable[[], float] = time.time
    set: Callable[[float], None] = _set_clock

    def adjust(self, now: float, source: str, console: Console, tolerance: float) -> None:
        """Set the clock to `now` if it is more than `tolerance` seconds off; best effort."""
        off = self.now() - now
        if abs(off) <= tolerance:
            return
        told = f"{abs(off) / DAY:.1f} days" if abs(off) > DAY else f"{abs(off):.0f} s"
        told = f"the clock is {told} {'fast' if off > 0 else 'slow'}"
        try:
            self.set(now)
        except OSError as error:
            console.say(f"{told} ({source}) and cannot be set: {error.strerror}")
        else:
            console.say(f"{told}; set it from {source}")


def server_date(files: str, timeout: float = 10.0) -> float | None:
    """Return the time (epoch seconds) in the `Date` header of the file server, or None; it needs no TLS.

    Nobody proves this time. It decides only whether certificates of the one CA that we believe look valid.
    """
    parts = urlsplit(files)
    if parts.scheme != "http":
        return None
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request("HEAD", f"{parts.path}/")
        said = connection.getresponse().getheader("Date", "")
        return email.utils.parsedate_to_datetime(said).timestamp() if said else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


# --- what the agent remembers ---------------------------------------------------------------------------------------


class Memory:
    """What survives a restart of this program (not of the machine): who we are, and which tasks we have begun."""

    _FOLDER = "/run/halligan/agent"

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def credential(self) -> Json:
        """Return the answer to our enrolment; empty before it."""
        found: Json = parsed(self._machine.read(f"{self._FOLDER}/credential.json"), {})
        return found

    def enrolled(self, answer: Json) -> None:
        self._machine.write(f"{self._FOLDER}/credential.json", json.dumps(answer))

    def task(self, task: str) -> Json | None:
        """Return {"result": {...}} of a task that is over, {} of one that was begun, None of one we never saw."""
        text = self._machine.read(self._file(task))
        return parsed(text, {}) if text else None

    def began(self, task: str) -> None:
        self._machine.write(self._file(task), "{}")

    def finished(self, task: str, result: Json) -> None:
        self._machine.write(self._file(task), json.dumps({"result": result}))

    def _file(self, task: str) -> str:
        return f"{self._FOLDER}/task-{hashlib.sha256(task.encode()).hexdigest()[:24]}.json"


class Session:
    """The conversation of one thread with the server, as the machine that we enrolled as."""

    def __init__(self, site: Site, authority: Path, machine: str, credential: str) -> None:
        self._arguments = (site, authority, machine, credential)
        self._client = Client(site.server, authority)
        self._path = f"/v1/machines/{quote(machine, safe='')}"
        self._key = credential

    def another(self) -> Session:
        """Return a session for another thread."""
        return Session(*self._arguments)

    def facts(self, facts: Json) -> None:
        self._call("PUT", f"/facts?level={facts['agent']['level']}", facts)

    def task(self, wait: float) -> Json | None:
        answer = self._call("GET", f"/task?wait={wait:.0f}", wait=wait)
        return answer.body if answer.status == 200 else None

    def progress(self, task: str, progress: Json) -> None:
        if self._call("POST", f"/tasks/{quote(task, safe='')}/progress", progress).status in (404, 410):
            raise UnwantedError("the server no longer wants this task")

    def result(self, task: str, result: Json) -> Answer:
        return self._call("POST", f"/tasks/{quote(task, safe='')}/result", result)

    def close(self) -> None:
        self._client.close()

    def _call(self, method: str, path: str, body: Json | None = None, wait: float = 0.0) -> Answer:
        answer = self._client.call(method, self._path + path, self._key, body, wait=wait)
        if answer.status in (401, 403):
            raise RefusedError(answer.said)
        return answer


# --- running a task -------------------------------------------------------------------------------------------------


class TaskError(Exception):
    """A task failed. `failure` is its kind: "image", "disk", "erase", "interrupted" or empty."""

    def __init__(self, failure: str, problem: str, outputs: Json | None = None) -> None:
        super().__init__(problem)
        self.failure, self.problem, self.outputs = failure, problem, outputs or {}


class Progress:
    """Tells the server how far a task is, from a thread of its own: a slow server must not slow the work.

    Every 2 s or 5 %, and every 10 s when nothing moves, so that the server sees that we live. `stopped` is set when the
    server wants the task no longer.
    """

    def __init__(self, session: Session, task: str, every: float = 2.0, idle: float = 10.0) -> None:
        self._session, self._task, self._every, self._idle = session, task, every, idle
        self._now: Json = {"step": "begin", "percent": 0, "message": ""}
        self._told: Json = {}
        self._changed, self._over = threading.Condition(), False
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self._report, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()
        self._thread.join(60)

    def tell(self, step: str, percent: int, message: str) -> None:
        with self._changed:
            self._now = {"step": step, "percent": percent, "message": message}
            self._changed.notify()

    def _report(self) -> None:
        back_off = BackOff()
        pause = 0.0
        while self._wait(pause):
            now = self._now
            try:
                self._session.progress(self._task, now)
            except UnreachableError:
                pause = back_off.next()
                continue
            except UnwantedError:
                self.stopped.set()
                break
            except RefusedError:
                break  # the result will meet the same refusal
            self._told, pause = now, 0.5
            back_off.reset()
        self._session.close()

    def _wait(self, pause: float) -> bool:
        """Wait for `pause` seconds, then until there is something to tell; return whether the task goes on."""
        with self._changed:
            self._changed.wait_for(lambda: self._over, pause)
            self._changed.wait_for(self._moved, self._every)
            self._changed.wait_for(lambda: self._over or self._now != self._told, self._idle)
            return not self._over

    def _moved(self) -> bool:
        if self._over or self._now["step"] != self._told.get("step"):
            return True
        return abs(int(self._now["percent"]) - int(self._told["percent"])) >= 5


class Work:
    """What a task has in its hands: the machine, its log, its progress, and whether it should stop."""

    def __init__(self, machine: Machine, site: Site, console: Console, progress: Progress | None = None) -> None:
        self.machine, self.site, self.console = machine, site, console
        self._progress = progress
        self._log = bytearray()
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._step, self._percent = "begin", 0

    def log(self) -> str:
        with self._lock:
            return bytes(self._log[-LOG_LIMIT:]).decode("utf-8", "ignore")

    def note(self, text: str) -> None:
        """Add lines to the task's log."""
        with self._lock:
            for line in text.splitlines():
                self._log += f"{time.monotonic() - self._began:8.1f} {line}\n".encode()
            del self._log[: -2 * LOG_LIMIT]

    def say(self, text: str) -> None:
        """Note it, and say it on the console as well."""
        self.note(text)
        self.console.say(text)

    def step(self, name: str, text: str) -> None:
        """Begin a step of the task."""
        self.go_on()
        self._step, self._percent = name, -1
        self.say(text)
        self.percent(0)

    def percent(self, percent: float, message: str = "") -> None:
        """Tell how far the step is."""
        self.go_on()
        if int(percent) == self._percent:
            return
        if int(percent) // 10 > self._percent // 10 and percent >= 10:
            self.say(f"{self._step} {int(percent)} %")
        self._percent = int(percent)
        if self._progress is not None:
            self._progress.tell(self._step, self._percent, message)

    def go_on(self) -> None:
        """Raise UnwantedError if the task should stop."""
        if self._progress is not None and self._progress.stopped.is_set():
            raise UnwantedError("the server no longer wants this task")

    def heed(self, text: str) -> None:
        """Note it, and raise UnwantedError if the task should stop."""
        self.note(text)
        self.go_on()

    def run(self, *argv: str, limit: float = 60.0) -> Ran:
        """Run a command and note what it said."""
        self.go_on()
        ran = self.machine.run(*argv, limit=limit)
        self.note(f"$ {' '.join(argv)} -> {ran.code}")
        self.note("\n".join(f"  {line}" for line in (ran.out + ran.err).splitlines()[-40:]))
        return ran

    def must(self, failure: str, what: str, *argv: str, limit: float = 60.0) -> Ran:
        """Run a command that has to succeed; else the task fails with `failure`: "cannot <what>: ..."."""
        ran = self.run(*argv, limit=limit)
        if not ran.ok:
            raise TaskError(failure, f"cannot {what}: {ran.said}")
        return ran


@dataclass(frozen=True, slots=True)
class Done:
    """What a task came to; `after` is done when the server has the result: "reboot", "poweroff" or nothing."""

    outputs: Json = field(default_factory=dict)
    after: str = ""


Task = Callable[[Work, Json], Done]


def reboot_task(work: Work, args: Json) -> Done:
    del args
    work.say("going to restart")
    return Done(after="reboot")


def poweroff_task(work: Work, args: Json) -> Done:
    del args
    work.say("going to switch off")
    return Done(after="poweroff")


# --- disks ----------------------------------------------------------------------------------------------------------

MIB = 1 << 20
_PIECE = 64 * 1024  # zeros are looked for in pieces of this size
_ZEROS = bytes(4 * MIB)
_SYNC = 256 * MIB  # so much may wait in memory: a machine may have little, and progress should be true
_BLKZEROOUT, _BLKFLSBUF = 0x127F, 0x1261  # linux/fs.h


def find_disk(machine: Machine, wanted: Json) -> Json:
    """Return the facts of the disk that an order means, found by serial, else WWN, else path, never by name alone.

    Raises TaskError("disk") if none or more than one is meant, or if its size is not as ordered.
    """
    disks = disk_facts(machine)
    key = next((key for key in ("serial", "wwn", "by_path") if wanted.get(key)), "")
    if not key:
        raise TaskError("disk", f"the order names {wanted.get('name')} only; names change, so it is not enough")
    found = [disk for disk in disks if disk[key] == wanted[key]]
    for other in ("wwn", "by_path"):  # two disks may have one serial: behind some RAID controllers, on copied VMs
        if len(found) > 1 and wanted.get(other):
            found = [disk for disk in found if disk[other] == wanted[other]]
    if len(found) != 1:
        there = ", ".join(f"{disk['name']} (serial {disk['serial'] or 'none'})" for disk in disks) or "no disk"
        many = f"{len(found)} disks have" if found else "no disk has"
        raise TaskError("disk", f"{many} the {key} {wanted[key]}; this machine has {there}")
    if found[0]["size"] != wanted.get("size"):
        raise TaskError(
            "disk", f"{found[0]['name']} has {found[0]['size']} bytes, not {wanted.get('size')} as ordered; look again"
        )
    return found[0]


def device_of(machine: Machine, disk: Json) -> Path:
    return machine.path(disk["name"]).resolve()


def _parts(machine: Machine, name: str) -> list[str]:
    """Return the /sys folders of a block device and of its partitions."""
    top = f"/sys/class/block/{name}" if machine.exists(f"/sys/class/block/{name}") else f"/sys/block/{name}"
    return [top, *(f"{top}/{each}" for each in machine.children(top) if machine.exists(f"{top}/{each}/partition"))]


def _held(machine: Machine, name: str) -> list[str]:
    """Return what stands on a disk (RAID, LVM, crypt), what stands on that first."""
    holders = [each for part in _parts(machine, name) for each in machine.children(f"{part}/holders")]
    return list(dict.fromkeys(upper for each in holders for upper in (*_held(machine, each), each)))


def free_disk(work: Work, disk: Json) -> None:
    """Take down RAID and LVM that started by themselves on a disk; raise TaskError("disk") if it is in use."""
    machine, name = work.machine, disk["name"].removeprefix("/dev/")
    holders = _held(machine, name)
    parts = [part for each in (name, *holders) for part in _parts(machine, each)]
    numbers = {machine.read(f"{part}/dev") for part in parts} - {""}
    for line in machine.read("/proc/self/mountinfo").splitlines():
        fields = line.split()
        if len(fields) > 4 and fields[2] in numbers:
            raise TaskError("disk", f"{disk['name']} is in use: it is mounted at {fields[4]}")
    swaps = {line.split()[0].rpartition("/")[2] for line in machine.read("/proc/swaps").splitlines()[1:]}
    if swaps & {part.rpartition("/")[2] for part in parts}:
        raise TaskError("disk", f"{disk['name']} is in use: it holds swap")
    for holder in holders:
        argv = ("mdadm", "--stop") if holder.startswith("md") else ("dmsetup", "remove", "--retry")
        work.must("disk", f"free {disk['name']} of {holder}", *argv, f"/dev/{holder}")


def size_of(device: Path) -> int:
    with device.open("rb") as stream:
        return stream.seek(0, os.SEEK_END)


class Target:
    """A disk (or a file that stands for one) that is written from front to back, zeros without writing where possible.

    A disk is opened exclusively: the kernel refuses one that is mounted or part of something. Runs of zeros are left to
    BLKZEROOUT: the kernel promises that they read as zeros, by the disk's own means or by writing them.
    """

    def __init__(self, device: Path) -> None:
        self._block = stat.S_ISBLK(device.stat().st_mode)
        try:
            self._handle = os.open(device, os.O_RDWR | (os.O_EXCL if self._block else 0))
        except OSError as error:
            raise TaskError("disk", f"cannot open {device} for writing alone: {error.strerror}") from error
        self.size = os.lseek(self._handle, 0, os.SEEK_END)
        self._zeros = (0, 0)  # a run of zeros that is still to be made: start, end
        self._waiting = 0

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def put(self, at: int, data: bytes) -> None:
        """Write `data` at `at`."""
        for zero, pieces in itertools.groupby(range(0, len(data), _PIECE), lambda start: _is_zero(data, start)):
            starts = list(pieces)
            start, end = starts[0], min(starts[-1] + _PIECE, len(data))
            if zero and at + start == self._zeros[1]:
                self._zeros = (self._zeros[0], at + end)
                continue
            self._make_zeros()
            if zero:
                self._zeros = (at + start, at + end)
            else:
                self._write(at + start, memoryview(data)[start:end])

    def zero(self, start: int, end: int) -> None:
        """Make the bytes from `start` to `end` (as far as the disk has them) zeros."""
        self._make_zeros()
        self._zeros = (max(0, start), min(end, self.size))
        self._make_zeros()

    def overwrite(self, start: int, length: int) -> None:
        """Write zeros, without asking the disk to do it by itself."""
        self._write(start, memoryview(_ZEROS)[: min(length, self.size - start, len(_ZEROS))])

    def sync(self) -> None:
        self._make_zeros()
        os.fsync(self._handle)
        self._waiting = 0

    def _make_zeros(self) -> None:
        (start, end), self._zeros = self._zeros, (0, 0)
        if end <= start:
            return
        if self._block and start % 4096 == 0 and end % 4096 == 0:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._handle, _BLKZEROOUT, struct.pack("QQ", start, end - start))
                return
        for at in range(start, end, len(_ZEROS)):
            self._write(at, memoryview(_ZEROS)[: end - at])

    def _write(self, at: int, data: memoryview) -> None:
        self._waiting += len(data)
        while data:
            count = os.pwrite(self._handle, data, at)
            at, data = at + count, data[count:]
        if self._waiting >= _SYNC:
            os.fdatasync(self._handle)
            self._waiting = 0


def _is_zero(data: bytes, start: int) -> bool:
    length = min(_PIECE, len(data) - start)
    return data.startswith(_ZEROS[:length], start)


# --- partition tables -----------------------------------------------------------------------------------------------

ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
_LINUX = frozenset(
    {
        "0fc63daf-8483-4772-8e79-3d69d8477de4",  # Linux file system
        "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",  # root, x86-64 (Discoverable Partitions Specification)
        "b921b045-1df0-41c3-af44-4c6f280d3fae",  # root, arm64
        "83",  # Linux, in a DOS table
    }
)


@dataclass(frozen=True, slots=True)
class Partition:
    """`start` and `end` (the last one) are sectors; `kind` is a GUID, or two hex digits in a DOS table."""

    number: int
    kind: str
    start: int
    end: int
    guid: str = ""
    name: str = ""
    attributes: int = 0
    active: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A partition table; `last` is the last sector that a partition may have."""

    scheme: str  # "gpt", "dos" or nothing
    sector: int
    last: int = 0
    partitions: tuple[Partition, ...] = ()

    def of_kind(self, *kinds: str) -> list[Partition]:
        return [each for each in self.partitions if each.kind in kinds]

    @property
    def hindmost(self) -> Partition | None:
        return max(self.partitions, key=lambda each: each.start, default=None)


def sector_size(head: bytes) -> int:
    """Return for which sector size the disk image that begins with `head` has its GPT; 0 if it has none."""
    return next((size for size in (512, 4096) if head[size : size + 8] == b"EFI PART"), 0)


def read_table(device: Path, sector: int) -> Table:
    """Read GPT (UEFI specification, 5.3) or, where none is, the four primary entries of a DOS table."""
    with device.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        boot = stream.read(512)
        stream.seek(sector)
        header = stream.read(92)
        if header[:8] == b"EFI PART":
            last, entries = struct.unpack_from("<Q", header, 48)[0], struct.unpack_from("<QII", header, 72)
            if entries[2] < 128 or entries[0] * sector >= size:
                return Table("", sector)
            stream.seek(entries[0] * sector)
            raw = stream.read(min(entries[1], 1024) * entries[2])
            return Table("gpt", sector, last, tuple(_gpt_entries(raw, entries[2])))
    if boot[510:512] != b"\x55\xaa":
        return Table("", sector)
    return Table("dos", sector, min(size // sector, 1 << 32) - 1, tuple(_dos_entries(boot)))


def _gpt_entries(raw: bytes, size: int) -> Iterator[Partition]:
    for number, at in enumerate(range(0, len(raw) - size + 1, size), 1):
        kind, guid, start, end, attributes, name = struct.unpack_from("<16s16sQQQ72s", raw, at)
        if any(kind):
            yield Partition(
                number,
                str(uuid.UUID(bytes_le=kind)),
                start,
                end,
                str(uuid.UUID(bytes_le=guid)),
                name.decode("utf-16-le", "replace").rstrip("\0"),
                attributes,
            )


def _dos_entries(boot: bytes) -> Iterator[Partition]:
    for number in range(1, 5):
        status, kind, start, count = struct.unpack_from("<B3xB3xII", boot, 430 + 16 * number)
        if kind and count:
            yield Partition(number, f"{kind:02x}", start, start + count - 1, active=status == 0x80)


def _set_dos_entry(device: Path, number: int, kind: str, start: int, end: int, active: bool) -> None:
    """Write one entry of a DOS table; cylinders say "too large", as on any disk of this century."""
    far = b"\xfe\xff\xff"
    status = 0x80 if active else 0
    entry = struct.pack("<B3sB3sII", status, far, int(kind, 16), far, start, end - start + 1)
    with device.open("r+b") as stream:
        stream.seek(430 + 16 * number)
        stream.write(entry)
        stream.flush()
        os.fsync(stream.fileno())


def filesystem(device: Path) -> str:
    """Return what file system a partition has: ext, xfs, btrfs, ntfs, fat, or nothing that we know."""
    marks = [(0x438, b"\x53\xef", "ext"), (0, b"XFSB", "xfs"), (0x10040, b"_BHRfS_M", "btrfs")]
    marks += [(3, b"NTFS    ", "ntfs"), (54, b"FAT", "fat"), (82, b"FAT32", "fat")]
    with device.open("rb") as stream:
        head = stream.read(0x10048)
    return next((name for at, mark, name in marks if head[at : at + len(mark)] == mark), "")


# --- the image ------------------------------------------------------------------------------------------------------


class Feed(threading.Thread):
    """Pours a file of the file server into a pipe. A connection that breaks is taken up where it broke, for ever.

    `error` is why it gave up: the file is not there, or is another one than at the beginning, or `heed`, which is told
    of every break, raised UnwantedError.
    """

    def __init__(self, url: str, sink: BinaryIO, heed: Callable[[str], None]) -> None:
        super().__init__(name="feed", daemon=True)
        self._url, self._parts = url, urlsplit(url)
        self._sink, self._heed = sink, heed
        self._at = 0
        self._total: int | None = None
        self._tag = ""
        self.error: TaskError | UnwantedError | None = None
        self.stopped = threading.Event()

    def run(self) -> None:
        back_off = BackOff()
        try:
            while not self.stopped.is_set():
                before = self._at
                try:
                    if self._pour():
                        return
                    problem = "the connection ended early"
                except (OSError, http.client.HTTPException) as error:
                    problem = _plain(error)
                if self._at > before:
                    back_off.reset()
                pause = back_off.next()
                self._heed(f"{self._url}: {problem} at byte {self._at}; again in {pause:.0f} s")
                self.stopped.wait(pause)
        except (TaskError, UnwantedError) as error:
            self.error = error
        finally:
            with contextlib.suppress(OSError):
                self._sink.close()

    def _pour(self) -> bool:
        """Read from where we are; return whether the end was reached."""
        connection = http.client.HTTPConnection(self._parts.hostname or "", self._parts.port, timeout=30)
        try:
            headers = {"Range": f"bytes={self._at}-"} if self._at else {}
            if self._at and self._tag:
                headers["If-Range"] = self._tag
            connection.request("GET", self._parts.path, headers=headers)
            response = connection.getresponse()
            skip = self._check(response)
            while block := response.read(256 * 1024):
                if self.stopped.is_set():
                    return True
                fresh = block[skip:]
                skip -= len(block) - len(fresh)
                self._drain(fresh)
        finally:
            connection.close()
        return self._total is None or self._at >= self._total

    def _check(self, response: http.client.HTTPResponse) -> int:
        """Return how many bytes to skip, if the server begins at the beginning again."""
        if response.status >= 500 or response.status == 429:
            raise http.client.HTTPException(f"the server says {response.status}")
        if response.status not in (200, 206):
            raise TaskError("image", f"{self._url}: the server says {response.status} {response.reason}")
        tag, length = response.getheader("ETag", ""), response.getheader("Content-Length")
        start = 0
        if response.status == 206:
            found = re.match(r"bytes (\d+)-", response.getheader("Content-Range", ""))
            start = int(found[1]) if found else -1
        total = start + int(length) if length else None
        if self._at and (tag, total) != (self._tag, self._total):
            raise TaskError("image", f"{self._url}: the file changed while it was read")
        if start not in (0, self._at):
            raise TaskError("image", f"{self._url}: asked for bytes from {self._at}, got them from {start}")
        self._tag, self._total = tag, total
        return self._at - start

    def _drain(self, block: bytes) -> None:
        try:
            self._sink.write(block)
        except OSError:  # the reader is gone, and knows why
            self.stopped.set()
        else:
            self._at += len(block)


@contextlib.contextmanager
def unpacked(url: str, heed: Callable[[str], None]) -> Iterator[BinaryIO]:
    """Give a stream of the image's raw bytes; its end raises TaskError("image") if they do not come whole."""
    if not url.endswith(".zst"):
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as source:
            feed = Feed(url, os.fdopen(writing, "wb"), heed)
            with _running(feed):
                yield source
            _raise(feed)
        return
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(["zstd", "-dcq"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said)
        assert child.stdin is not None
        assert child.stdout is not None
        feed = Feed(url, cast(BinaryIO, child.stdin), heed)
        try:
            with _running(feed):
                yield cast(BinaryIO, child.stdout)
                child.stdout.close()
                code = child.wait(60)
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
        _raise(feed)
        said.seek(0)
        if code:
            words = said.read(2000).decode("utf-8", "replace").strip()
            raise TaskError("image", f"{url}: cannot be unpacked: {words or f'zstd ended with {code}'}")


@contextlib.contextmanager
def _running(feed: Feed) -> Iterator[None]:
    feed.start()
    try:
        yield
    finally:
        feed.stopped.set()


def _raise(feed: Feed) -> None:
    feed.join(60)
    if feed.error is not None:
        raise feed.error


def write_image(work: Work, image: Json, target: Target, sector: int) -> None:
    """Stream an image to a disk. What it begins with is written last, when the checksum is known to be right.

    So a machine that loses its power, or gets a damaged image, has a disk that does not boot.
    """
    size, at = int(image["size"]), 0
    digest = hashlib.sha256()
    head = b""
    with unpacked(work.site.files + image["path"], work.heed) as source:
        while block := _read(source, min(MIB, size + 1 - at)):
            if at == 0:
                head = block
                _check_sectors(head, sector)
            else:
                target.put(at, block)
            digest.update(block)
            at += len(block)
            if at > size:
                raise TaskError("image", f"the image {image['name']} is larger than the {size} bytes that were ordered")
            work.percent(100 * at / size, f"{at >> 20} of {size >> 20} MiB")
    if at != size:
        raise TaskError("image", f"the image {image['name']} ended after {at} of {size} bytes")
    if digest.hexdigest() != image["sha256"]:
        raise TaskError(
            "image",
            f"the image {image['name']} is damaged: its SHA-256 is {digest.hexdigest()}, not {image['sha256']}",
        )
    target.sync()
    target.put(0, head)
    target.sync()
    work.note(f"{size} bytes with SHA-256 {image['sha256']}")


def _read(source: BinaryIO, size: int) -> bytes:
    """Read `size` bytes, less only at the end."""
    parts, left = [], size
    while left and (part := source.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _check_sectors(head: bytes, sector: int) -> None:
    made_for = sector_size(head)
    if made_for and made_for != sector:
        raise TaskError("disk", f"the image is made for sectors of {made_for} bytes, and the disk has {sector}")


# --- task: install --------------------------------------------------------------------------------------------------

_DRIVE = 64 * MIB  # of a config drive
_EDGE = 16 * MIB  # signatures of RAID, LVM and ZFS are at both ends of a disk


@dataclass(frozen=True, slots=True)
class Install:
    """An install on its way: the disk's facts, its device, and what is done to it, step by step."""

    work: Work
    disk: Json
    device: Path
    sector: int

    def clear(self) -> None:
        """Forget what was on the disk, as far as anybody could find it: signatures, partition tables, RAID, LVM."""
        work, name = self.work, self.disk["name"].removeprefix("/dev/")
        with Target(self.device):
            work.note("nobody else uses the disk")
        for number in range(1, 129):
            if (node := self._node(number)).exists():
                work.run("wipefs", "--all", "--force", str(node))
        work.run("wipefs", "--all", "--force", str(self.device))
        work.run("sgdisk", "--zap-all", str(self.device))
        work.run("partx", "--delete", str(self.device))
        if work.machine.read(f"/sys/block/{name}/queue/discard_max_bytes") not in ("", "0"):
            work.run("blkdiscard", "--force", str(self.device), limit=600)  # for the SSD's sake; nothing relies on it
        with Target(self.device) as target:
            target.zero(0, _EDGE)
            target.zero(target.size - _EDGE, target.size)
            target.sync()

    def spoil(self) -> None:
        """Make sure that the disk does not boot."""
        with contextlib.suppress(OSError, TaskError), Target(self.device) as target:
            target.zero(0, MIB)
            target.zero(target.size - MIB, target.size)
            target.sync()

    def table(self) -> Table:
        return read_table(self.device, self.sector)

    def node(self, part: Partition) -> Path:
        """Return the device of a partition, once the kernel has it with its new size."""
        node, wanted = self._node(part.number), (part.end - part.start + 1) * self.sector
        end = time.monotonic() + 15
        while not node.exists() or size_of(node) != wanted:
            if time.monotonic() > end:
                raise TaskError("disk", f"the kernel does not see partition {part.number} of {self.disk['name']}")
            time.sleep(0.1)
        return node

    def _node(self, number: int) -> Path:
        name = self.device.name
        return self.device.with_name(f"{name}p{number}" if name[-1].isdigit() else f"{name}{number}")

    def see(self) -> None:
        """Let the kernel read the partition table again."""
        self.work.run("partx", "--update", str(self.device))
        self.work.run("udevadm", "settle", "--timeout=15")

    # Partitions.

    def move_backup(self) -> None:
        if self.table().scheme == "gpt":
            self.work.must("disk", "move the second partition table to the end", "sgdisk", "-e", str(self.device))

    def grow(self, reserve: int) -> Partition | None:
        """Let the hindmost partition reach the end of the disk, less `reserve` bytes, if it is Linux's; return it."""
        table = self.table()
        part = table.hindmost
        if part is None or part.kind not in _LINUX:
            self.work.say("the last partition is not Linux's; nothing is grown")
            return None
        unit = MIB // self.sector
        end = (table.last + 1 - reserve // self.sector) // unit * unit - 1
        if end <= part.end:
            return part
        if table.scheme == "dos":
            _set_dos_entry(self.device, part.number, part.kind, part.start, end, part.active)
        else:
            self._grow_gpt(part, end)
        self.work.say(f"partition {part.number} grows to {(end - part.start + 1) * self.sector >> 20} MiB")
        return dataclasses.replace(part, end=end)

    def _grow_gpt(self, part: Partition, end: int) -> None:
        number = part.number
        argv = ["sgdisk", "-a", "1", "-d", str(number), "-n", f"{number}:{part.start}:{end}"]
        argv += ["-t", f"{number}:{part.kind}", "-u", f"{number}:{part.guid}"]
        argv += ["-c", f"{number}:{part.name}"] if part.name else []
        for bit in range(64):
            argv += ["-A", f"{number}:set:{bit}"] if part.attributes >> bit & 1 else []
        self.work.must("disk", f"grow partition {number}", *argv, str(self.device))

    def grow_filesystem(self, part: Partition) -> None:
        node = self.node(part)
        kind, work = filesystem(node), self.work
        if kind == "ext":
            checked = work.run("e2fsck", "-f", "-y", str(node), limit=1800)
            if checked.code & ~3:  # 1 and 2: errors were corrected
                raise TaskError("image", f"the file system of the image is damaged: {checked.said}")
            work.must("disk", "grow the file system", "resize2fs", str(node), limit=1800)
        elif kind in ("xfs", "btrfs"):
            argv = ("xfs_growfs",) if kind == "xfs" else ("btrfs", "filesystem", "resize", "max")
            with mounted(work, node) as folder:
                work.must("disk", "grow the file system", *argv, str(folder), limit=600)
        else:
            work.say(f"the file system of partition {part.number} is {kind or 'unknown'}; it is not grown")

    def add_drive(self, files: Mapping[str, str]) -> None:
        """Put a config drive (FAT, called config-2, as cloud-init and cloudbase-init look for) at the end."""
        table = self.table()
        unit = MIB // self.sector
        end = (table.last + 1) // unit * unit - 1
        start = end + 1 - _DRIVE // self.sector
        if table.hindmost is not None and table.hindmost.end >= start:
            raise TaskError("disk", "there is no room for the config drive behind the last partition")
        if table.scheme == "dos":
            used = {part.number for part in table.partitions}
            free = next((number for number in range(1, 5) if number not in used), 0)
            if not free:
                raise TaskError("image", "all four primary partitions are used; the config drive needs one")
            _set_dos_entry(self.device, free, "0c", start, end, active=False)
        else:
            argv = ("-a", str(unit), "-n", f"0:{start}:{end}", "-t", "0:0700", "-c", "0:config-2", str(self.device))
            self.work.must("disk", "add the config drive", "sgdisk", *argv)
        self.see()
        part = next(part for part in self.table().partitions if part.start == start)
        node = self.node(part)
        self.work.must("disk", "format the config drive", "mkfs.vfat", "-n", "config-2", str(node))
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder), files)
            fat_copy(self.work, node, Path(folder))

    # The bootloader.

    def check_bootloader(self, firmware: str, image: str) -> str:
        """Return which bootloader the disk has for `firmware`; raise TaskError("image") if it has none."""
        return self._uefi(image) if firmware == "uefi" else self._bios()

    def _bios(self) -> str:
        table = self.table()
        with self.device.open("rb") as stream:
            code = stream.read(440)
            if not any(code):
                raise TaskError("image", "the image has no boot code for BIOS in its first sector")
            for part in table.of_kind(BIOS_BOOT):
                stream.seek(part.start * self.sector)
                if any(stream.read(MIB)):
                    return f"boot code, and BIOS boot partition {part.number}"
        active = next((part.number for part in table.partitions if part.active), 0)
        if table.scheme == "dos" and active:
            return f"boot code, and active partition {active}"
        raise TaskError("image", "the image has boot code for BIOS, but no BIOS boot partition and no active one")

    def _uefi(self, image: str) -> str:
        arch = "AA64" if os.uname().machine == "aarch64" else "X64"
        loaders = (
            f"BOOT/BOOT{arch}",
            f"[^/]+/SHIM{arch}",
            "MICROSOFT/BOOT/BOOTMGFW",
            f".+/(?:GRUB|SYSTEMD-BOOT){arch}",
        )
        found: list[tuple[int, str, Partition]] = []
        for part in self.table().of_kind(ESP, "ef"):
            for path in fat_files(self.work, self.node(part)):
                ranks = [
                    rank for rank, loader in enumerate(loaders) if re.fullmatch(f"/EFI/{loader}.EFI", path.upper())
                ]
                found += [(rank, path, part) for rank in ranks]
        if not found:
            raise TaskError("image", "the image has no EFI system partition with a bootloader for this machine")
        rank, path, part = min(found, key=lambda each: each[:2])
        added = self._boot_entry(part, path, image)
        if rank and not added:
            raise TaskError("image", f"the image has only {path}, which needs a boot entry, and none could be made")
        return path.lstrip("/")

    def _boot_entry(self, part: Partition, path: str, image: str) -> bool:
        """Add an entry to the firmware's list, behind the one that this boot came by (the network); best effort."""
        work = self.work
        if not work.machine.children("/sys/firmware/efi/efivars"):
            return False
        listed = work.run("efibootmgr").out
        for old in re.findall(r"^Boot([0-9A-F]{4})\*? Halligan ", listed, re.MULTILINE):
            work.run("efibootmgr", "-q", "-b", old, "-B")
        argv = ["efibootmgr", "-c", "-d", str(self.device), "-p", str(part.number)]
        made = work.run(*argv, "-L", f"Halligan {image}", "-l", path.replace("/", "\\"))
        new = re.findall(r"^Boot([0-9A-F]{4})\*? Halligan ", made.out, re.MULTILINE)
        if not made.ok or not new:
            return False
        order, current = _boot_order(made.out)
        wanted = list(dict.fromkeys([each for each in (current, new[-1], *order) if each]))
        work.run("efibootmgr", "-q", "-o", ",".join(wanted))
        return True

    # The root file system.

    @contextlib.contextmanager
    def root(self) -> Iterator[Path | None]:
        """Give the root folder of the new system, mounted; None if the disk has no Linux root (Windows)."""
        parts = sorted(self.table().partitions, key=lambda part: part.start - part.end)
        for part in parts:
            if part.kind not in (ESP, BIOS_BOOT) and filesystem(self.node(part)) in ("ext", "xfs", "btrfs"):
                with mounted(self.work, self.node(part)) as folder:
                    tops = (folder, folder / "@", folder / "root")  # the usual names of a root in btrfs
                    top = next((top for top in tops if (top / "etc").is_dir() and (top / "usr").is_dir()), None)
                    if top is not None:
                        yield top
                        return
        yield None


def _boot_order(listed: str) -> tuple[list[str], str]:
    """Return efibootmgr's BootOrder, and the entry that this boot came by."""
    order = re.search(r"^BootOrder: (\S+)", listed, re.MULTILINE)
    current = re.search(r"^BootCurrent: (\S+)", listed, re.MULTILINE)
    return (order[1].split(",") if order else []), (current[1] if current else "")


@contextlib.contextmanager
def mounted(work: Work, node: Path) -> Iterator[Path]:
    """Mount a file system below /run/halligan, and take it off again with everything written."""
    base = work.machine.path("/run/halligan")
    base.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="mount-", dir=base))
    try:
        work.must("image", f"mount {node}", "mount", str(node), str(folder))
        try:
            yield folder
        finally:
            gone = work.machine.run("umount", str(folder), limit=300)
            if not gone.ok:
                work.note(f"umount: {gone.said}")
                work.machine.run("umount", "--lazy", str(folder), limit=60)
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()


def inside(root: Path, name: str) -> Path:
    """Return where `name` is in the tree below `root`, following links as the new system will, never out of it."""
    at, todo, hops = root, name.split("/"), 0
    while todo:
        part = todo.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            at = at.parent if at != root else root
            continue
        here = at / part
        if not here.is_symlink():
            at = here
            continue
        hops += 1
        if hops > 40:
            raise TaskError("image", f"{name} goes round in links")
        link = str(here.readlink())
        at, todo = (root if link.startswith("/") else at), link.split("/") + todo
    return at


def write_files(root: Path, files: Mapping[str, str], below: str = "") -> None:
    """Write files (relative path -> text) into a tree, for root's eyes only."""
    for name, text in sorted(files.items()):
        if name.startswith("/") or ".." in name.split("/") or not name:
            raise TaskError("image", f"the seed has a file with a path that is not its own: {name!r}")
        path = inside(root, f"{below}/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)


def fat_files(work: Work, node: Path) -> list[str]:
    """Return the paths of all files of a FAT file system, with or without the kernel's help."""
    listed = work.run("mdir", "-b", "-/", "-i", str(node), "::/")
    if listed.ok or "not found" in listed.err.lower():  # what mdir says of an empty one
        return [line[2:] for line in listed.out.splitlines() if line.startswith("::/") and not line.endswith("/")]
    with mounted(work, node) as folder:
        return [f"/{path.relative_to(folder)}" for path in sorted(folder.rglob("*")) if path.is_file()]


def fat_copy(work: Work, node: Path, source: Path) -> None:
    """Copy what is in a folder to the top of a FAT file system."""
    names = sorted(str(path) for path in source.iterdir())
    if work.run("mcopy", "-s", "-Q", "-i", str(node), *names, "::/").ok:
        return
    with mounted(work, node) as folder:
        work.must("disk", "fill the config drive", "cp", "-r", *names, str(folder))


def make_host_keys(work: Work, root: Path, kinds: Sequence[str]) -> list[str]:
    """Make the new system's SSH host keys where they stay; return the public halves without comments."""
    folder = inside(root, "etc/ssh")
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    for old in folder.glob("ssh_host_*_key*"):
        old.unlink()
    keys = []
    for kind in kinds:
        path = folder / f"ssh_host_{kind}_key"
        work.must("image", f"make a host key of type {kind}", "ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "",
                  "-f", str(path))  # fmt: skip
        keys.append(" ".join(path.with_suffix(".pub").read_text().split()[:2]))
    settings = inside(root, "etc/cloud/cloud.cfg.d")
    if settings.is_dir():  # cloud-init would make others at the first start
        (settings / "95_halligan_host_keys.cfg").write_text("ssh_deletekeys: false\nssh_genkeytypes: []\n")
    if re.search(r"^SELINUX=(?:enforcing|permissive)", _text(inside(root, "etc/selinux/config")), re.MULTILINE):
        (root / ".autorelabel").touch()  # what we wrote has no labels
    return keys


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def install_task(work: Work, args: Json) -> Done:
    """Write an image to the disk, and make it this host's: grown, able to boot, with its seed and its host keys."""
    image, seed = args["image"], args.get("seed") or {"kind": "", "files": {}}
    work.step("find", f"looking for the disk to write {image['name']} to")
    disk = find_disk(work.machine, args["disk"])
    device = device_of(work.machine, disk)
    room = size_of(device)
    needs = int(image["size"]) + (_DRIVE + 2 * MIB if seed["kind"] == "configdrive" else 0)
    if room < needs:
        raise TaskError("disk", f"{disk['name']} has {room} bytes, and {image['name']} needs {needs}")
    install = Install(work, disk, device, disk["logical_sectors"])
    free_disk(work, disk)
    try:
        work.step("clear", f"clearing {disk['name']} ({disk['model'] or 'disk'}, {room >> 30} GiB)")
        install.clear()
        work.step("write", f"writing {image['name']} to {disk['name']}")
        with Target(device) as target:
            write_image(work, image, target, install.sector)
        outputs = _finish(install, args, seed)
    except BaseException:
        install.spoil()
        raise
    return Done({**outputs, "disk": disk["name"], "bytes": int(image["size"])})


def _finish(install: Install, args: Json, seed: Json) -> Json:
    work, image = install.work, args["image"]
    work.step("grow", "growing the last partition to the size of the disk")
    install.move_backup()
    drive = seed["kind"] == "configdrive"
    part = install.grow(_DRIVE + MIB if drive else 0) if args.get("grow", True) else None
    install.see()
    if part is not None:
        install.grow_filesystem(part)
    work.step("bootloader", "looking for the bootloader")
    firmware = args.get("firmware") or boot_facts(work.machine)["current_boot_mode"]
    bootloader = install.check_bootloader(firmware, image["name"])
    work.say(f"{firmware} starts {bootloader}")
    work.step("seed", "telling the new system who it is")
    keys = _personalise(install, seed, args.get("host_keys") or ())
    if drive:
        install.add_drive(seed["files"])
    work.step("sync", "waiting for the disk")
    work.run("blockdev", "--flushbufs", str(install.device))
    os.sync()
    return {"host_keys": keys, "image": f"{image['name']}@{image['sha256'][:12]}", "bootloader": bootloader}


def _personalise(install: Install, seed: Json, kinds: Sequence[str]) -> list[str]:
    """Write what belongs into the new root. A system that wants nothing there (Windows) is not mounted."""
    if seed["kind"] != "nocloud" and not kinds:
        return []
    with install.root() as root:
        if root is None:
            raise TaskError("image", "the image has no Linux root file system to put seed and host keys into")
        if seed["kind"] == "nocloud":
            write_files(root, seed["files"], "var/lib/cloud/seed/nocloud")
        return make_host_keys(install.work, root, kinds) if kinds else []


# --- task: erase ----------------------------------------------------------------------------------------------------

_SAMPLES = 64


def proof(device: Path) -> int:
    """Read both ends and 64 random places of a disk, past all caches; return how many, or TaskError("erase")."""
    handle = os.open(device, os.O_RDONLY)
    try:
        size = os.lseek(handle, 0, os.SEEK_END)
        with contextlib.suppress(OSError):
            fcntl.ioctl(handle, _BLKFLSBUF)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        inner = {secrets.randbelow(max(1, size // MIB)) * MIB for _ in range(_SAMPLES)}
        places = sorted({0, max(0, size - MIB), *inner})
        for at in places:
            if any(os.pread(handle, MIB, at)):
                raise TaskError("erase", f"{device.name} still holds data at byte {at}")
        return len(places)
    finally:
        os.close(handle)


Way = Callable[[Work, Json, Path, Callable[[float], None]], bool]


def _format(work: Work, disk: Json, device: Path, secure: int) -> bool:
    """Let an NVMe disk erase itself. Where it has several namespaces that might hit the others, so it is not done."""
    controller = re.match(r"(nvme\d+)n\d+$", disk["name"].removeprefix("/dev/"))
    if controller is None:
        return False
    pattern = re.compile(rf"{controller[1]}n\d+")
    if sum(bool(pattern.fullmatch(name)) for name in work.machine.children("/sys/block")) > 1:
        work.note(f"{disk['name']} is one of several namespaces; its controller is not asked to erase")
        return False
    return work.run("nvme", "format", str(device), "-s", str(secure), "--force", limit=3600).ok


def _way_format(work: Work, disk: Json, device: Path, percent: Callable[[float], None]) -> bool:
    del percent
    return _format(work, disk, device, 1)


def _way_crypto(work: Work, disk: Json, device: Path, percent: Callable[[float], None]) -> bool:
    del percent
    return _format(work, disk, device, 2)


def _way_discard(work: Work, disk: Json, device: Path, percent: Callable[[float], None]) -> bool:
    del percent
    name = disk["name"].removeprefix("/dev/")
    if work.machine.read(f"/sys/block/{name}/queue/discard_max_bytes") in ("", "0"):
        return False
    return work.run("blkdiscard", "--force", str(device), limit=3600).ok


def _way_zero(work: Work, disk: Json, device: Path, percent: Callable[[float], None]) -> bool:
    del disk
    with Target(device) as target:
        for at in range(0, target.size, len(_ZEROS)):
            work.go_on()
            target.overwrite(at, len(_ZEROS))
            percent(100 * at / target.size)
        target.sync()
    return True


_WAYS: dict[str, tuple[tuple[str, Way], ...]] = {
    "auto": (("format", _way_format), ("discard", _way_discard), ("zero", _way_zero)),
    "crypto": (("crypto", _way_crypto),),
    "discard": (("discard", _way_discard),),
    "zero": (("zero", _way_zero),),
}


def erase_disk(work: Work, disk: Json, method: str, percent: Callable[[float], None]) -> Json:
    """Erase a disk by the first way that works and is proven; TaskError("erase") if none is."""
    device = device_of(work.machine, disk)
    problem = "it can do none of them"
    for name, way in _WAYS[method]:
        work.note(f"{disk['name']}: trying {name}")
        if not way(work, disk, device, percent):
            continue
        try:
            samples = proof(device)
        except TaskError as error:
            problem = error.problem
            work.note(f"{name}: {problem}")
            continue
        work.run("partx", "--delete", str(device))
        work.say(f"{disk['name']} is erased ({name}), {samples} samples are all zero")
        told = {key: disk[key] for key in ("name", "serial", "size")}
        return {**told, "method": name, "verified": True, "samples": samples}
    named = f"{disk['name']} (serial {disk['serial'] or 'none'})"
    raise TaskError("erase", f"{named} is not erased ({method}): {problem}")


def erase_task(work: Work, args: Json) -> Done:
    """Erase disks side by side. What was erased is told even if another one failed."""
    method, wanted = args.get("method") or "auto", args["disks"]
    if method not in _WAYS:
        raise TaskError("erase", f"no such method: {method}; there are {', '.join(_WAYS)}")
    work.step("erase", "erasing " + ("all disks" if wanted == "all" else f"{len(wanted)} disks"))
    every = disk_facts(work.machine)
    left = [disk["name"] for disk in every if disk["removable"]] if wanted == "all" else []
    if left:
        work.say(f"left alone, because they can be taken out: {', '.join(left)}")
    disks = [each for each in every if not each["removable"]] if wanted == "all" else [
        find_disk(work.machine, each) for each in wanted
    ]  # fmt: skip
    for disk in disks:
        free_disk(work, disk)  # all of them, before the first is touched
    shares = dict.fromkeys((disk["name"] for disk in disks), 0.0)

    def one(disk: Json) -> Json | TaskError:
        def percent(value: float) -> None:
            shares[disk["name"]] = value
            work.percent(sum(shares.values()) / len(shares))

        try:
            return erase_disk(work, disk, method, percent)
        except TaskError as error:
            return error
        except OSError as error:
            return TaskError("erase", f"{disk['name']}: {error.strerror}")

    with ThreadPoolExecutor(8) as pool:
        ended = list(pool.map(one, disks))
    outputs = {"disks": [each for each in ended if not isinstance(each, TaskError)], "left": left}
    problems = [each.problem for each in ended if isinstance(each, TaskError)]
    if problems:
        raise TaskError("erase", "; ".join(problems), outputs)
    return Done(outputs)


# --- task: rescue ---------------------------------------------------------------------------------------------------


def rescue_task(work: Work, args: Json) -> Done:
    """Let people with these keys log in as root; tell them where, and by which host keys they know the machine."""
    keys = [str(key) for key in args.get("authorized_keys") or work.site.authorized_keys]
    if not keys:
        raise TaskError("", "nobody's key was given, so nobody could log in")
    machine = work.machine
    work.step("rescue", "opening the shell")
    machine.path("/root/.ssh").mkdir(mode=0o700, parents=True, exist_ok=True)
    machine.write("/root/.ssh/authorized_keys", "".join(f"{key.strip()}\n" for key in keys))
    machine.path("/etc/ssh").mkdir(parents=True, exist_ok=True)
    work.must("", "make host keys", "ssh-keygen", "-A", "-f", str(machine.root))
    if not work.run("systemctl", "start", "ssh.service").ok:
        work.must("", "start the SSH server", "systemctl", "start", "sshd.service")
    names = [name for name in machine.children("/etc/ssh") if re.fullmatch(r"ssh_host_\w+_key\.pub", name)]
    public = [" ".join(machine.read(f"/etc/ssh/{name}").split()[:2]) for name in names]
    nics = interface_facts(machine)
    address = next((nic[key] for key in ("ipv4_address", "ipv6_address") for nic in nics if nic[key]), "")
    prints = machine.run("ssh-keygen", "-lf", str(machine.path("/etc/ssh/ssh_host_ed25519_key.pub"))).out.split()
    work.say(f"rescue: ssh root@{address or 'this machine'}, host key {prints[1] if len(prints) > 1 else 'unknown'}")
    return Done({"address": address, "host_keys": public})


TASKS: dict[str, Task] = {
    "install": install_task,
    "erase": erase_task,
    "rescue": rescue_task,
    "reboot": reboot_task,
    "poweroff": poweroff_task,
}


# --- the agent ------------------------------------------------------------------------------------------------------


def switch(machine: Machine, console: Console, action: str) -> NoReturn:
    """Restart the machine ("reboot") or switch it off ("poweroff"), the hard way if it does not go."""
    console.say({"reboot": "restarting the machine", "poweroff": "switching the machine off"}[action])
    for argv, seconds in ((("systemctl", action), 90.0), ((action, "-f"), 30.0)):
        if machine.run(*argv, limit=30).ok:
            time.sleep(seconds)  # the machine goes down under us; who is still here after that needs the next means
    machine.path("/proc/sysrq-trigger").write_text({"reboot": "b", "poweroff": "o"}[action])
    raise SystemExit(1)


def pretend(machine: Machine, console: Console, action: str) -> NoReturn:
    """Note in the root folder what would have been done: with a root of its own the agent looks at no real machine."""
    console.say(f"would {action} now")
    machine.write("/run/halligan/agent/switched", action)
    raise SystemExit(0)


Switch = Callable[[Machine, Console, str], NoReturn]


class Agent:
    """Enrols, tells facts, and does tasks one after the other, for ever."""

    def __init__(
        self,
        machine: Machine,
        console: Console,
        *,
        clock: Clock | None = None,
        switcher: Switch = switch,
        tasks: Mapping[str, Task] = TASKS,
    ) -> None:
        self._machine, self._console, self._clock = machine, console, clock or Clock()
        self._switch, self._tasks = switcher, tasks
        self._memory = Memory(machine)
        self._authority = machine.path("/etc/halligan/ca.pem")
        self._site = Site.read(machine)
        self._looked = threading.Event()  # no collector touches a disk any more

    def run(self) -> NoReturn:
        site = self._site
        try:
            session, poll = self._enrol(site)
            self._serve(site, session, poll)
        except RefusedError as error:
            self._console.say(f"the server refuses this machine: {error}")
        if site.restart_s <= 0:
            self._console.say("nothing to do until somebody restarts it")
            signal.pause()
        self._console.say(f"it restarts in {site.restart_s:.0f} s, to begin again with a new token")
        time.sleep(site.restart_s)
        self._switch(self._machine, self._console, "reboot")

    def _enrol(self, site: Site) -> tuple[Session, float]:
        """Return a session, with the credential of an earlier run if there is one: a token is good once."""
        found = self._memory.credential()
        facts = basic_facts(self._machine, self._clock.now())
        if not found:
            found = self._ask(site, facts)
            self._memory.enrolled(found)
        machine, poll = str(found["machine"]), float(found.get("poll_s", 30))
        self._console.say(f"this is machine {machine}, {_where(facts)}")
        session = Session(site, self._authority, machine, str(found["credential"]))
        teller = threading.Thread(target=self._tell, args=(session.another(), facts), name="facts", daemon=True)
        teller.start()
        if found.get("mode") == "rescue":
            self._open_shell()
        return session, poll

    def _open_shell(self) -> None:
        try:
            self._tasks["rescue"](Work(self._machine, self._site, self._console), {})
        except (TaskError, OSError) as error:
            self._console.say(f"the shell cannot be opened: {error}")

    def _ask(self, site: Site, facts: Json) -> Json:
        client = Client(site.server, self._authority)
        boot = facts["inventory"]["boot"]
        back_off = BackOff()
        self._console.say(f"enrolling at {site.server}")
        while True:
            date = server_date(site.files)
            if date is not None:
                self._clock.adjust(date, f"the Date header of {site.files}", self._console, DAY)
            body = {
                "protocol": PROTOCOL,
                "agent": VERSION,
                "identity": identity(facts),
                "boot": {"mac": boot["pxe_interface"], "mode": boot["current_boot_mode"]},
                "clock": self._clock.now(),
            }
            try:
                answer = client.call("POST", "/v1/enrol", site.token, body)
            except UnreachableError as error:
                pause = back_off.next()
                self._console.say(f"cannot reach {site.server}: {error}; again in {pause:.0f} s")
                time.sleep(pause)
                continue
            client.close()
            if answer.status != 200 or not answer.body.get("credential"):
                raise RefusedError(answer.said)
            if "now" in answer.body:
                self._clock.adjust(float(answer.body["now"]), "the server", self._console, 5.0)
            return answer.body

    def _tell(self, session: Session, facts: Json) -> None:
        """Send the basic facts, then the full ones (a thread of its own; a task need not wait for LLDP)."""
        tools, until = Tools(self._machine), time.monotonic() + self._site.lldp_s
        try:
            _insist(lambda: session.facts(bounded(facts)), self._console, "send facts")
            self._console.say("basic facts sent; looking closer")
            links_up(self._machine)
            full = full_facts(tools, self._clock.now())
            self._looked.set()
            heard = tools.attempt("lldpcli", lambda: lldp_facts(tools, until)) or {}
            nics = [_linked(nic, self._machine) for nic in full["inventory"]["interfaces"]]
            inventory = {**full["inventory"], "interfaces": nics}
            full = {**full, "inventory": inventory, "lldp": heard, "clock": self._clock.now()}
            _insist(lambda: session.facts(bounded(full)), self._console, "send facts")
            self._console.say(f"full facts sent; {len(heard)} of {len(nics)} NICs heard a neighbour")
            for note in tools.notes:
                self._console.say(f"not all could be found out: {note}")
        except RefusedError as error:
            self._console.say(f"facts refused: {error}")
        except Exception as error:  # a machine that says odd things must still do its tasks
            self._console.say(f"facts failed: {type(error).__name__}: {error}")
            sys.stderr.write(traceback.format_exc())
        finally:
            self._looked.set()
            session.close()

    def _serve(self, site: Site, session: Session, poll: float) -> NoReturn:
        back_off = BackOff()
        while True:
            began = time.monotonic()
            try:
                task = session.task(poll)
            except UnreachableError as error:
                pause = back_off.next()
                self._console.say(f"cannot reach the server: {error}; again in {pause:.0f} s")
                time.sleep(pause)
                continue
            if task is not None and self._task(site, session, task):
                back_off.reset()
            elif time.monotonic() - began < 1:  # a server that does not wait, or gives a task that is over
                time.sleep(back_off.next())
            else:
                back_off.reset()

    def _task(self, site: Site, session: Session, task: Json) -> bool:
        """Do a task that was handed out, unless it was done before; return whether it was new."""
        key, name = str(task.get("id", "")), str(task.get("task", ""))
        known = self._memory.task(key)
        if known is not None and "result" in known:
            self._deliver(session, key, known["result"])
            return False
        if known is not None:
            result = _result(TaskError("interrupted", "the agent restarted in the middle of the task"), "")
            after = ""
        else:
            self._memory.began(key)
            self._console.say(f"task {name} ({key})")
            result, after = self._do(site, session, key, name, task.get("args") or {})
        self._memory.finished(key, result)
        self._deliver(session, key, result)
        if after:
            self._switch(self._machine, self._console, after)
        return True

    def _do(self, site: Site, session: Session, key: str, name: str, args: Json) -> tuple[Json, str]:
        self._looked.wait(120)  # lshw and others open disks, which keeps new partitions from being seen
        with Progress(session.another(), key) as progress:
            work = Work(self._machine, site, self._console, progress)
            try:
                done = self._tasks.get(name, _unknown)(work, args)
                result = {"ok": True, "outputs": done.outputs, "problem": "", "failure": "", "log": work.log()}
            except UnwantedError as error:
                return _result(TaskError("interrupted", str(error)), work.log()), ""
            except TaskError as error:
                work.say(f"{name} failed: {error.problem}")
                return _result(error, work.log()), ""
            except Exception as error:  # whatever it is, the server must hear of it
                work.note(traceback.format_exc())
                work.say(f"{name} failed: {type(error).__name__}: {error}")
                failure = "disk" if isinstance(error, OSError) else ""
                return _result(TaskError(failure, f"{type(error).__name__}: {error}"), work.log()), ""
        self._console.say(f"task {name} is done")
        return result, done.after

    def _deliver(self, session: Session, key: str, result: Json) -> None:
        """Give the server the result, however long that takes. It may want it no longer; then it is dropped."""
        answer = _insist(lambda: session.result(key, result), self._console, "deliver the result")
        if answer.status == 413:
            short = {**result, "log": result["log"][-2000:]}
            answer = _insist(lambda: session.result(key, short), self._console, "deliver the result")
        if answer.status >= 300:
            self._console.say(f"the server does not take the result: {answer.said}")


def _linked(nic: Json, machine: Machine) -> Json:
    """Return a NIC with its link and address as they are now: both come late on NICs that were off."""
    now = next((each for each in interface_facts(machine) if each["name"] == nic["name"]), nic)
    fresh = ("has_carrier", "ipv4_address", "ipv6_address")
    return {**nic, **{key: now[key] for key in fresh}, "speed_mbps": now["speed_mbps"] or nic["speed_mbps"]}


def _unknown(work: Work, args: Json) -> Done:
    del work, args
    raise TaskError(
        "", f"this agent (version {VERSION}) does not know such a task; its tasks are {', '.join(sorted(TASKS))}"
    )


def _result(error: TaskError, log: str) -> Json:
    return {"ok": False, "outputs": error.outputs, "problem": error.problem, "failure": error.failure, "log": log}


def _insist(call: Callable[[], T], console: Console, what: str) -> T:
    """Call until the server answers."""
    back_off = BackOff()
    while True:
        try:
            return call()
        except UnreachableError as error:
            pause = back_off.next()
            console.say(f"cannot {what}: {error}; again in {pause:.0f} s")
            time.sleep(pause)


def _where(facts: Json) -> str:
    """Return in a few words what this machine is: vendor, product, serial, and its addresses."""
    inventory = facts["inventory"]
    vendor = inventory["system_vendor"]
    words = [
        vendor["manufacturer"],
        vendor["product_name"],
        vendor["serial_number"] and f"serial {vendor['serial_number']}",
    ]
    nics = [f"{nic['ipv4_address']} on {nic['name']}" for nic in inventory["interfaces"] if nic["ipv4_address"]]
    return ", ".join([" ".join(word for word in words if word) or "of unknown make", *nics])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Halligan's discovery agent; it runs in the discovery image.")
    parser.add_argument(
        "--root", type=Path, default=Path("/"), help="look at another root folder; switches nothing off"
    )
    parser.add_argument("--keep-clock", action="store_true", help="never set the clock")
    parser.add_argument("--facts", choices=("basic", "full"), help="print the facts and end")
    options = parser.parse_args(argv)
    real = options.root == Path("/")
    machine = Machine(options.root)
    if options.facts:
        now = time.time()
        facts = basic_facts(machine, now) if options.facts == "basic" else full_facts(Tools(machine), now)
        json.dump(facts, sys.stdout, indent=1)
        return 0
    console = Console(Path("/dev/console") if real else None)
    clock = Clock(set=lambda _: None) if options.keep_clock or not real else Clock()
    try:
        Agent(machine, console, clock=clock, switcher=switch if real else pretend).run()
    except ValueError as error:
        console.say(str(error))
    return 1


if __name__ == "__main__":
    sys.exit(main())
