"""A vm's values, its command line, and how a boot override is used up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.lab import (
    Lab,
    LabBmc,
    LabError,
    LabNode,
    bmc_of,
    boot_network,
    enter,
    machine_known_hosts,
    machine_of,
    package_access,
    required_commands,
    room,
)
from orchestrator.lab import machine as machine_module
from orchestrator.lab.machine import Machine
from orchestrator.lab.power import Override
from orchestrator.lab.values import Places, check

VM = LabNode(name="kvm-1", address="10.77.0.21", kind="vm")
LAB = Lab(site="demo", cidr="10.77.0.0/24", gateway="10.77.0.1", nodes=(VM,), state_dir=Path("/srv/site/.halligan"))


def lab_with(*nodes: LabNode) -> Lab:
    return replace(LAB, nodes=nodes)


def words(node: LabNode, boot: str = "network") -> list[str]:
    lab = lab_with(node)
    made = Machine(site=lab.site, places=Places.of(lab, {}), node=machine_of(lab, node.name))
    return [str(word) for word in made.command(boot, Path("/run/tap-up"))]


def option(found: list[str], start: str) -> str:
    (one,) = (word for word in found if word.startswith(start))
    return one


def test_identity_is_derived_from_the_names_and_stays():
    """Another lab's machine of the same name is another machine."""
    first, again = machine_of(LAB, "kvm-1"), machine_of(replace(LAB, cidr="10.78.0.0/24"), "kvm-1")
    other = machine_of(replace(LAB, site="other"), "kvm-1")
    assert (first.mac, first.serial, first.uuid) == (again.mac, again.serial, again.uuid)
    assert {first.mac, first.serial, first.uuid}.isdisjoint({other.mac, other.serial, other.uuid})
    assert first.mac.startswith("52:54:00:")
    assert first.serial == "LAB-demo-kvm-1"


def test_what_is_given_is_kept():
    """A spec that matches on a serial number must get it."""
    given = replace(VM, mac="52:54:00:00:00:01", serial="S1", uuid="00000000-0000-4000-8000-000000000001")
    assert machine_of(lab_with(given), "kvm-1") == given


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"kind": "jail"}, "kind 'jail'"),
        ({"firmware": "openboot"}, "firmware"),
        ({"mac": "52:54:00:AA:00:01"}, "MAC"),
        ({"mac": "01:00:5e:00:00:01"}, "MAC"),
        ({"serial": "a,b"}, "serial number"),
        ({"uuid": "42"}, "UUID"),
        ({"uuid": "0982F7F4-4027-58A7-9299-CB0D02EDD237"}, "UUID"),
        ({"memory_mib": 8}, "memory_mib 8"),
        ({"disk_gib": 0}, "disk_gib 0"),
        ({"cpus": 0}, "cpus 0"),
    ],
)
def test_hardware_that_cannot_be_made_is_refused(change: dict[str, object], why: str):
    """Before QEMU would say so, less clearly."""
    with pytest.raises(LabError, match=why):
        check(lab_with(replace(VM, **change)))  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["mac", "uuid", "serial"])
def test_two_machines_are_never_one(what: str):
    """Discovery could not tell them apart."""
    first = machine_of(LAB, "kvm-1")
    second = replace(VM, name="kvm-2", address="10.77.0.22", **{what: getattr(first, what)})
    with pytest.raises(LabError, match="belongs to kvm-1"):
        check(lab_with(VM, second))


def test_a_container_is_no_machine():
    """It has no power to control."""
    with pytest.raises(LabError, match="no vm of that name"):
        bmc_of(lab_with(LabNode(name="ctl-1", address="10.77.0.11")), "ctl-1")


def test_a_uefi_machine_boots_the_network_with_ovmf_itself():
    """No iPXE in its NIC: the loader comes by TFTP, as on hardware."""
    found = words(VM)
    assert option(found, "virtio-net-pci").endswith("bootindex=1,romfile=")
    assert option(found, "virtio-blk-pci").endswith("bootindex=2")
    assert option(found, "if=pflash,unit=1").endswith("/demo/kvm-1/vars.fd")
    assert "name=opt/org.tianocore/IPv4PXESupport,string=no" not in found
    assert "q35,accel=tcg,graphics=off" in found


def test_a_bios_machine_has_the_rom_of_its_nic():
    """QEMU gives the ROM the NIC's ids only if it is not named."""
    found = words(replace(VM, firmware="bios"))
    assert "romfile" not in " ".join(found)
    assert "pflash" not in " ".join(found)


def test_the_disk_can_come_first():
    """And the network second, so that an empty disk still leads to discovery."""
    found = words(VM, "disk")
    assert "bootindex=2" in option(found, "virtio-net-pci")
    assert option(found, "virtio-blk-pci").endswith("bootindex=1")


def test_http_boot_turns_pxe_off_and_keeps_its_own_settings():
    """OVMF would otherwise put PXE behind HTTP from then on."""
    found = words(VM, "http")
    assert "name=opt/org.tianocore/IPv4PXESupport,string=no" in found
    assert option(found, "if=pflash,unit=1").endswith("/vars-http.fd")


def test_the_machine_shows_who_it_is():
    """As SMBIOS tells firmware, iPXE and discovery."""
    found = words(replace(VM, memory_mib=2048, cpus=3))
    node = machine_of(LAB, "kvm-1")
    assert (
        option(found, "type=1")
        == f"type=1,manufacturer=Halligan,product=lab machine,serial=LAB-demo-kvm-1,uuid={node.uuid}"
    )
    assert f"mac={node.mac}," in option(found, "virtio-net-pci")
    assert found[found.index("-m") + 1] == "2048"
    assert found[found.index("-smp") + 1] == "3"


