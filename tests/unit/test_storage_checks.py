"""The checks of the roles that store objects and volumes: what a site gets wrong is refused before anything runs."""

from __future__ import annotations

from functools import cache

import pytest

from orchestrator import catalog, files, spec, topology
from orchestrator.errors import ProblemsError
from orchestrator.spec import SiteFiles, SourceFile

SITE = """\
spec: 1
groups:
  all:
    roles: [base, names]
  controller:
    roles: [mariadb, rabbitmq, memcached, keystone, glance, cinder_api, cinder_scheduler, swift_rings{api}]
    vars:
      swift_rings_devices: [{devices}]
      {controller}
  storage:
    roles: [{storage}]
    vars: {{cinder_volume_nfs_shares: ["st-1:/srv"]}}
nodes:
  ctl-1: {{groups: [controller], address: 10.1.0.11}}
  st-1: {{groups: [storage], address: 10.1.0.21}}
"""
DEVICE = "{{address: 10.1.0.{host}, device: {name}}}"
THREE = ", ".join(DEVICE.format(host=21, name=f"d{number}") for number in range(3))


@cache
def roles():
    return catalog.read(files.read_roles([files.HOME / "roles"]))


def refused(*, devices=THREE, controller="", storage="swift_storage", api=", swift_proxy"):
    """Return what the checks of roles say; the site lacks its secrets in any case."""
    text = SITE.format(devices=devices, controller=controller, storage=storage, api=api)
    source = SourceFile(path="cluster.yml", shown="cluster.yml", text=text.encode())
    found = spec.read(SiteFiles(site="cloud", folder="/s", cluster=source), None)
    with pytest.raises(ProblemsError) as caught:
        topology.resolve(found, roles())
    return [p.summary for p in caught.value.problems if p.code == "topology.check"]


@pytest.mark.parametrize(
    "sound", [{}, {"controller": "glance_store: swift"}, {"storage": "swift_storage, cinder_volume_nfs"}]
)
def test_lets_a_sound_site_pass(sound):
    """What is right is not complained about."""
    assert refused(**sound) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"devices": DEVICE.format(host=21, name="d1")}, "1 devices cannot hold 3 copies"),
        ({"devices": f"{THREE}, {DEVICE.format(host=22, name='d1')}"}, "no storage server has the address 10.1.0.22"),
        ({"controller": "swift_rings_part_power: 20"}, "a part power of 20 is outside 2 to 16"),
        ({"controller": "glance_store: swift", "api": ""}, "images shall be kept in Swift, and no node has it"),
        (
            {"storage": "swift_storage, cinder_volume_nfs, cinder_volume_lvm"},
            "two volume services cannot share st-1: they have the backends lvm, nfs",
        ),
    ],
)
def test_refuses_what_cannot_work(wrong, message):
    """Each mistake is named."""
    assert any(message in one for one in refused(**wrong))


def test_refuses_a_storage_server_without_devices():
    """Its address is not in the rings, and the device's address has no server."""
    here, there = refused(devices=THREE.replace("10.1.0.21", "10.1.0.22"))
    assert here.endswith("no storage server has the address 10.1.0.22")
    assert there.endswith("the rings have no device with the address 10.1.0.21")
