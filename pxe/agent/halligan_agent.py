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
import email.utils
import hashlib
import http.client
import json
import os
import re
import secrets
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar
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
        for address in link.get("addr_info", []):
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
    """Map device names to the model, vendor and serial that lshw knows."""
    found: dict[str, Json] = {}
    for node in nodes:
        names = node.get("logicalname", [])
        for name in [names] if isinstance(names, str) else names:
            if node.get("class") in ("disk", "storage") and name.startswith("/dev/"):
                text = {key: clean(str(node.get(word, ""))) for key, word in _LSHW_DISK}
                found[name] = filled(text, found.get(name, {}))
    return found


_LSHW_DISK = (("model", "product"), ("vendor", "vendor"), ("serial", "serial"))


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
    """Map device names to the model, serial and firmware of `nvme list -o json`."""
    devices = parsed(text, {}).get("Devices") or []
    return {
        device["DevicePath"]: {
            "model": clean(str(device.get("ModelNumber", ""))),
            "serial": clean(str(device.get("SerialNumber", ""))),
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

    def __init__(self, failure: str, problem: str) -> None:
        super().__init__(problem)
        self.failure, self.problem = failure, problem


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


TASKS: dict[str, Task] = {
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
        return session, poll

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
    return {"ok": False, "outputs": {}, "problem": error.problem, "failure": error.failure, "log": log}


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
