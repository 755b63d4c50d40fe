"""Links of a host: what is written, and what is refused before the first change."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from plugins.modules.host_network import NetworkError, change_of, check, render

GUARD = Path(__file__).parents[3] / "roles/network_host/files/network-guard"
PRESENT = ["lo", "eno1", "eno2", "eno3"]


def link(name: str, **values: Any) -> dict[str, Any]:
    return {
        "name": name,
        "type": "nic",
        "members": [],
        "mode": "active-backup",
        "addresses": [],
        "dhcp": False,
        "routes": [],
        **values,
    }


BOND = link("bond0", type="bond", members=["eno1", "eno2"], mode="802.3ad", mtu=9000)
VLAN = link("bond0.20", type="vlan", link="bond0", id=20, addresses=["10.0.20.5/24"], gateway="10.0.20.1")
BRIDGE = link("br-ex", type="bridge", members=["eno3"])


def test_a_bond_with_a_vlan_on_it() -> None:
    files = render([BOND, VLAN])
    assert sorted(files) == [
        "05-halligan-bond0.20.netdev",
        "05-halligan-bond0.20.network",
        "05-halligan-bond0.netdev",
        "05-halligan-bond0.network",
        "05-halligan-eno1.network",
        "05-halligan-eno2.network",
    ]
    assert "[Bond]\nMode=802.3ad" in files["05-halligan-bond0.netdev"]
    assert "VLAN=bond0.20" in files["05-halligan-bond0.network"]
    assert "Bond=bond0" in files["05-halligan-eno1.network"]
    assert "[VLAN]\nId=20" in files["05-halligan-bond0.20.netdev"]
    assert "Address=10.0.20.5/24\nGateway=10.0.20.1" in files["05-halligan-bond0.20.network"]


def test_a_bridge_with_its_port() -> None:
    files = render([link("eno3", mtu=9000), BRIDGE])
    assert "Bridge=br-ex" in files["05-halligan-eno3.network"]
    assert "MTUBytes=9000" in files["05-halligan-eno3.network"]
    assert "Kind=bridge" in files["05-halligan-br-ex.netdev"]


def test_routes_and_dhcp() -> None:
    files = render([link("eno1", dhcp=True, routes=[{"to": "10.9.0.0/16", "via": "10.0.0.9"}])])
    assert "DHCP=yes" in files["05-halligan-eno1.network"]
    assert "[Route]\nDestination=10.9.0.0/16\nGateway=10.0.0.9" in files["05-halligan-eno1.network"]


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ([link("eno9")], "eno9 needs eno9, and this host has only eno1, eno2, eno3"),
        ([{**BOND, "members": ["eno1", "eno7"]}], "bond0 needs eno7"),
        ([VLAN], "needs bond0"),
        ([BOND, {**BRIDGE, "members": ["eno1"]}], "eno1 is in bond0 and cannot be in br-ex as well"),
        ([link("eno3", addresses=["10.0.0.5/24"]), BRIDGE], "eno3 is in br-ex, which has to carry its address"),
        ([link("eno1"), link("eno1")], "stands there twice"),
        ([link("a-name-that-is-too-long", type="bridge")], "no name for a link"),
        ([link("eno1", addresses=["10.0.0.5"])], "lacks its prefix"),
        ([link("eno1", addresses=["10.0.0.500/24"])], "is no address"),
        ([{**BOND, "mode": "lacp"}], "needs members and a mode"),
        ([BOND, {**VLAN, "id": 5000}], "an id from 1 to 4094"),
        ([link("eno1", members=["eno2"])], "no bond or bridge"),
    ],
)
def test_what_cannot_be_is_refused(links: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        check(links, PRESENT, "", "")


def test_the_way_to_the_controller_is_kept() -> None:
    with pytest.raises(NetworkError, match=r"eno1 has 10\.0\.0\.5, by which the controller comes"):
        check([BOND], PRESENT, "10.0.0.5", "eno1")
    check([{**BOND, "addresses": ["10.0.0.5/24"]}], PRESENT, "10.0.0.5", "eno1")
    check([BRIDGE], PRESENT, "10.0.0.5", "eno1")


def test_links_that_change_their_kind_are_made_anew_and_new_ones_go_back() -> None:
    old, new = render([BRIDGE]), render([BOND, {**BRIDGE, "mtu": 9000}])
    change = change_of(old, new, {"eno1": 1500, "eno3": 1500, "lo": 65536})
    assert change["delete"] == ["br-ex"]
    assert change["made"] == ["bond0", "br-ex"]
    assert change["touched"] == ["bond0", "br-ex", "eno1", "eno2"]
    assert change["mtu"] == {"eno1": 1500}


def test_the_guard_puts_files_and_takes_its_own_away(tmp_path: Path) -> None:
    loader = importlib.machinery.SourceFileLoader("network_guard", str(GUARD))
    spec = importlib.util.spec_from_loader("network_guard", loader)
    assert spec
    guard = importlib.util.module_from_spec(spec)
    loader.exec_module(guard)
    units, files = tmp_path / "units", tmp_path / "new"
    units.mkdir()
    files.mkdir()
    (units / "05-halligan-old.network").write_text("old")
    (units / "10-other.network").write_text("other")
    (files / "05-halligan-new.network").write_text("new")
    guard.put(files, units)
    assert {path.name: path.read_text() for path in units.iterdir()} == {
        "05-halligan-new.network": "new",
        "10-other.network": "other",
    }
