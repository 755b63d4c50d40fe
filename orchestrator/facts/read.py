"""From the discovery agent's facts document, or ironic-python-agent's inspection data, to `Facts`.

Our agent's keys are a superset of ironic-python-agent's (ironic_python_agent/inspector.py and hardware.py): its
`inventory` has the same names; what it adds at the top is `pci_devices`, `lldp_raw`, `dmi`, `boot_interface`, `error`.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from orchestrator import identity
from orchestrator.errors import ProblemsError
from orchestrator.facts.fields import Fields, Findings, clean, clean_text, kind_of
from orchestrator.facts.lldp import neighbour
from orchestrator.facts.values import Dimm, Disk, Facts, Gpu, Neighbour, Nic, PciDevice, Tpm, Virtualization
from orchestrator.model import Identity, Json

__all__ = ["MOST_BYTES", "read"]

MOST_BYTES = 1024 * 1024
MIB = 1024 * 1024
LEVELS = ("basic", "full")
_MOST_ERROR = 2000


def read(document: bytes, *, source: str = "agent") -> Facts:
    """Return the facts that a document tells, whatever bytes it is. Unknown keys are kept in `Facts.document`.

    Raises ProblemsError with all problems at once, each with its JSON path; `source` stands for the file in them.
    Codes: facts.size, facts.json, facts.depth, facts.count, facts.text (limits and form), facts.type, facts.value.
    """
    findings = Findings(source)
    content = clean(_parse(document, findings), findings)
    if findings.problems:
        raise ProblemsError(findings.all())
    found = _facts(Fields(content, "", findings))
    if findings.problems:
        raise ProblemsError(findings.all())
    return found


def _parse(document: bytes, findings: Findings) -> dict[str, Json]:
    if len(document) > MOST_BYTES:
        findings.add("facts.size", "", f"has {len(document)} bytes; at most {MOST_BYTES} are read")
        return {}
    try:
        content = json.loads(document.decode("utf-8"))
    except RecursionError:
        findings.add("facts.depth", "", "is nested too deeply to be read")
        return {}
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are both
        findings.add("facts.json", "", f"is no JSON: {clean_text(str(error))[:200]}")
        return {}
    if not isinstance(content, dict):
        findings.add("facts.type", "", f"is {kind_of(content)}, not an object")
        return {}
    if "inventory" not in content:
        findings.add("facts.type", "inventory", "is missing", "send what ironic-python-agent calls its inventory")
    content.pop("logs", None)  # ironic-python-agent's: an archive of its journal, megabytes in base64
    if isinstance(content.get("error"), str):
        content["error"] = content["error"][:_MOST_ERROR]
    return content


def _facts(top: Fields) -> Facts:
    inventory = top.child("inventory")
    system, cpu, boot = inventory.child("system_vendor"), inventory.child("cpu"), inventory.child("boot")
    nics, pci = _nics(top, inventory), _pci(top)
    dimms, flags = _dimms(top, inventory), cpu.texts("flags")
    bmc_mac = _mac(inventory, "bmc_mac")
    boot_mac = _boot_mac(boot.text("pxe_interface") or top.text("boot_interface"))
    vendor, product = system.text("manufacturer"), system.text("product_name")
    return Facts(
        identity=_identity(system, nics, bmc_mac, boot_mac),
        vendor=vendor,
        product=product,
        serial=identity.normal_serial(system.text("serial_number")),
        firmware_mode=_choice(boot, "current_boot_mode", ("uefi", "bios")),
        firmware_version=system.child("firmware").text("version"),
        secure_boot=boot.flag("secure_boot"),
        boot_mac=boot_mac,
        hostname=inventory.text("hostname"),
        cpus=cpu.whole("count"),
        cpu_sockets=cpu.whole("socket_count"),
        cpu_model=cpu.text("model_name"),
        architecture=cpu.text("architecture").lower(),
        cpu_flags=flags,
        memory_bytes=_memory(inventory.child("memory"), dimms),
        dimms=dimms,
        disks=tuple(_disk(item) for item in inventory.children("disks")),
        nics=nics,
        gpus=_gpus(inventory, pci),
        pci=pci,
        bmc_address=_bmc_address(inventory),
        bmc_mac=bmc_mac,
        virtualization=_virtualization(inventory.child("virtualization"), flags, f"{vendor} {product}"),
        tpm=_tpm(inventory.child("tpm")),
        level=_choice(top.child("agent"), "level", LEVELS) or "full",
        clock=top.number("clock"),
        problem=top.text("error"),
        document=top.value,
    )


def _choice(fields: Fields, key: str, choices: Sequence[str]) -> str:
    found = fields.text(key).lower()
    if found and found not in choices:
        fields.findings.add("facts.value", fields.at(key), f'is "{found[:40]}", not one of {", ".join(choices)}')
        return ""
    return found


# --- identity -----------------------------------------------------------------------------------------------------

_USB_DRIVERS = frozenset(
    [
        *["cdc_ether", "cdc_ncm", "cdc_eem", "cdc_subset", "cdc_mbim", "rndis_host", "usbnet", "ipheth"],
        *["r8152", "r8153_ecm", "asix", "ax88179_178a", "aqc111", "smsc75xx", "smsc95xx", "lan78xx", "dm9601"],
    ]
)
"""Linux drivers of network ports on USB: the BMC's virtual port, and adapters that wander from machine to machine."""


