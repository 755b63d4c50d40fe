"""A real lab of one BIOS and one UEFI machine: switched on and off through Redfish, and taken down without a trace."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import sushy
from sushy import auth

from orchestrator.lab import (
    Lab,
    LabError,
    LabNode,
    apt,
    bmc_of,
    boot_network,
    down,
    enter,
    machine_known_hosts,
    machine_of,
    room,
    status,
    up,
)
from orchestrator.lab.host import Cgroup, socket_inside
from orchestrator.lab.lldp import ETHERTYPE, GROUP, sender_inside
from orchestrator.lab.machine import Machine
from orchestrator.lab.network import BRIDGE_MAC
from orchestrator.lab.values import Places

SITE = f"labvmtest{os.environ.get('PYTEST_XDIST_WORKER', '')}"

NODES = (
    LabNode(name="b1", address="10.77.0.21", kind="vm", firmware="bios", memory_mib=128, disk_gib=1),
    LabNode(name="u1", address="10.77.0.22", kind="vm", memory_mib=256, disk_gib=1),
)

LIMIT_S = 120

# Boot sectors, as an operating system may behave: both say so on the serial line. The first resets the machine (port
# 0xcf9 of the chip set), the second switches it off (ACPI's PM1a control register, where SeaBIOS puts it).
SAY = bytes.fromhex("31c0 8ed8 fc baf803 be297c ac 84c0 7403 ee ebf8")  # bytes from TEXT on go to port 0x3f8
TEXT = 0x29
RESET = bytes.fromhex("baf90c b006 ee f4 ebfd")
POWER_OFF = bytes.fromhex("ba0406 b80020 ef f4 ebfd")

# A boot server, as far as the first packet: who asks?
LISTEN = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 67))
print("ready", flush=True)
while True:
    print(server.recv(2000)[28:34].hex(":"), flush=True)
"""


def reason_to_skip() -> str:
    """Why no lab with vms can be had here; empty if one can."""
    lab = Lab(site=SITE, cidr="10.77.0.0/24", gateway="10.77.0.1", nodes=NODES, state_dir=Path("/none"))
    try:
        room.require_machine(lab)
        apt.read_machine()
    except LabError as error:
        return f"{error.summary}. {error.hint}"
    except FileNotFoundError as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "-")


@dataclass(frozen=True)
class Rack:
    """The lab under test, and what it reported last."""

    lab: Lab
    lines: list[str] = field(default_factory=list)

    def up(self) -> list[str]:
        self.lines.clear()
        return [f"{node.name} {node.state}" for node in up(self.lab, self.lines.append)]

    def down(self) -> None:
        down(self.lab, self.lines.append)

    def states(self) -> dict[str, str]:
        return {node.name: node.state for node in status(self.lab)}

    def machine(self, name: str) -> Machine:
        return Machine(site=SITE, places=Places.of(self.lab), node=machine_of(self.lab, name))

    def pid(self, name: str) -> int:
        process = self.machine(name).process()
        return process.pid if process else 0

    def console(self, name: str) -> str:
        file = self.machine(name).console
        return file.read_text(errors="replace") if file.exists() else ""

    def system(self, name: str) -> sushy.resources.system.system.System:
        bmc = bmc_of(self.lab, name)
        root, _, path = bmc.address.partition("/redfish/")
        how = auth.BasicAuth(bmc.user, bmc.password_file.read_text())
        return sushy.Sushy(root, verify=str(bmc.ca), auth=how).get_system(f"/redfish/{path}")

    def reset(self, name: str, kind: str) -> None:
        self.system(name).reset_system(sushy.ResetType(kind))

    def boot_once(self, name: str, target: str) -> None:
        self.system(name).set_system_boot_options(
            target=sushy.BootSource(target), enabled=sushy.BOOT_SOURCE_ENABLED_ONCE
        )

    def install(self, name: str, code: bytes, text: str) -> None:
        """An operating system of one sector."""
        program = (SAY + code).ljust(TEXT, b"\x90") + text.encode() + b"\r\n\0"
        with self.machine(name).disk.open("r+b") as disk:
            disk.write(program.ljust(510, b"\0") + b"\x55\xaa")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            consoles = {name: self.console(name)[-600:] for name in ("b1", "u1")}
            assert time.monotonic() < deadline, f"{what} did not come within {LIMIT_S} s: {consoles}"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def rack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    """Two machines in a rack. Tests leave them off."""
    folder = tmp_path_factory.mktemp("labvm")
    before = os.environ.get("HALLIGAN_LAB_DIR")
    os.environ["HALLIGAN_LAB_DIR"] = str(folder / "disks")
    lab = Lab(site=SITE, cidr="10.77.0.0/24", gateway="10.77.0.1", nodes=NODES, state_dir=folder / "state")
    made = Rack(lab)
    made.down()  # what an earlier run that was killed may have left
    made.up()
    yield made
    made.down()
    os.environ.pop("HALLIGAN_LAB_DIR")
    if before is not None:
        os.environ["HALLIGAN_LAB_DIR"] = before


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_up_puts_machines_into_the_rack_and_switches_nothing_on(rack: Rack):
    """Also a second time; a disk is empty and takes no room."""
    assert rack.states() == {"b1": "off", "u1": "off"}
    assert rack.up() == ["b1 off", "u1 off"]
    assert rack.lines == ["b1: off", "u1: off"]
    assert rack.machine("u1").disk.stat().st_blocks == 0
    assert rack.system("u1").power_state == sushy.PowerState.OFF
    assert not any(Path(Places.of(rack.lab).cache).glob("base-*.part"))


