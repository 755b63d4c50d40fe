"""Names, addresses and places of a lab."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.lab import REQUIRED_COMMANDS, Lab, LabError, LabNode, connection, room
from orchestrator.lab.values import Places, check, check_places

LAB = Lab(
    site="demo",
    cidr="10.77.0.0/24",
    gateway="10.77.0.1",
    nodes=(LabNode(name="ctl-1", address="10.77.0.11"), LabNode(name="net-1", address="10.77.0.12")),
    state_dir=Path("/srv/site/.halligan"),
)


def with_node(name: str, address: str) -> Lab:
    return replace(LAB, nodes=(*LAB.nodes, LabNode(name=name, address=address)))


def test_a_plain_lab_is_accepted():
    """The example of the documentation."""
    check(LAB)


@pytest.mark.parametrize("site", ["", "Demo", "a_b", "-a", "a-", "..", "a/b", "a" * 33])
def test_a_site_name_is_a_safe_path_and_cgroup_name(site: str):
    """Names become folders that `down` deletes."""
    with pytest.raises(LabError, match="site name"):
        check(replace(LAB, site=site))


@pytest.mark.parametrize("name", ["", "Ctl", "ctl.example", "../x", ".x", "ctl-1", "x" * 64])
def test_a_node_name_is_a_host_name_used_once(name: str):
    """`ctl-1` is taken already."""
    with pytest.raises(LabError, match="node name"):
        check(with_node(name, "10.77.0.13"))


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.77.1.1", "not a host address of the lab's network"),
        ("10.77.0.0", "not a host address"),
        ("10.77.0.255", "not a host address"),
        ("10.77.0.1", "belongs to the gateway"),
        ("10.77.0.11", "belongs to ctl-1"),
        ("ten", "IPv4 address"),
        ("", "IPv4 address"),
    ],
)
def test_an_address_is_a_free_one_of_the_network(address: str, why: str):
    """The message names the owner."""
    with pytest.raises(LabError) as caught:
        check(with_node("kvm-1", address))
    assert why in str(caught.value)


@pytest.mark.parametrize("cidr", ["10.77.0.1/24", "fd00::/64", "10.77.0.0/33"])
def test_a_network_is_an_ipv4_network(cidr: str):
    """With host bits set it is probably a mistake."""
    with pytest.raises(LabError, match="network"):
        check(replace(LAB, cidr=cidr))


def test_places_follow_the_environment():
    """An empty variable counts as unset."""
    usual = Places.of(LAB, {"HALLIGAN_CACHE_DIR": ""})
    assert (usual.disks, usual.cache) == (Path("/var/lib/halligan/lab/demo"), Path("/var/cache/halligan"))
    moved = Places.of(LAB, {"HALLIGAN_LAB_DIR": "/srv/lab", "HALLIGAN_CACHE_DIR": "/srv/cache"})
    assert (moved.disks, moved.cache) == (Path("/srv/lab/demo"), Path("/srv/cache"))


@pytest.mark.parametrize("folder", ["/run/lab", "/srv/a:b", "/srv/a,b", "/srv/a b"])
def test_places_that_an_overlay_cannot_use_are_refused(folder: str):
    """Its mount options know no quoting, and a container covers /run."""
    with pytest.raises(LabError, match="folder"):
        check_places(Places.of(LAB, {"HALLIGAN_LAB_DIR": folder}))


def test_nodes_cannot_take_the_file_names_of_the_lab_itself():
    """A node may be called proxy."""
    places = Places.of(LAB, {})
    assert places.record("proxy") != places.run / "proxy.pid"


def test_the_connection_needs_no_running_lab():
    """It is computed, so that an inventory can be written before `up`."""
    found = connection(LAB)
    assert found.private_key == Path("/srv/site/.halligan/id_ed25519")
    assert found.known_hosts == Path("/srv/site/.halligan/known_hosts")
    assert found.proxy_command == "/bin/sh /run/halligan-lab/demo/connect %h %p"


def test_all_missing_commands_are_named_at_once(monkeypatch: pytest.MonkeyPatch):
    """With the one line to type."""
    monkeypatch.setattr(room.os, "geteuid", lambda: 0)
    monkeypatch.setattr(room.shutil, "which", lambda name: None if name in ("mmdebstrap", "nc") else name)
    with pytest.raises(LabError) as caught:
        room.require_machine()
    assert "mmdebstrap, nc" in caught.value.summary
    assert caught.value.hint == "apt-get install --no-install-recommends mmdebstrap netcat-openbsd"


def test_somebody_else_than_root_is_told_so(monkeypatch: pytest.MonkeyPatch):
    """Before anything is tried."""
    monkeypatch.setattr(room.os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="needs root"):
        room.require_machine()


def test_every_required_command_names_a_package():
    """The Makefile installs them from here."""
    assert all(REQUIRED_COMMANDS.values())