def _identity(system: Fields, nics: Sequence[Nic], bmc_mac: str, boot_mac: str) -> Identity:
    shared = {nic.mac for nic in nics if nic.usb or nic.mac == bmc_mac}
    return identity.make(
        uuid=system.text("uuid"),
        serials=(system.text("serial_number"), *system.texts("serials")),
        macs=[nic.mac for nic in nics],
        doubtful=sorted(shared),
        booted=boot_mac if boot_mac in {nic.mac for nic in nics} else "",
    )


_OCTETS = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){7}(?:(?::[0-9a-f]{2}){12})?")


def _mac(fields: Fields, key: str) -> str:
    """Return a MAC, or the 8 or 20 octets of FireWire and InfiniBand; anything else is a problem."""
    given = fields.text(key).lower()
    if not given or set(given) <= set("0:-"):
        return ""
    mac = identity.normal_mac(given)
    if mac or _OCTETS.fullmatch(given):
        return mac or given
    if given != "ff:ff:ff:ff:ff:ff":
        fields.findings.add("facts.value", fields.at(key), f'is "{given[:60]}", which is no MAC address')
    return ""


def _boot_mac(text: str) -> str:
    """Return the MAC of pxelinux's BOOTIF ("01-52-54-...") or a plain one."""
    return identity.normal_mac(re.sub(r"^01-(?=(?:[0-9a-fA-F]{2}-){5}[0-9a-fA-F]{2}$)", "", text))


# --- processor and memory -----------------------------------------------------------------------------------------


def _memory(memory: Fields, dimms: Sequence[Dimm]) -> int:
    """Return what is plugged in, in bytes: `total` is what the kernel left of it, less than any data sheet says."""
    physical = memory.whole("physical_mb") * MIB
    total = memory.whole("total")
    return physical or sum(dimm.size for dimm in dimms) or total


def _dimms(top: Fields, inventory: Fields) -> tuple[Dimm, ...]:
    own = tuple(
        Dimm(
            locator=item.text("locator"),
            size=item.whole("size_mb") * MIB,
            type=item.text("type"),
            speed_mts=item.whole("speed_mts", negative=True),
            manufacturer=item.text("manufacturer"),
            part_number=item.text("part_number"),
            serial=identity.normal_serial(item.text("serial_number")),
        )
        for item in inventory.child("memory").children("dimms")
    )
    return own or tuple(_dmidecode_dimms(top))


