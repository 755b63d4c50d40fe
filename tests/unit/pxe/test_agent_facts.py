"""What the discovery agent makes of /sys, and of what tools print: recorded trees and outputs, and odd ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.agents import load_agent

from orchestrator import facts as fact_reader

agent = load_agent()
RECORDED = Path(__file__).parent / "recorded"


def recorded(name: str) -> str:
    return (RECORDED / name).read_text()


def machine(root: Path, outputs: Mapping[str, str] | None = None, calls: list[str] | None = None) -> Any:
    """Return a machine whose tools print what `outputs` has for the beginning of the command; others are missing."""

    def run(argv: Sequence[str], limit: float) -> Any:
        del limit
        words = " ".join(argv)
        if calls is not None:
            calls.append(words)
        found = max((key for key in outputs or {} if words.startswith(key)), key=len, default=None)
        return agent.Ran(127, err=f"{argv[0]}: No such file") if found is None else agent.Ran(0, (outputs or {})[found])

    return agent.Machine(root, run)


def put(root: Path, files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def link(root: Path, name: str, target: str) -> None:
    """Make `name` in the tree a link to `target` in the tree, as /sys has them: relative."""
    path, real = root / name.lstrip("/"), root / target.lstrip("/")
    real.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("../" * (len(path.relative_to(root).parts) - 1) + str(real.relative_to(root)))


# --- words of firmware ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "To Be Filled By O.E.M.",
        "Not Specified",
        "0123456789",
        "Default string",
        "System Serial Number",
        " None ",
        "............",
        "00000000",
        "FFFFFFFF",
        "ff-ff-ff-ff",
        "0x0000",
        "xxxxxxxxxxx",
        "N/A",
        "",
    ],
)
def test_placeholders_are_empty(text: str) -> None:
    assert agent.clean(text) == ""


@pytest.mark.parametrize(
    ("text", "wanted"), [("B5QN42X", "B5QN42X"), ("  S1  2 ", "S1 2"), ("0F", "0F"), ("fab", "fab")]
)
def test_real_words_stay(text: str, wanted: str) -> None:
    assert agent.clean(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("4C4C4544-0035-5110-804E-C2C04F343258\n", "4c4c4544-0035-5110-804e-c2c04f343258"),
        ("00000000-0000-0000-0000-000000000000", ""),
        ("FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", ""),
        ("03000200-0400-0500-0006-000700080009", ""),
        ("Not Settable", ""),
    ],
)
def test_uuids_that_tell_nothing_are_empty(text: str, wanted: str) -> None:
    assert agent.clean_uuid(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("01-52-54-00-AB-cd-ef", "52:54:00:ab:cd:ef"),
        ("52:54:00:AB:CD:EF", "52:54:00:ab:cd:ef"),
        ("00:00:00:00:00:00", ""),
        ("ff:ff:ff:ff:ff:ff", ""),
        ("52:54", ""),
    ],
)
def test_macs_have_one_spelling(text: str, wanted: str) -> None:
    assert agent.clean_mac(text) == wanted


# --- what tools print -----------------------------------------------------------------------------------------------


def test_memory_modules_are_read_without_empty_slots_and_flash() -> None:
    modules = agent.dmi_dimms(agent.dmi_tables(recorded("dmidecode.txt")))
    assert modules == [
        {
            "locator": "A1",
            "size_mb": 32768,
            "type": "DDR4",
            "speed_mts": 2933,
            "manufacturer": "00AD063200AD",
            "part_number": "HMAA4GR7AJR8N-XN",
            "serial_number": "35A2B3C4",
        },
        {
            "locator": "A2",
            "size_mb": 16384,
            "type": "DDR4",
            "speed_mts": 3200,
            "manufacturer": "",
            "part_number": "",
            "serial_number": "",
        },
        {
            "locator": "A5",
            "size_mb": 1048576,
            "type": "DDR5",
            "speed_mts": 4400,
            "manufacturer": "",
            "part_number": "",
            "serial_number": "",
        },
    ]


def test_dmidecode_tells_the_vendor_where_sys_does_not() -> None:
    vendor = agent.dmi_vendor(agent.dmi_tables(recorded("dmidecode.txt")))
    assert vendor == {
        "product_name": "PowerEdge R650",
        "serial_number": "B5QN42X",
        "manufacturer": "Dell Inc.",
        "uuid": "4c4c4544-0035-5110-804e-c2c04f343258",
        "firmware": {"vendor": "Dell Inc.", "version": "2.15.2", "build_date": "02/15/2024"},
        "serials": ["B5QN42X", ".B5QN42X.CNFCP0034L00A1."],
    }


@pytest.mark.parametrize("alone", [True, False])
def test_lshw_is_read_in_both_shapes(alone: bool) -> None:
    text = recorded("lshw.json")
    nodes = agent.lshw_nodes(json.dumps(json.loads(text)[0]) if alone else text)
    [module] = agent.lshw_dimms(nodes)
    assert (module["locator"], module["size_mb"], module["type"], module["speed_mts"]) == (
        "P1-DIMMA1",
        32768,
        "DDR4",
        2933,
    )
    vendor = agent.lshw_vendor(nodes)
    assert (vendor["manufacturer"], vendor["product_name"], vendor["serial_number"]) == (
        "Supermicro",
        "X11DPT",
        "S12345X9",
    )
    assert vendor["firmware"]["version"] == "3.3"
    assert agent.lshw_disks(nodes)["/dev/sdz"] == {"model": "SAMSUNG MZ7LH480", "vendor": "Samsung"}


def test_lldp_of_one_neighbour_is_an_object() -> None:
    found = agent.lldp_neighbours(recorded("lldpcli-one.json"))
    assert found == {
        "eno1": [
            {
                "system_name": "leaf-31",
                "chassis_id": "16:51:c5:97:7f:3c",
                "port_id": "Ethernet1/7",
                "port_description": "to n-001",
                "management_address": "10.9.0.1",
                "vlans": [],
            }
        ]
    }


def test_lldp_of_more_neighbours_is_a_list() -> None:
    found = agent.lldp_neighbours(recorded("lldpcli-two.json"))
    assert {nic: [each["port_description"] for each in heard] for nic, heard in found.items()} == {
        "eno1": ["to n-001"],
        "eno2": ["sw2"],
    }


def test_lldp_of_nameless_switches_and_of_two_on_one_cable() -> None:
    [first, second] = agent.lldp_neighbours(recorded("lldpcli-odd.json"))["eno1"]
    assert (first["system_name"], first["chassis_id"], first["vlans"]) == ("", "00:1b:21:aa:bb:cc", [10])
    assert (second["system_name"], second["management_address"], second["vlans"]) == ("leaf-32", "10.0.0.32", [10, 20])


@pytest.mark.parametrize("text", ["", "{}", '{"lldp": {}}', "no json", "[]"])
def test_lldp_without_neighbours(text: str) -> None:
    assert agent.lldp_neighbours(text) == {}


def test_the_bmc_tells_its_addresses() -> None:
    assert agent.bmc_lan(recorded("ipmitool-lan.txt")) == {"bmc_address": "10.20.0.31", "bmc_mac": "ac:1f:6b:00:11:22"}
    assert agent.bmc_lan6(recorded("ipmitool-lan6.txt")) == "2001:db8:20::31"


def test_a_bmc_without_an_address_has_none() -> None:
    text = recorded("ipmitool-lan.txt").replace("10.20.0.31", "0.0.0.0")
    assert agent.bmc_lan(text)["bmc_address"] is None
    assert agent.bmc_lan6("") is None


def test_the_bmc_is_looked_for_on_further_channels(tmp_path: Path) -> None:
    put(tmp_path, {"/dev/ipmi0": ""})
    lan = recorded("ipmitool-lan.txt")
    outputs = {
        "modprobe": "",
        "ipmitool lan print 1": lan.replace("10.20.0.31", "0.0.0.0"),
        "ipmitool lan print 8": lan,
        "ipmitool lan print": "",
        "ipmitool lan6 print 8": recorded("ipmitool-lan6.txt"),
    }
    found = agent.bmc_facts(agent.Tools(machine(tmp_path, outputs)))
    assert found == {
        "bmc_address": "10.20.0.31",
        "bmc_mac": "ac:1f:6b:00:11:22",
        "bmc_v6address": "2001:db8:20::31",
    }


# --- whole machines -------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A server with a SATA and an NVMe disk, a GPU, NICs of which one leads to the BMC; and much that is virtual."""
    sys = "/sys/devices/pci0000:00"
    flags = "fpu vmx aes"
    cpu = "processor\t: {}\nmodel name\t: Xeon Gold\nphysical id\t: {}\ncpu MHz\t\t: 2000.000\nflags\t\t: " + flags
    put(
        tmp_path,
        {
            "/proc/cpuinfo": "\n\n".join(cpu.format(number, number % 2) for number in range(4)) + "\n\n",
            "/proc/meminfo": "MemTotal:       65700000 kB\nMemFree: 1 kB\n",
            "/proc/cmdline": "console=ttyS0 BOOTIF=01-ac-1f-6b-00-00-01 halligan=1",
            "/sys/devices/system/memory/block_size_bytes": "80000000\n",
            **{f"/sys/devices/system/memory/memory{number}/online": "1" for number in range(32)},
            "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": b"\6\0\0\0\1",
            "/sys/class/dmi/id/sys_vendor": "Supermicro\n",
            "/sys/class/dmi/id/product_name": "SYS-2029\n",
            "/sys/class/dmi/id/product_serial": "0123456789\n",
            "/sys/class/dmi/id/board_serial": "OM18AS0001\n",
            "/sys/class/dmi/id/chassis_serial": "C2150LI\n",
            "/sys/class/dmi/id/product_uuid": "00000000-0000-0000-0000-AC1F6B001122\n",
            "/sys/class/tpm/tpm0/tpm_version_major": "2\n",
            "/sys/module/kvm_intel/parameters/nested": "Y\n",
            # disks
            f"{sys}/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda/size": "937703088\n",
            f"{sys}/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda/dev": "8:0\n",
            f"{sys}/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda/queue/rotational": "0\n",
            f"{sys}/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda/queue/physical_block_size": "4096\n",
            f"{sys}/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/model": "SAMSUNG MZ7LH480\n",
            f"{sys}/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/vendor": "ATA     \n",
            f"{sys}/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/vpd_pg80": b"\0\x80\0\x14      S45PNA0M",
            f"{sys}/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/wwid": "naa.5002538E40A1B2C3\n",
            f"{sys}/0000:5e:00.0/nvme/nvme0/nvme0n1/size": "3750748848\n",
            f"{sys}/0000:5e:00.0/nvme/nvme0/nvme0n1/wwid": "eui.36344730526000010025384500000001\n",
            f"{sys}/0000:5e:00.0/nvme/nvme0/serial": "S64GNE0R      \n",
            f"{sys}/0000:5e:00.0/nvme/nvme0/model": "SAMSUNG MZQL21T9HCJR-00A07\n",
            # PCI
            "/sys/bus/pci/devices/0000:17:00.0/vendor": "0x10de\n",
            "/sys/bus/pci/devices/0000:17:00.0/device": "0x20f1\n",
            "/sys/bus/pci/devices/0000:17:00.0/class": "0x030200\n",
            "/sys/bus/pci/devices/0000:17:00.0/revision": "0xa1\n",
            "/sys/bus/pci/devices/0000:03:00.0/vendor": "0x1a03\n",
            "/sys/bus/pci/devices/0000:03:00.0/device": "0x2000\n",
            "/sys/bus/pci/devices/0000:03:00.0/class": "0x030000\n",
            "/sys/bus/usb/devices/1-1/idVendor": "0781\n",
            "/sys/bus/usb/devices/usb1/idVendor": "1d6b\n",
        },
    )
    link(tmp_path, "/sys/block/sda", f"{sys}/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda")
    link(tmp_path, f"{sys}/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda/device",
         f"{sys}/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0")  # fmt: skip
    link(tmp_path, "/sys/block/nvme0n1", f"{sys}/0000:5e:00.0/nvme/nvme0/nvme0n1")
    link(tmp_path, f"{sys}/0000:5e:00.0/nvme/nvme0/nvme0n1/device", f"{sys}/0000:5e:00.0/nvme/nvme0")
    (tmp_path / "dev/disk/by-path").mkdir(parents=True)
    for name in ("pci-0000:00:17.0-ata-1.0", "pci-0000:00:17.0-ata-1"):
        (tmp_path / "dev/disk/by-path" / name).symlink_to("../../sda")
    for name in ("loop0", "ram0", "zram0", "sr0", "fd0", "dm-0", "md127", "nbd0", "mmcblk0boot0"):
        put(tmp_path, {f"/sys/block/{name}/size": "1000\n"})
    put(
        tmp_path, {"/sys/block/sdb/size": "0\n", "/sys/block/nvme0c0n1/size": "9\n", "/sys/block/nvme0c0n1/hidden": "1"}
    )
    for name, device, driver, mac in (
        ("eno1", f"{sys}/0000:18:00.0", "i40e", "ac:1f:6b:00:00:01"),
        ("enp0s3", f"{sys}/0000:00:03.0/virtio0", "virtio_net", "52:54:00:00:00:09"),
        ("usb0", f"{sys}/0000:00:14.0/usb1/1-1/1-1:1.0", "cdc_ether", "ac:1f:6b:ff:ff:01"),
    ):
        put(tmp_path, {f"/sys/class/net/{name}/address": mac, f"/sys/class/net/{name}/type": "1\n"})
        put(tmp_path, {f"/sys/class/net/{name}/carrier": "1\n", f"{device}/vendor": "0x8086\n"})
        link(tmp_path, f"/sys/class/net/{name}/device", device)
        link(tmp_path, f"{device}/driver", f"/sys/bus/x/drivers/{driver}")
    put(tmp_path, {"/sys/class/net/eno1/speed": "25000\n", "/sys/class/net/usb0/speed": "-1\n"})
    for name in ("lo", "br0", "bond0", "veth1", "eno1.10"):
        put(tmp_path, {f"/sys/class/net/{name}/address": "aa:bb:cc:dd:ee:ff", f"/sys/class/net/{name}/type": "1"})
    put(tmp_path, {"/sys/class/net/eno1v0/address": "aa:bb:cc:dd:ee:01", "/sys/class/net/eno1v0/type": "1"})
    link(tmp_path, "/sys/class/net/eno1v0/device", f"{sys}/0000:18:02.0")
    link(tmp_path, f"{sys}/0000:18:02.0/physfn", f"{sys}/0000:18:00.0")
    return tmp_path