def test_paths_of_sockets_and_names_of_taps_fit_the_kernel():
    """108 bytes with the zero at the end, and 15 characters."""
    node = replace(VM, name="n" * 63)
    lab = replace(lab_with(node), site="s" * 32)
    made = Machine(site=lab.site, places=Places.of(lab, {}), node=machine_of(lab, node.name))
    check(lab)
    assert max(len(str(made.monitor)), len(str(made.events))) < 108
    assert len(made.tap) <= 15
    assert len(made.disk_serial) <= 20


def test_a_new_disk_is_empty_takes_no_room_and_grows(tmp_path: Path):
    """It is never cut: data may be there."""
    places = replace(Places.of(LAB, {}), disks=tmp_path)
    made = Machine(site="demo", places=places, node=machine_of(LAB, "kvm-1"))
    assert not made.exists()
    made.make()
    assert made.exists()
    assert made.disk.stat().st_size == 8 << 30
    assert made.disk.stat().st_blocks == 0
    bigger = replace(made, node=replace(made.node, disk_gib=9))
    assert (bigger.grow(), bigger.grow(), made.grow()) == (True, False, False)
    assert made.disk.stat().st_size == 9 << 30


def test_a_machine_that_takes_no_orders_is_told_with_a_way_out(tmp_path: Path):
    """Its monitor is not there."""
    made = Machine(site="demo", places=replace(Places.of(LAB, {}), run=tmp_path), node=machine_of(LAB, "kvm-1"))
    with pytest.raises(LabError, match="did not take system_reset") as caught:
        made.order("system_reset")
    assert "ForceOff" in caught.value.hint


def test_an_override_holds_once_or_always():
    """Disabled means the machine's own order, whatever the target says."""
    once = Override(target="Hdd", enabled="Once")
    assert (once.boot(), once.used().boot()) == ("disk", "network")
    always = replace(once, enabled="Continuous")
    assert (always.boot(), always.used()) == ("disk", always)
    assert Override(target="Hdd", enabled="Disabled").boot() == "network"


def test_the_address_of_a_bmc_is_known_before_up():
    """A plan can name it; the port is the one that `up` tries first."""
    found = bmc_of(LAB, "kvm-1")
    port = int(found.address.split(":")[2].partition("/")[0])
    assert found == LabBmc(
        address=f"https://127.0.0.1:{port}/redfish/v1/Systems/kvm-1",
        ca=Path("/srv/site/.halligan/bmc-ca.pem"),
        user="lab",
        password_file=Path("/srv/site/.halligan/bmc-password"),
    )
    assert 20000 <= port < 30000


def test_a_boot_server_is_told_where_to_listen():
    """On the gateway's address, in the lab's network; there must be one to enter it."""
    found = boot_network(LAB)
    assert (found.address, found.interface, found.cidr) == ("10.77.0.1", "lab0", "10.77.0.0/24")
    assert (found.netns, found.cgroup) == (Path("/run/halligan-lab/demo/netns"), "halligan-lab/demo/boot")
    with pytest.raises(LabError, match="no network yet"):
        enter(LAB)


def test_host_keys_of_machines_are_kept_apart():
    """`up` writes the containers' file anew each time."""
    assert machine_known_hosts(LAB) == Path("/srv/site/.halligan/machines_known_hosts")


def test_an_installed_machine_gets_the_labs_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The files that containers have, under absolute paths; what an image brought is silenced."""
    file = tmp_path / "lab.sources"
    file.write_text("Types: deb\nURIs: https://mirror.example/debian\nSuites: bookworm\nComponents: main\n")
    monkeypatch.setenv("HALLIGAN_APT_SOURCES", str(file))
    monkeypatch.setattr(room.apt, "machine_settings", dict)
    found = package_access(LAB)
    assert "URIs: http://mirror.example/debian\n" in found["/etc/apt/sources.list.d/debian.sources"]
    assert 'Acquire::http::Proxy "http://10.77.0.1:3142";\n' in found["/etc/apt/apt.conf.d/90halligan-lab"]
    assert found["/etc/apt/sources.list"].startswith("#")


def test_only_labs_with_vms_need_an_emulator(monkeypatch: pytest.MonkeyPatch):
    """And only the firmware that they use."""
    container = lab_with(LabNode(name="ctl-1", address="10.77.0.11"))
    assert "qemu-system-x86_64" in required_commands(LAB)
    assert "qemu-system-x86_64" not in required_commands(container)
    monkeypatch.setattr(room.os, "geteuid", lambda: 0)
    monkeypatch.setattr(room.shutil, "which", lambda name: None if name.startswith("qemu") else name)
    monkeypatch.setattr(machine_module, "FILES", {"uefi": {Path("/none/OVMF.fd"): "ovmf"}, "bios": {}})
    monkeypatch.setattr(room, "TUN", Path("/"))
    room.require_machine(container)
    with pytest.raises(LabError) as caught:
        room.require_machine(LAB)
    assert "/none/OVMF.fd, qemu-system-x86_64" in caught.value.summary
    assert caught.value.hint.endswith("--no-install-recommends ovmf qemu-system-x86")


def test_a_machine_without_tun_is_told(monkeypatch: pytest.MonkeyPatch):
    """QEMU's own message would name a file descriptor."""
    monkeypatch.setattr(room.os, "geteuid", lambda: 0)
    monkeypatch.setattr(room.shutil, "which", lambda name: name)
    monkeypatch.setattr(room, "TUN", Path("/none/tun"))
    with pytest.raises(LabError, match="/none/tun"):
        room.require_machine(LAB)