_DMI_SIZE = re.compile(r"(\d{1,9}) ([kMGT])i?B")
_DMI_UNITS = {"k": 1024, "M": MIB, "G": 1024 * MIB, "T": 1024 * 1024 * MIB}


def _dmidecode_dimms(top: Fields) -> Iterator[Dimm]:
    """Yield the memory modules of ironic-python-agent's `dmi`: dmidecode's own words, where an empty slot has no size.

    Values without text become lists there, so that only texts are looked at.
    """
    for item in top.child("dmi").child("memory").children("devices"):
        told = {key: value for key, value in item.value.items() if isinstance(value, str)}
        size = _DMI_SIZE.fullmatch(told.get("Size", ""))
        speed = re.match(r"\d{1,6}", told.get("Speed", ""))
        if size:
            yield Dimm(
                locator=told.get("Locator", ""),
                size=int(size[1]) * _DMI_UNITS[size[2]],
                type=told.get("Type", ""),
                speed_mts=int(speed[0]) if speed else 0,
                manufacturer=told.get("Manufacturer", ""),
                part_number=told.get("Part Number", ""),
                serial=identity.normal_serial(told.get("Serial Number", "")),
            )


_GUESTS = (("qemu", "kvm"), ("kvm", "kvm"), ("vmware", "vmware"), ("microsoft", "hyperv"), ("xen", "xen"))


def _virtualization(own: Fields, flags: Sequence[str], system: str) -> Virtualization:
    """Return what the agent says, else (ironic-python-agent) what the processor's flags and the vendor tell."""
    hypervisor = own.text("hypervisor").lower()
    if "hypervisor" not in own.value and "hypervisor" in flags:
        folded = system.casefold()
        hypervisor = next((name for word, name in _GUESTS if word in folded), "unknown")
    return Virtualization(
        cpu=own.text("cpu").lower() or next((flag for flag in ("vmx", "svm") if flag in flags), ""),
        nested=own.flag("nested"),
        hypervisor="" if hypervisor == "none" else hypervisor,
    )


def _tpm(own: Fields) -> Tpm:
    return Tpm(present=bool(own.flag("present")), version=own.text("version"))


# --- disks and devices --------------------------------------------------------------------------------------------


def _disk(item: Fields) -> Disk:
    is_nvme = item.flag("nvme")
    name = item.text("name")
    if not name:
        item.findings.add("facts.value", item.at("name"), "is missing")
    return Disk(
        name=name,
        size=item.whole("size"),
        model=item.text("model"),
        serial=item.text("serial"),
        wwn=item.text("wwn"),
        vendor=item.text("vendor"),
        rotational=item.flag("rotational"),
        removable=bool(item.flag("removable")),
        bus="nvme" if is_nvme else item.text("tran").lower(),
        hctl=item.text("hctl"),
        by_path=item.text("by_path"),
        logical_sector=item.whole("logical_sectors"),
        physical_sector=item.whole("physical_sectors"),
    )


def _hex(text: str) -> str:
    return text.lower().removeprefix("0x")


def _pci(top: Fields) -> tuple[PciDevice, ...]:
    return tuple(
        PciDevice(
            vendor_id=_hex(item.text("vendor_id")),
            product_id=_hex(item.text("product_id")),
            class_code=_hex(item.text("class")),
            revision=_hex(item.text("revision")),
            address=item.text("bus"),
        )
        for item in top.children("pci_devices")
    )


_GPU_VENDORS = frozenset(["10de", "1002", "8086"])  # NVIDIA, AMD, Intel