def test_basic_facts_of_a_server(server: Path) -> None:
    found = agent.basic_facts(machine(server, {"ip -j addr": recorded("ip-addr.json")}), 12.5)
    inventory = found["inventory"]
    assert inventory["cpu"]["flags"] == ["aes", "fpu", "vmx"]
    assert (inventory["cpu"]["count"], inventory["cpu"]["socket_count"]) == (4, 2)
    assert inventory["memory"] == {"total": 65700000 * 1024, "physical_mb": 65536, "dimms": []}
    assert [disk["name"] for disk in inventory["disks"]] == ["/dev/nvme0n1", "/dev/sda"]
    assert inventory["disks"][1] == {
        "name": "/dev/sda",
        "model": "SAMSUNG MZ7LH480",
        "size": 480103981056,
        "rotational": False,
        "wwn": "0x5002538e40a1b2c3",
        "serial": "S45PNA0M",
        "vendor": "ATA",
        "hctl": "0:0:0:0",
        "by_path": "/dev/disk/by-path/pci-0000:00:17.0-ata-1",
        "logical_sectors": 512,
        "physical_sectors": 4096,
        "tran": "sata",
        "nvme": False,
        "removable": False,
    }
    nvme = inventory["disks"][0]
    assert (nvme["nvme"], nvme["tran"], nvme["serial"]) == (True, "nvme", "S64GNE0R")
    assert nvme["wwn"] == "eui.36344730526000010025384500000001"
    assert [nic["name"] for nic in inventory["interfaces"]] == ["eno1", "enp0s3", "usb0"]
    eno1, virtio, usb = inventory["interfaces"]
    assert (eno1["driver"], eno1["speed_mbps"], eno1["pci_address"]) == ("i40e", 25000, "0000:18:00.0")
    assert (eno1["ipv4_address"], eno1["ipv6_address"], eno1["has_carrier"]) == ("10.10.0.7", "2001:db8::7", True)
    assert (virtio["driver"], virtio["pci_address"]) == ("virtio_net", "0000:00:03.0")
    assert (usb["usb"], usb["speed_mbps"]) == (True, None)
    assert inventory["system_vendor"]["serials"] == ["OM18AS0001", "C2150LI"]
    assert inventory["boot"] == {
        "current_boot_mode": "uefi",
        "pxe_interface": "ac:1f:6b:00:00:01",
        "secure_boot": True,
    }
    assert inventory["virtualization"] == {"cpu": "vmx", "nested": True, "hypervisor": ""}
    assert inventory["tpm"] == {"present": True, "version": "2.0"}
    assert [gpu["pci_address"] for gpu in inventory["gpus"]] == ["0000:17:00.0"]
    assert [device["vendor_id"] for device in found["usb_devices"]] == ["0781"]