def test_secrets_of_the_endpoint_are_private(rack: Rack):
    """Whoever has the password has the power."""
    bmc = bmc_of(rack.lab, "u1")
    assert stat.S_IMODE(bmc.password_file.stat().st_mode) == 0o600
    assert len(bmc.password_file.read_text().strip()) >= 20
    assert stat.S_IMODE(Places.of(rack.lab).bmc_key.stat().st_mode) == 0o600


def test_firmware_asks_the_labs_network_for_a_boot(rack: Rack):
    """Both kinds; a boot server in the lab hears them, and ends with the lab."""
    asks = {machine_of(rack.lab, name).mac for name in ("b1", "u1")}
    command = [*enter(rack.lab), "python3", "-c", LISTEN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        assert Cgroup(name=boot_network(rack.lab).cgroup).pids() == (server.pid,)
        for name in ("b1", "u1"):
            rack.reset(name, "On")
        assert rack.states() == {"b1": "on", "u1": "on"}
        heard: set[str] = set()
        while asks - heard:
            heard.add(server.stdout.readline().strip())
        Cgroup(name=boot_network(rack.lab).cgroup).kill()
    assert "Configuring (net0" in rack.console("b1")
    assert "Start PXE over IPv4" in rack.console("u1")
    assert "u1: switched on, boots from network first" in rack.console("u1")


def test_the_boot_servers_interface_has_the_addresses_that_were_promised(rack: Rack):
    """And a link address of its own: machines keep their gateway when another one loses its power."""
    where = boot_network(rack.lab)
    command = [*enter(rack.lab), "ip", "-br", "address", "show", "dev", where.interface]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert {f"{where.address}/24", where.address6} <= set(told)
    link = subprocess.run([*enter(rack.lab), "ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    assert BRIDGE_MAC in link


def test_machines_outlive_their_endpoint(rack: Rack):
    """It is a BMC: when it restarts, the server does not notice. Addresses stay."""
    before, address = (rack.pid("b1"), rack.pid("u1")), bmc_of(rack.lab, "u1").address
    (endpoint,) = Cgroup.of(SITE, "bmc").pids()
    os.kill(endpoint, signal.SIGKILL)
    rack.wait(lambda: not alive(endpoint), "the end of the endpoint")
    found = {node.name: node for node in status(rack.lab)}
    assert found["u1"].state == "on"
    assert "Redfish endpoint is not running" in found["u1"].detail
    assert rack.up() == ["b1 on", "u1 on"]
    assert (rack.pid("b1"), rack.pid("u1")) == before
    assert bmc_of(rack.lab, "u1").address == address
    assert rack.system("u1").power_state == sushy.PowerState.ON


def test_a_restart_keeps_the_machine_and_starts_the_firmware(rack: Rack):
    """After the endpoint's own restart it still listens to what QEMU tells."""
    before = rack.pid("u1")
    rack.reset("u1", "ForceRestart")
    rack.wait(lambda: "u1: reset" in rack.console("u1"), "the reset")
    assert rack.pid("u1") == before


def test_firmware_does_not_care_for_a_polite_shutdown_and_power_can_be_taken(rack: Rack):
    """As on hardware: only an operating system answers the button."""
    rack.reset("u1", "GracefulShutdown")
    assert rack.states()["u1"] == "on"
    pids = {name: rack.pid(name) for name in ("b1", "u1")}
    for name in pids:
        rack.reset(name, "ForceOff")
    assert rack.states() == {"b1": "off", "u1": "off"}
    assert [pid for pid in pids.values() if alive(pid)] == []
    links = subprocess.run([*enter(rack.lab), "ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in links.splitlines()} == {"lo", "lab0"}
    assert rack.system("u1").power_state == sushy.PowerState.OFF


@contextmanager
def ears(lab: Lab) -> Iterator[Callable[[], tuple[str, bytes]]]:
    """Gives the next frame on any interface in the lab's network, and its interface; both directions."""
    everything = 0x0003  # ETH_P_ALL: only these sockets are shown what is sent
    kind = (socket.AF_PACKET, socket.SOCK_RAW, socket.htons(everything))
    with socket_inside(boot_network(lab).netns, *kind) as listener:
        listener.settimeout(LIMIT_S)

        def hear() -> tuple[str, bytes]:
            frame, (interface, *_) = listener.recvfrom(2048)
            return interface, frame

        yield hear


def plugged(frame: bytes) -> str:
    """The port that an LLDP frame of ours names, the second TLV; empty if it is another frame."""
    if frame[:6] != GROUP or int.from_bytes(frame[12:14]) != ETHERTYPE:
        return ""
    at = 14 + 2 + frame[15]
    return frame[at + 3 : at + 2 + frame[at + 1]].decode()


def test_a_machine_with_power_hears_which_port_it_is_plugged_into(rack: Rack):
    """Each its own port only, until it is switched off; the other one still hears its own then."""
    taps = {name: rack.machine(name).tap for name in ("b1", "u1")}
    with ears(rack.lab) as hear:
        for name in taps:
            rack.reset(name, "On")
        heard: set[tuple[str, str]] = set()
        while len(heard) < 2:
            interface, frame = hear()
            heard |= {(interface, port)} if (port := plugged(frame)) else set()
        assert heard == {(taps["b1"], "port-b1"), (taps["u1"], "port-u1")}
        rack.reset("u1", "ForceOff")
    with ears(rack.lab) as hear:
        ports: list[str] = []
        while len(ports) < 3:
            interface, frame = hear()
            ports += [port] if (port := plugged(frame)) else []
        assert ports == ["port-b1"] * 3
        rack.reset("u1", "On")
        while plugged(hear()[1]) != "port-u1":
            pass
    for name in taps:
        rack.reset(name, "ForceOff")


def test_machines_do_not_hear_each_others_lldp(rack: Rack):
    """What a machine says to the switch stays there. A broadcast that is sent after it does arrive."""
    rack.reset("b1", "On")
    tap = rack.machine("b1").tap
    cable = "ip link add plug type veth peer name jack && ip link set jack master lab0 up && ip link set plug up"
    subprocess.run([*enter(rack.lab), "sh", "-c", cable], check=True)
    mark, test = b"of another machine", 0x88B5  # IEEE 802's ethertype for experiments
    with ears(rack.lab) as hear, sender_inside(boot_network(rack.lab).netns) as sender:
        source = bytes.fromhex("020000000001")
        for group, ethertype in ((GROUP, ETHERTYPE), (b"\xff" * 6, test)):
            frame = group + source + ethertype.to_bytes(2) + mark.ljust(46, b"\0")
            sender.sendto(frame, ("plug", ethertype))
        seen: list[tuple[str, int]] = []
        while (tap, test) not in seen:
            interface, frame = hear()
            seen += [(interface, int.from_bytes(frame[12:14]))] if mark in frame else []
    subprocess.run([*enter(rack.lab), "ip", "link", "del", "plug"], check=True)
    rack.reset("b1", "ForceOff")
    assert ("jack", ETHERTYPE) in seen
    assert (tap, ETHERTYPE) not in seen


def test_boot_once_is_once_also_when_the_machine_resets_itself(rack: Rack):
    """From the disk, then as ever from the network; nobody ever sees it off in between."""
    rack.install("b1", RESET, "hello from disk")
    before = len(rack.console("b1"))
    rack.boot_once("b1", "Hdd")
    assert rack.system("b1").boot.target == sushy.BootSource.HDD
    rack.reset("b1", "On")
    seen = set()

    def is_back() -> bool:
        seen.add(rack.system("b1").power_state)
        return "Configuring (net0" in rack.console("b1")[before:]

    rack.wait(is_back, "the boot from the network")
    told = rack.console("b1")[before:]
    assert told.count("hello from disk") == 1
    assert told.index("boots from disk first") < told.index("hello") < told.index("boots from network first")
    assert seen == {sushy.PowerState.ON}
    assert rack.system("b1").boot.enabled == sushy.BootSourceOverrideEnabled.DISABLED
    rack.reset("b1", "ForceOff")


def test_a_machine_that_switches_itself_off_is_off(rack: Rack):
    """Its disk stays."""
    rack.install("b1", POWER_OFF, "good night")
    rack.boot_once("b1", "Hdd")
    rack.reset("b1", "On")
    rack.wait(lambda: rack.states()["b1"] == "off", "the end")
    assert "good night" in rack.console("b1")
    assert "powers off (guest-shutdown)" in rack.console("b1")
    assert rack.system("b1").power_state == sushy.PowerState.OFF
    with rack.machine("b1").disk.open("rb") as disk:
        assert disk.read(512)[510:] == b"\x55\xaa"


def test_uefi_boots_over_http_when_asked_and_over_pxe_afterwards(rack: Rack):
    """OVMF keeps the order of its entries."""
    before = len(rack.console("u1"))
    rack.boot_once("u1", "UefiHttp")
    rack.reset("u1", "On")
    rack.wait(lambda: "Start HTTP Boot over IPv4" in rack.console("u1")[before:], "HTTP boot")
    assert "PXE" not in rack.console("u1")[before:]
    before = len(rack.console("u1"))
    rack.reset("u1", "PowerCycle")
    rack.wait(lambda: "Start PXE over IPv4" in rack.console("u1")[before:], "PXE")
    assert "HTTP" not in rack.console("u1")[before:]


def test_a_machine_that_is_no_longer_named_goes_and_the_others_stay(rack: Rack):
    """With its disk; host keys of installed machines are not the lab's to write."""
    known = machine_known_hosts(rack.lab)
    known.write_text("10.77.0.22 ssh-ed25519 AAAA\n")
    rack.reset("b1", "On")
    gone, kept = rack.pid("b1"), rack.pid("u1")
    fewer = Rack(replace(rack.lab, nodes=NODES[1:]))
    assert fewer.up() == ["u1 on"]
    assert fewer.lines == ["b1: removing, no longer part of the lab", "u1: on"]
    assert (alive(gone), fewer.pid("u1")) == (False, kept)
    assert not Places.of(rack.lab).disks.joinpath("b1").exists()
    with pytest.raises(sushy.exceptions.ResourceNotFoundError):
        rack.system("b1")
    assert known.read_text() == "10.77.0.22 ssh-ed25519 AAAA\n"


def test_down_leaves_nothing(rack: Rack):
    """Machines at work, an endpoint, and a boot server that somebody started."""
    with subprocess.Popen([*enter(rack.lab), "sleep", "600"]) as server:
        pids = Cgroup.of(SITE).pids()
        rack.wait(lambda: server.pid in Cgroup.of(SITE).pids(), "the server in its group")
        assert rack.pid("u1") in pids
        rack.down()
    assert [pid for pid in (*pids, server.pid) if alive(pid)] == []
    assert not Cgroup.of(SITE).path.exists()
    places = Places.of(rack.lab)
    assert [folder for folder in (places.run, places.disks, places.state) if folder.exists()] == []
    assert rack.states() == {"b1": "absent", "u1": "absent"}