def _gpus(inventory: Fields, pci: Sequence[PciDevice]) -> tuple[Gpu, ...]:
    """Return the agent's GPUs; for ironic-python-agent, which has no such list, the PCI devices that are some.

    PCI classes: 0302 3D controller, 0380 other display, 1200 processing accelerator; 0300 is VGA, which BMCs have too.
    """
    if "gpus" in inventory.value:
        return tuple(
            Gpu(
                vendor_id=_hex(item.text("vendor_id")),
                product_id=_hex(item.text("product_id")),
                vendor=item.text("vendor"),
                product=item.text("product"),
                pci_address=item.text("pci_address"),
            )
            for item in inventory.children("gpus")
        )
    return tuple(
        Gpu(vendor_id=device.vendor_id, product_id=device.product_id, pci_address=device.address)
        for device in pci
        if device.class_code[:4] in {"0302", "0380", "1200"}
        or (device.class_code[:4] == "0300" and device.vendor_id in _GPU_VENDORS)
    )


def _bmc_address(inventory: Fields) -> str:
    """Return the BMC's address, IPv4 first; ironic-python-agent says 0.0.0.0 and ::/0 for none."""
    addresses = [inventory.text("bmc_address"), inventory.text("bmc_v6address")]
    return next((address for address in addresses if address not in {"", "0.0.0.0", "::", "::/0"}), "")  # noqa: S104 - no bind


# --- network ------------------------------------------------------------------------------------------------------


def _nics(top: Fields, inventory: Fields) -> tuple[Nic, ...]:
    heard = _neighbours(top)
    return tuple(_nic(item, heard) for item in inventory.children("interfaces"))


def _nic(item: Fields, heard: Mapping[str, list[Neighbour]]) -> Nic:
    name, driver = item.text("name"), item.text("driver")
    own = neighbour(_tlvs(item, "lldp"))  # where older ironic-python-agents put the frame
    return Nic(
        name=name,
        mac=_mac(item, "mac_address"),
        ipv4=item.text("ipv4_address"),
        ipv6=item.text("ipv6_address"),
        carrier=item.flag("has_carrier"),
        vendor=_hex(item.text("vendor")),
        product=_hex(item.text("product")),
        speed_mbps=item.whole("speed_mbps", negative=True),  # the kernel says -1 where no link is
        pci_address=item.text("pci_address"),
        driver=driver,
        biosdevname=item.text("biosdevname"),
        usb=bool(item.flag("usb")) or driver in _USB_DRIVERS or name == "idrac",
        neighbours=tuple(heard.get(name, ())) or ((own,) if own else ()),
    )


def _neighbours(top: Fields) -> Mapping[str, list[Neighbour]]:
    """Return NIC -> what was heard there; decoded by our agent (`lldp`) or raw (`lldp_raw`)."""
    heard: defaultdict[str, list[Neighbour]] = defaultdict(list)
    decoded = top.child("lldp")
    for nic in sorted(decoded.value):
        heard[nic] += [_decoded(item) for item in decoded.children(nic)]
    raw = top.child("lldp_raw")
    for nic in sorted(raw.value):
        found = neighbour(_tlvs(raw, nic))
        if found and not heard[nic]:
            heard[nic].append(found)
    return heard


def _decoded(item: Fields) -> Neighbour:
    return Neighbour(
        system_name=item.text("system_name"),
        chassis_id=item.text("chassis_id"),
        port_id=item.text("port_id"),
        port_description=item.text("port_description"),
        management_address=item.text("management_address"),
        vlans=tuple(sorted(set(item.wholes("vlans")))),
    )


def _tlvs(fields: Fields, key: str) -> list[tuple[int, bytes]]:
    """Return [[type, hex], ...] as pairs; what is no such pair is a problem."""
    found = []
    for at, item in enumerate(fields.items(key)):
        match item:
            case [int() as kind, str() as text]:
                try:
                    found.append((kind, bytes.fromhex(text)))
                except ValueError:
                    fields.findings.add("facts.value", f"{fields.at(key)}[{at}][1]", "is not written in hex digits")
            case _:
                fields.findings.add(
                    "facts.type", f"{fields.at(key)}[{at}]", f"is {kind_of(item)}, not a pair of type and hex digits"
                )
    return found