def test_the_identity_leaves_out_the_nic_to_the_bmc(server: Path) -> None:
    facts = agent.basic_facts(machine(server), 0)
    assert agent.identity(facts) == {
        "uuid": "00000000-0000-0000-0000-ac1f6b001122",
        "serials": ["OM18AS0001", "C2150LI"],
        "macs": ["52:54:00:00:00:09", "ac:1f:6b:00:00:01"],
    }
    put(server, {"/run/halligan/bootif": "01-ac-1f-6b-ff-ff-01\n"})
    assert "ac:1f:6b:ff:ff:01" in agent.identity(agent.basic_facts(machine(server), 0))["macs"]


def test_full_facts_of_a_server_are_what_the_controller_reads(server: Path) -> None:
    put(server, {"/dev/ipmi0": ""})
    outputs = {
        "ip -j addr": recorded("ip-addr.json"),
        "dmidecode": recorded("dmidecode.txt"),
        "lshw -json": recorded("lshw.json"),
        "lspci -D -vmmnn": recorded("lspci.txt"),
        "nvme list -o json": recorded("nvme-list.json"),
        "ethtool -i": "driver: i40e\nfirmware-version: 8.15 0x8000a4e8\n",
        "ipmitool lan print": recorded("ipmitool-lan.txt"),
        "ipmitool lan6 print": recorded("ipmitool-lan6.txt"),
        "modprobe": "",
    }
    found = agent.full_facts(agent.Tools(machine(server, outputs)), 12.5)
    found["lldp"] = agent.lldp_neighbours(recorded("lldpcli-two.json"))
    assert found["agent"] == {"version": agent.VERSION, "level": "full", "notes": []}
    read = fact_reader.read(json.dumps(found).encode())
    assert (read.vendor, read.serial, read.firmware_mode) == ("Supermicro", "B5QN42X", "uefi")
    assert read.memory_bytes == (32768 + 16384 + 1048576) << 20
    assert [(disk.name, disk.type, disk.serial) for disk in read.disks] == [
        ("/dev/nvme0n1", "nvme", "S64GNE0R"),
        ("/dev/sda", "ssd", "S45PNA0M"),
    ]
    assert (read.bmc_address, read.bmc_mac) == ("10.20.0.31", "ac:1f:6b:00:11:22")
    assert [gpu.product for gpu in read.gpus] == ["GA100 [A100 PCIe 40GB]"]
    assert [neighbour.switch for neighbour in read.nics[0].neighbours] == ["leaf-31"]


