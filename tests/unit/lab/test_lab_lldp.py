"""What the lab's switch says of a port: byte by byte as IEEE 802.1AB has it, and as who reads it understands it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from orchestrator.facts.lldp import neighbour
from orchestrator.facts.values import Neighbour
from orchestrator.lab import Lab, LabNode, machine_of
from orchestrator.lab.lldp import Port, round_of
from orchestrator.lab.machine import Machine
from orchestrator.lab.redfish import lldp_port
from orchestrator.lab.values import Places

PORT = Port(switch="lab-demo", mac="02:00:00:6c:61:62", address="10.77.0.1", name="port-u1", description="vm0")


def tlvs(frame: bytes) -> list[tuple[int, bytes]]:
    """The TLVs after the Ethernet header, to the last byte of the frame."""
    found, at = [], 14
    while at < len(frame):
        head = int.from_bytes(frame[at : at + 2])
        length = head & 0x1FF
        value = frame[at + 2 : at + 2 + length]
        assert len(value) == length
        found.append((head >> 9, value))
        at += 2 + length
    return found


def test_a_frame_is_as_the_standard_has_it():
    """Written by hand from clauses 7 (addressing) and 8 (TLVs)."""
    expected = [
        "0180c200000e 0200006c6162 88cc",  # nearest bridge, switch, LLDP
        "0207 04 0200006c6162",  # chassis: MAC address
        "0408 05 706f72742d7531",  # port: interface name port-u1
        "0602 0079",  # holds for 121 s
        "0803 766d30",  # vm0
        "0a08 6c61622d64656d6f",  # lab-demo
        "0c0c 48616c6c6967616e206c6162",  # Halligan lab
        "0e04 0004 0004",  # can be a bridge, is a bridge
        "100c 05 01 0a4d0001 01 00000000 00",  # 10.77.0.1; no interface number, no object identifier
        "0000",
    ]
    assert PORT.frame().hex() == bytes.fromhex("".join(expected)).hex()


def test_who_reads_it_understands_it():
    """The decoder of raw LLDP that discovery's facts go through; mandatory TLVs are first and in order (8.2)."""
    read = tlvs(PORT.frame())
    assert [kind for kind, _ in read[:3]] == [1, 2, 3]
    assert read[-1] == (0, b"")
    assert neighbour(read) == Neighbour(
        system_name="lab-demo",
        chassis_id="02:00:00:6c:61:62",
        port_id="port-u1",
        port_description="vm0",
        management_address="10.77.0.1",
    )


def test_the_longest_names_fit():
    """63 characters of a node, 32 of a site: more than a byte's worth of frame, and no short frame to be padded."""
    long = Port(switch=f"lab-{'s' * 32}", mac=PORT.mac, address="10.77.0.1", name=f"port-{'n' * 63}", description="vm0")
    read = neighbour(tlvs(long.frame()))
    assert read is not None
    assert (read.system_name, read.port_id) == (long.switch, long.name)
    assert 60 <= len(PORT.frame()) < len(long.frame()) <= 1514


def test_each_machine_has_a_port_of_its_own():
    """Named after the node; its description is the interface that tcpdump shows its frames on."""
    nodes = tuple(LabNode(name=name, address=f"10.77.0.{at}", kind="vm") for at, name in enumerate(("u1", "b1"), 21))
    lab = Lab(site="demo", cidr="10.77.0.0/24", gateway="10.77.0.1", nodes=nodes, state_dir=Path("/none"))
    machines = [Machine(site="demo", places=Places.of(lab, {}), node=machine_of(lab, node.name)) for node in nodes]
    ports = [lldp_port(machine, lab.gateway) for machine in machines]
    assert [port.name for port in ports] == ["port-u1", "port-b1"]
    assert [port.description for port in ports] == [machine.tap for machine in machines]
    assert {(port.switch, port.address) for port in ports} == {("lab-demo", "10.77.0.1")}


class Wire:
    """A packet socket on which some interfaces answer with an error."""

    def __init__(self, **broken: int) -> None:
        self.sent: list[tuple[str, int, bytes]] = []
        self._broken = broken

    def sendto(self, data: bytes, flags: int, address: tuple[str, int], /) -> int:
        interface, ethertype = address
        if interface in self._broken:
            raise OSError(self._broken[interface], "as the kernel says")
        self.sent.append((interface, ethertype, data))
        return len(data)


@pytest.mark.parametrize("code", [errno.ENODEV, errno.ENXIO, errno.ENETDOWN, errno.ENOBUFS, errno.EAGAIN])
def test_a_machine_without_power_or_ears_does_not_silence_the_others(code):
    wire = Wire(vm1=code)
    round_of(wire, {"vm1": b"one", "vm2": b"two"})
    assert wire.sent == [("vm2", 0x88CC, b"two")]


def test_any_other_trouble_is_told():
    with pytest.raises(PermissionError):
        round_of(Wire(vm1=errno.EPERM), {"vm1": b"one"})
