"""What is missing of a bridge of Open vSwitch."""

from __future__ import annotations

import pytest

from plugins.modules.ovs_bridge import steps


class FakeSwitch:
    """What ovs-vsctl tells of bridges: name to datapath and ports."""

    def __init__(self, **bridges: tuple[str, list[str]]) -> None:
        self.bridges = {name.replace("_", "-"): told for name, told in bridges.items()}

    def __call__(self, *words: str) -> tuple[int, str]:
        match words:
            case ("br-exists", name):
                return (0 if name in self.bridges else 2), ""
            case ("get", "bridge", name, "datapath_type"):
                return 0, f"{self.bridges[name][0]}\n"
            case ("list-ports", name):
                return 0, "".join(f"{port}\n" for port in self.bridges[name][1])
        raise AssertionError(words)


def test_a_bridge_that_is_missing_is_made_with_its_datapath_at_once_and_gets_its_port() -> None:
    assert steps(FakeSwitch(), "br-data", "eth1", "netdev") == [
        ("added br-data", ["add-br", "br-data", "--", "set", "bridge", "br-data", "datapath_type=netdev"]),
        ("added port eth1", ["add-port", "br-data", "eth1"]),
    ]


def test_a_bridge_as_it_shall_be_is_left_alone() -> None:
    assert steps(FakeSwitch(br_data=("netdev", ["phy-br-data", "eth1"])), "br-data", "eth1", "netdev") == []


@pytest.mark.parametrize("told", ['""', "system", '"system"'])
def test_nothing_and_system_both_mean_the_datapath_of_the_kernel(told: str) -> None:
    assert steps(FakeSwitch(br_ex=(told, [])), "br-ex", "", "system") == []


def test_the_datapath_of_a_bridge_is_changed_in_place() -> None:
    did = steps(FakeSwitch(br_ex=('""', ["eth1"])), "br-ex", "eth1", "netdev")
    assert did == [("set the datapath of br-ex", ["set", "bridge", "br-ex", "datapath_type=netdev"])]


def test_a_port_is_added_beside_those_of_the_agents() -> None:
    switch = FakeSwitch(br_ex=("netdev", ["phy-br-ex", "eth10"]))
    assert steps(switch, "br-ex", "eth1", "netdev") == [("added port eth1", ["add-port", "br-ex", "eth1"])]


def test_a_bridge_without_a_wire_keeps_the_ports_it_has() -> None:
    assert steps(FakeSwitch(br_ex=("netdev", ["eth1"])), "br-ex", "", "netdev") == []