def test_tools_that_are_missing_are_notes(server: Path) -> None:
    found = agent.full_facts(agent.Tools(machine(server)), 0)
    notes = " | ".join(found["agent"]["notes"])
    for tool in ("dmidecode", "lshw", "lspci", "nvme", "ipmitool"):
        assert tool in notes
    assert len(found["inventory"]["disks"]) == 2


@pytest.mark.parametrize("rubbish", ["", "\0\xff", "{", "[1, 2]", '{"children": 7}', "Handle", "x: y\n\tSize: 1 GB\n"])
def test_no_odd_output_ends_the_agent(server: Path, rubbish: str) -> None:
    put(server, {"/dev/ipmi0": ""})
    tools = ("ip", "dmidecode", "lshw", "lspci", "nvme", "ethtool", "ipmitool", "systemd-detect-virt", "modprobe")
    found = agent.full_facts(agent.Tools(machine(server, dict.fromkeys(tools, rubbish))), 0)
    assert len(found["inventory"]["disks"]) == 2
    fact_reader.read(json.dumps(found).encode())


def test_an_empty_root_has_facts_as_well(tmp_path: Path) -> None:
    found = agent.basic_facts(machine(tmp_path), 1.0)
    assert found["inventory"]["disks"] == []
    assert found["inventory"]["boot"]["current_boot_mode"] == "bios"
    fact_reader.read(json.dumps(found).encode())


