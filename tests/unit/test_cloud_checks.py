"""The checks of our own roles: what a cloud's site gets wrong is refused before anything runs, where it is."""

from __future__ import annotations

from functools import cache

import pytest

from orchestrator import catalog, files, spec, topology
from orchestrator.errors import ProblemsError
from orchestrator.spec import SiteFiles, SourceFile

SITE = """\
spec: 1
networks:
  mgmt: {{cidr: 10.1.0.0/24}}
groups:
  all:
    roles: [base, names]
  controller:
    roles: [mariadb, rabbitmq, memcached, keystone, glance, placement, nova_api, nova_cell, nova_discover,
            nova_scheduler, nova_conductor, nova_novncproxy, neutron_server, heat, images_linux,
            smoke, cinder_api, cinder_scheduler]
    vars: {{{controller}}}
  compute:
    roles: [nova_compute_kvm, neutron_ovs_agent]
    vars: {{{compute}}}
nodes:
  ctl-1: {{groups: [controller], address: 10.1.0.11}}
  cmp-[1:2]: {{groups: [compute], address: 10.1.0.21}}
{more}
"""


@cache
def roles():
    return catalog.read(files.read_roles([files.HOME / "roles"]))


def problems(controller="", compute="", more="", **known):
    """Return everything that is wrong with a small cloud; it lacks its secrets in any case."""
    text = SITE.format(controller=controller, compute=compute, more=more)
    source = SourceFile(path="cluster.yml", shown="cluster.yml", text=text.encode())
    found = spec.read(SiteFiles(site="cloud", folder="/s", cluster=source), None)
    with pytest.raises(ProblemsError) as caught:
        topology.resolve(found, roles(), **known)
    return caught.value.problems


def refused(*args, **more):
    """Return what the checks of roles say, as (place, message)."""
    found = problems(*args, **more)
    assert {p.code for p in found} <= {
        "topology.check",
        "topology.missing-secret",
        "topology.missing-input",
        "topology.cardinality",
    }
    return [(str(p.where), p.summary) for p in found if p.code == "topology.check"]


def test_a_sound_cloud_is_not_refused():
    assert refused() == []


@pytest.mark.parametrize(
    ("controller", "compute", "place", "words"),
    [
        ('neutron_server_vlan_ranges: ["p:100:199", "p:150:300"]', "", "11:12", "overlap: p:100:199 and p:150:300"),
        ('neutron_server_vlan_ranges: ["p:100-199"]', "", "11:12", "not a physical network with VLANs: p:100-199"),
        ("neutron_server_tenant_network_types: [vlan]", "", "11:12", "none are set aside"),
        ("neutron_server_tenant_network_types: [geneve]", "", "11:12", "cannot get networks of type geneve"),
        ("neutron_server_vni_range: 1-99", "", "11:12", "1-99 is not a range"),
        ("neutron_server_mechanism_drivers: [linuxbridge]", "", "12:3", "the networking service has only linuxbridge"),
        ("", "neutron_ovs_agent_tunnel_types: []", "14:12", "cmp-[1:2]: no tunnels for what projects get, vxlan"),
        ("", "neutron_ovs_agent_local_ip: 10.2.0.1", "14:12", "10.2.0.1 is in no network of the site"),
        ("", "nova_compute_kvm_vnc_address: 10.2.0.1", "14:12", "10.2.0.1 is in no network of the site"),
        ("nova_api_metadata_port: 8774", "", "11:12", "cannot both have port 8774"),
        ("smoke_external_cidr: 203.0.113.1/24", "", "11:12", "203.0.113.1/24 is no network"),
        ("smoke_external_cidr: 203.0.113.0/24, smoke_external_gateway: 203.0.114.1", "", "11:49", "not in the network"),
        (
            "smoke_external_cidr: 203.0.113.0/24, smoke_external_pools: [{start: 203.0.113.9, end: 203.0.114.1}]",
            "",
            "11:49",
            "a pool of floating addresses leaves the network 203.0.113.0/24",
        ),
        ("heat_cfn_port: 8004", "", "11:12", "cannot both have port 8004"),
        ("images_linux_images: [{name: a, disk_format: vhdx}]", "", "11:12", "only Hyper-V runs vhd and vhdx"),
        ("images_linux_images: [{name: a}, {name: b}, {name: a}]", "", "11:12", "the same name twice: a"),
        ("nova_cell_name: cell0", "", "11:12", "cell0 is Nova's own"),
    ],
)
def test_a_mistake_is_refused_where_it_is_made(controller, compute, place, words):
    ((where, summary),) = refused(controller, compute)
    assert where == f"cluster.yml:{place}"
    assert words in summary


def test_one_identity_and_one_region():
    more = "  ctl-2: {roles: [keystone], address: 10.1.0.12, vars: {keystone_region: two}}"
    said = dict(refused(more=more))
    column = more.index("keystone_region") + 1
    assert "on ctl-2: the site has one region, not regionOne, two" in said[f"cluster.yml:18:{column}"]
    several = "several addresses of the one identity service: http://10.1.0.11:5000/v3, http://10.1.0.12:5000/v3"
    assert any(several in summary for summary in said.values())
    proxied = refused(
        "keystone_advertised_address: 10.1.0.10",
        more=more.replace("two}", "regionOne, keystone_advertised_address: 10.1.0.10}"),
    )
    assert proxied == []


def test_each_backend_for_volumes_has_its_name():
    def stores(first, second):
        lvm = f"roles: [cinder_volume_lvm], address: 10.1.0.31, vars: {{cinder_volume_lvm_backend_name: {first}}}"
        nfs = f"roles: [cinder_volume_nfs], address: 10.1.0.32, vars: {{cinder_volume_nfs_backend_name: {second}}}"
        return f"  sto-1: {{{lvm}}}\n  sto-2: {{{nfs}}}"

    assert refused(more=stores("lvm", "nfs")) == []
    said = refused(more=stores("fast", "fast"))
    assert [place.split(":")[1] for place, _ in said] == ["18", "19"]
    assert all("more than one backend of the site is called fast" in summary for _, summary in said)


def test_names_of_windows_hosts_are_short():
    more = "  hyperv-in-rack-01: {platform: windows-2022, address: 10.1.0.31, connection: {transport: winrm}}"
    assert any("at most 15 characters, unlike hyperv-in-rack-01" in p.summary for p in problems(more=more))


def test_a_port_that_the_hardware_does_not_have():
    bridges = "neutron_ovs_agent_bridges: [{name: br-ex, port: eno9}, {name: br-in}]"
    assert refused(compute=bridges) == []
    ((where, summary),) = refused(
        compute=bridges, nics={"cmp-1": frozenset({"eno1", "eno2"}), "cmp-2": frozenset({"eno9"})}
    )
    assert where == "cluster.yml:14:12"
    assert "neutron_ovs_agent on cmp-1: cmp-1 has only the ports eno1, eno2" in summary