@pytest.mark.parametrize(
    ("vendor", "product", "wanted"),
    [
        ("QEMU", "Standard PC (Q35 + ICH9, 2009)", "kvm"),
        ("VMware, Inc.", "VMware7,1", "vmware"),
        ("Microsoft Corporation", "Virtual Machine", "hyperv"),
        ("Dell Inc.", "PowerEdge R650", ""),
    ],
)
def test_the_hypervisor_is_told_by_the_vendor(tmp_path: Path, vendor: str, product: str, wanted: str) -> None:
    put(tmp_path, {"/sys/class/dmi/id/sys_vendor": vendor, "/sys/class/dmi/id/product_name": product})
    found = agent.basic_facts(machine(tmp_path), 0)["inventory"]["virtualization"]
    assert found["hypervisor"] == wanted


def test_facts_that_are_too_large_lose_their_lists_of_devices(server: Path) -> None:
    found = agent.basic_facts(machine(server), 0)
    found["pci_devices"] = [{"bus": "x" * 1000}] * 2000
    small = agent.bounded(found)
    assert len(json.dumps(small)) < agent.FACTS_LIMIT
    assert small["pci_devices"] == []
    assert any("pci_devices" in note for note in small["agent"]["notes"])
    assert agent.bounded(small) == small


def test_listening_ends_when_every_link_has_heard_its_switch(server: Path) -> None:
    put(server, {"/sys/class/net/usb0/carrier": "0", "/sys/class/net/enp0s3/carrier": "0"})
    calls: list[str] = []
    tools = agent.Tools(machine(server, {"lldpcli": recorded("lldpcli-one.json")}, calls))
    assert set(agent.lldp_facts(tools, float("inf"))) == {"eno1"}
    assert calls.count("lldpcli show neighbors -f json") == 1


def test_without_lldpd_nobody_waits(server: Path) -> None:
    tools = agent.Tools(machine(server))
    assert agent.lldp_facts(tools, float("inf")) == {}
    assert tools.notes == ["lldpcli: not installed"]


def test_a_command_that_takes_too_long_is_ended_with_its_children() -> None:
    ran = agent.run_command(["sh", "-c", "echo begun; sleep 1000 & sleep 1000"], 0.3)
    assert (ran.code, ran.out) == (124, "begun\n")
    assert "no answer within" in ran.said
    assert agent.run_command(["no-such-tool-anywhere"], 1).code == 127
