"""What an installed system is told at its first start: NoCloud, ConfigDrive v2, and its Windows flavour."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from orchestrator.errors import ProblemsError
from orchestrator.model import Connection, Network, Node, Profile, SecretRef
from orchestrator.seed import Bond, File, Host, Nic, Port, host, linux, network_config, openstack, problems_of, windows

ONE, TWO, THREE = "52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 operator@desk"
PORTS = (Port(mac=ONE, name="eno1"), Port(mac=TWO, name="eno2"), Port(mac=THREE))
MGMT = Nic(network="mgmt", mac=ONE, address="10.77.0.11", prefix=24, gateway="10.77.0.1")
PLAIN = Host(name="kvm-1", generation=2, user="halligan", authorized_keys=(KEY,), ports=PORTS, networks=(MGMT,))
BOND = Bond(name="bond0", members=(ONE, TWO), mode="802.3ad", parameters={"lacp-rate": "fast"})
RICH = replace(
    PLAIN,
    networks=(
        replace(MGMT, mac="", bond="bond0"),
        Nic(network="tenant", bond="bond0", address="10.78.0.11", prefix=24, vlan=100),
        Nic(network="storage", mac=THREE, address="fd00:79::11", prefix=64, mtu=9000),
    ),
    bonds=(BOND,),
    dns=("10.77.0.2", "fd00::2"),
    write_files=(File(path="/etc/motd", content="one\ntwo\n", permissions="0600"),),
)
CERTIFICATE = "-----BEGIN CERTIFICATE-----\n" + "MIIB" * 120 + "\n-----END CERTIFICATE-----\n"
WINDOWS = replace(PLAIN, name="HV-1", user="Admin", platform="windows-2022", client_certificate=CERTIFICATE)


def summaries(wanted, make=linux):
    with pytest.raises(ProblemsError) as caught:
        make(wanted)
    return [problem.summary for problem in caught.value.problems]


def user_data(wanted):
    text = linux(wanted).files["user-data"]
    assert text.startswith("#cloud-config\n")
    return yaml.safe_load(text)


# --- NoCloud ------------------------------------------------------------------------------------------------------


def test_a_seed_has_three_files():
    seed = linux(PLAIN)
    assert seed.kind == "nocloud"
    assert set(seed.files) == {"meta-data", "user-data", "network-config"}
    assert yaml.safe_load(seed.files["meta-data"]) == {"instance-id": "kvm-1-2", "local-hostname": "kvm-1"}


def test_every_install_is_another_instance():
    """cloud-init runs its first-start steps once per instance."""
    again = replace(PLAIN, generation=3)
    assert linux(again).files["meta-data"] != linux(PLAIN).files["meta-data"]
    assert meta(openstack(again))["uuid"] != meta(openstack(PLAIN))["uuid"]
    assert linux(PLAIN) == linux(replace(PLAIN))


def test_only_keys_open_the_door():
    config = user_data(PLAIN)
    [user] = config["users"]
    assert user["name"] == "halligan"
    assert user["ssh_authorized_keys"] == [KEY]
    assert user["lock_passwd"] is True
    assert user["sudo"] == "ALL=(ALL) NOPASSWD:ALL"
    assert config["ssh_pwauth"] is False
    assert config["disable_root"] is True


def test_the_host_key_that_the_controller_knows_stays_the_only_one():
    config = user_data(PLAIN)
    assert config["ssh_deletekeys"] is False
    assert config["ssh_genkeytypes"] == ["ed25519"]


def test_the_installer_has_grown_the_disk():
    assert user_data(PLAIN)["growpart"] == {"mode": "off"}


def test_further_files_are_written():
    assert user_data(RICH)["write_files"] == [{"path": "/etc/motd", "content": "one\ntwo\n", "permissions": "0600"}]
    assert "one\n    two\n" in linux(RICH).files["user-data"]  # as somebody reads it on the machine


def test_a_profile_adds_to_ours():
    extra = {
        "timezone": "Europe/Zurich",
        "ntp": {"servers": ["10.77.0.3"]},
        "write_files": [{"path": "/etc/x", "content": "x"}],
        "users": [{"name": "ops", "ssh_authorized_keys": [KEY]}, "audit"],
        "ssh_pwauth": False,
    }
    config = user_data(replace(RICH, user_data=extra))
    assert config["timezone"] == "Europe/Zurich"
    assert config["ntp"] == {"servers": ["10.77.0.3"]}
    assert [file["path"] for file in config["write_files"]] == ["/etc/motd", "/etc/x"]
    assert [user if isinstance(user, str) else user["name"] for user in config["users"]] == ["halligan", "ops", "audit"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"users": [{"name": "halligan", "shell": "/bin/false"}]}, "cannot change halligan"),
        ({"users": ["halligan"]}, "cannot change halligan"),
        ({"users": [{"name": "root", "ssh_authorized_keys": [KEY]}]}, "cannot open root"),
        ({"users": [{"name": "ops", "passwd": "$6$x"}]}, "a password (passwd)"),
        ({"users": [{"name": "ops", "plain_text_passwd": "x"}]}, "a password (plain_text_passwd)"),
        ({"users": [{"name": "ops", "lock_passwd": False}]}, "a password (lock_passwd)"),
        ({"users": {"name": "ops"}}, "must be a list"),
        ({"users": [7]}, "no user"),
        ({"ssh_pwauth": True}, "ssh_pwauth"),
        ({"ssh_pwauth": "unchanged"}, "ssh_pwauth"),
        ({"disable_root": False}, "disable_root"),
        ({"ssh_deletekeys": True}, "ssh_deletekeys"),
        ({"ssh_keys": {"rsa_private": "x"}}, "ssh_keys"),
        ({"chpasswd": {"list": "root:x"}}, "chpasswd"),
        ({"password": "x"}, "password"),
        ({"growpart": {"mode": "auto"}}, "growpart"),
        ({"hostname": "other"}, "hostname"),
        ({"network": {"version": 2}}, "interfaces"),
        ({"cloud_init_modules": []}, "cloud_init_modules"),
        ({"write_files": {"path": "/x"}}, "`write_files` in user_data must be a list"),
        ({"runcmd": [SecretRef(file="f", key="k", fingerprint="x")]}, "user_data.runcmd.0 is no plain value"),
        ({1: "x"}, "is not text"),
    ],
)
def test_a_profile_cannot_open_what_we_close(extra, words):
    [summary] = summaries(replace(RICH, user_data=extra))
    assert words in summary
    assert summary.startswith("kvm-1: ")


def test_a_profile_and_its_problems_are_told_at_once():
    extra = {"password": "x", "ssh_pwauth": True, "users": [{"name": "ops", "passwd": "x"}]}
    assert len(summaries(replace(PLAIN, user_data=extra))) == 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
TOP = st.sampled_from(["users", "write_files", "runcmd", "ssh_pwauth", "disable_root", "ssh_deletekeys", "packages"])


@given(st.dictionaries(TOP | st.text(max_size=12), JSON, max_size=5))
def test_whatever_a_profile_says_our_user_stays_and_passwords_stay_shut(extra):
    try:
        text = linux(replace(RICH, user_data=extra)).files["user-data"]
    except ProblemsError:
        return
    config = yaml.safe_load(text)
    assert config["users"][0] == user_data(PLAIN)["users"][0]
    for key in ("ssh_pwauth", "disable_root", "ssh_deletekeys", "growpart"):
        assert config[key] == user_data(PLAIN)[key]
    for key, value in extra.items():
        if key not in ("users", "write_files"):
            assert config[key] == value


# --- the network --------------------------------------------------------------------------------------------------


def test_nics_are_found_by_mac_and_named():
    config = yaml.safe_load(linux(PLAIN).files["network-config"])
    assert config == {
        "version": 2,
        "ethernets": {
            "eno1": {
                "match": {"macaddress": ONE},
                "set-name": "eno1",
                "dhcp4": False,
                "dhcp6": False,
                "addresses": ["10.77.0.11/24"],
                "routes": [{"to": "0.0.0.0/0", "via": "10.77.0.1"}],
            }
        },
    }


def test_bonds_and_vlans_stand_on_each_other():
    config = network_config(RICH)
    assert set(config["ethernets"]) == {"eno1", "eno2", "enx525400000003"}
    assert "addresses" not in config["ethernets"]["eno1"]
    assert config["ethernets"]["enx525400000003"]["mtu"] == 9000
    bond = config["bonds"]["bond0"]
    assert bond["interfaces"] == ["eno1", "eno2"]
    assert bond["parameters"] == {"mode": "802.3ad", "mii-monitor-interval": 100, "lacp-rate": "fast"}
    assert bond["addresses"] == ["10.77.0.11/24"]
    assert bond["nameservers"] == {"addresses": ["10.77.0.2", "fd00::2"]}
    vlan = config["vlans"]["bond0.100"]
    assert (vlan["id"], vlan["link"], vlan["addresses"]) == (100, "bond0", ["10.78.0.11/24"])
    assert "nameservers" not in vlan


def test_one_interface_may_have_two_addresses():
    six = Nic(network="mgmt6", mac=ONE, address="fd00::11", prefix=64, gateway="fd00::1")
    entry = network_config(replace(PLAIN, networks=(MGMT, six)))["ethernets"]["eno1"]
    assert entry["addresses"] == ["10.77.0.11/24", "fd00::11/64"]
    assert entry["routes"] == [{"to": "0.0.0.0/0", "via": "10.77.0.1"}, {"to": "::/0", "via": "fd00::1"}]


def test_a_port_that_carries_only_vlans_is_as_wide_as_the_widest():
    wide = Nic(network="storage", mac=TWO, address="10.79.0.11", prefix=24, vlan=20, mtu=9000)
    narrow = Nic(network="tenant", mac=TWO, address="10.78.0.11", prefix=24, vlan=30)
    config = network_config(replace(PLAIN, networks=(MGMT, wide, narrow)))
    assert config["ethernets"]["eno2"]["mtu"] == 9000
    assert config["vlans"]["eno2.20"]["mtu"] == 9000
    assert "mtu" not in config["vlans"]["eno2.30"]


def test_a_vlan_s_name_fits_the_kernel():
    tagged = Nic(network="tenant", mac=THREE, vlan=4000, address="10.78.0.11", prefix=24)
    assert set(network_config(replace(PLAIN, networks=(MGMT, tagged)))["vlans"]) == {"vlan4000"}


def nics(*further, **changes):
    return replace(PLAIN, networks=(replace(MGMT, **changes), *further))


SECOND = Nic(network="two", mac=TWO, address="10.78.0.11", prefix=24)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (nics(vlan=4095), "4095 is not a VLAN id"),
        (nics(mac="52:54:00:00:00:99"), "the machine has no NIC 52:54:00:00:00:99"),
        (nics(mac="", bond="bond1"), "the machine has no bond bond1"),
        (nics(mac=""), "one port or one bond"),
        (nics(bond="bond0"), "one port or one bond"),
        (nics(address="10.77.0.300"), "is not an address"),
        (nics(prefix=40), "is not an address"),
        (nics(address="10.77.0.0"), "the address of the network 10.77.0.0/24 itself"),
        (nics(address="10.77.0.255"), "the address of the network"),
        (nics(gateway="10.78.0.1"), "the gateway 10.78.0.1 is not in 10.77.0.0/24"),
        (nics(gateway="10.77.0.11"), "is the host itself"),
        (nics(replace(SECOND, gateway="10.78.0.1")), "networks mgmt, two would each be the default route (IPv4)"),
        (nics(replace(SECOND, address="10.77.0.11")), "2 networks have the address 10.77.0.11"),
        (nics(replace(SECOND, address="", gateway="10.78.0.1")), "a gateway without an address"),
        (nics(mtu=10), "10 is not an MTU"),
        (nics(replace(SECOND, mac=ONE, mtu=9000)), "share an interface but not its MTU"),
        (nics(replace(SECOND, mac=ONE, vlan=5, mtu=9000)), "its MTU 9000 does not pass"),
        (replace(PLAIN, networks=()), "no address in any network"),
        (replace(PLAIN, networks=(replace(MGMT, address="", gateway=""),)), "no address in any network"),
        (replace(RICH, bonds=(replace(BOND, mode="lacp"),)), "there is no bond mode 'lacp'"),
        (replace(RICH, bonds=(replace(BOND, parameters={"lacp_rate": "fast"}),)), "'lacp_rate' is no parameter"),
        (replace(RICH, bonds=(replace(BOND, parameters={"lacp-rate": {}}),)), "must be a number"),
        (replace(RICH, bonds=(replace(BOND, members=()),)), "bond0 has no members"),
        (replace(RICH, bonds=(replace(BOND, members=(ONE, ONE)),)), "a member 2 times"),
        (replace(RICH, bonds=(replace(BOND, members=(ONE, "52:54:00:00:00:99")),)), "no NIC 52:54:00:00:00:99"),
        (replace(RICH, networks=(*RICH.networks, replace(SECOND, address=""))), "a member of a bond"),
        (replace(PLAIN, ports=(*PORTS, Port(mac=ONE, name="eno9"))), "2 NICs have the MAC address"),
        (replace(PLAIN, ports=(*PORTS, Port(mac="52-54-00-00-00-04", name="eno4"))), "is not a MAC address"),
        (
            replace(PLAIN, ports=(*PORTS, Port(mac="52:54:00:00:00:04", name="eno1"))),
            "2 interfaces would be called eno1",
        ),
        (replace(PLAIN, ports=(*PORTS, Port(mac="52:54:00:00:00:04", name="a" * 16))), "cannot be an interface's name"),
        (replace(PLAIN, name="kvm_1"), "not a host name"),
        (replace(PLAIN, name="a" * 65), "not a host name"),
        (replace(PLAIN, generation=0), "generation 0"),
        (replace(PLAIN, user="root"), "cannot be the user"),
        (replace(PLAIN, user="a b"), "cannot be the user"),
        (replace(PLAIN, authorized_keys=()), "there is no SSH key"),
        (replace(PLAIN, authorized_keys=("-----BEGIN OPENSSH PRIVATE KEY-----",)), "is not a public SSH key"),
        (replace(PLAIN, authorized_keys=(f"{KEY}\nssh-rsa AAAA",)), "is not a public SSH key"),
        (replace(PLAIN, dns=("resolver",)), "is not an IP address"),
        (replace(PLAIN, write_files=(File(path="etc/x", content=""),)), "not the absolute path"),
        (replace(PLAIN, write_files=(File(path="/x", content="", permissions="rw"),)), "is not a mode"),
        (replace(PLAIN, write_files=(File(path="/x", content=""),) * 2), "/x is written 2 times"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(wanted, words):
    [summary] = summaries(wanted)
    assert words in summary


def test_everything_wrong_is_told_at_once():
    wrong = replace(PLAIN, name="a b", user="", authorized_keys=(), networks=(replace(MGMT, vlan=-1, mtu=1),))
    assert len(problems_of(wrong)) == 5


# --- ConfigDrive --------------------------------------------------------------------------------------------------

MAC_SCHEMA = {"type": "string", "pattern": "^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$"}
LINK = {"id": {"type": "string"}, "mtu": {"type": "integer", "minimum": 1, "maximum": 65535}}
IP = {"type": "string", "pattern": "^[0-9a-fA-F.:]+$"}


def _object(**properties):
    return {"type": "object", "required": list(properties), "properties": properties}


# Nova's network_data.json (its doc/api_schemas), as far as we use it; what we do not write is not allowed.
NETWORK_DATA = _object(
    links={
        "type": "array",
        "items": {
            "oneOf": [
                _object(**LINK, type={"const": "phy"}, ethernet_mac_address=MAC_SCHEMA),
                _object(
                    **LINK,
                    type={"const": "bond"},
                    ethernet_mac_address=MAC_SCHEMA,
                    bond_mode={
                        "enum": [
                            *("802.3ad", "balance-rr", "active-backup", "balance-xor", "broadcast", "balance-tlb"),
                            "balance-alb",
                        ]
                    },
                    bond_links={"type": "array", "items": {"type": "string"}, "minItems": 1},
                ),
                _object(
                    **LINK,
                    type={"const": "vlan"},
                    vlan_mac_address=MAC_SCHEMA,
                    vlan_id={"type": "integer", "minimum": 1, "maximum": 4094},
                    vlan_link={"type": "string"},
                ),
            ]
        },
    },
    networks={
        "type": "array",
        "items": _object(
            id={"type": "string"},
            link={"type": "string"},
            network_id={"type": "string"},
            type={"enum": ["ipv4", "ipv6"]},
            ip_address=IP,
            netmask=IP,
            routes={"type": "array", "items": _object(network=IP, netmask=IP, gateway=IP)},
        ),
    },
    services={"type": "array", "items": _object(type={"const": "dns"}, address=IP)},
)
META_DATA = _object(
    uuid={"type": "string", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
    hostname={"type": "string"},
    name={"type": "string"},
    public_keys={"type": "object", "additionalProperties": {"type": "string"}},
)


def meta(seed):
    return json.loads(seed.files["openstack/latest/meta_data.json"])


@pytest.mark.parametrize("seed", [openstack(PLAIN), openstack(RICH), windows(WINDOWS)])
def test_a_config_drive_is_what_nova_s_schema_says(seed):
    assert seed.kind == "configdrive"
    assert set(seed.files) == {
        "openstack/latest/meta_data.json",
        "openstack/latest/network_data.json",
        "openstack/latest/user_data",
    }
    Draft202012Validator(META_DATA).validate(meta(seed))
    data = json.loads(seed.files["openstack/latest/network_data.json"])
    Draft202012Validator(NETWORK_DATA).validate(data)
    links = {link["id"] for link in data["links"]}
    assert {network["link"] for network in data["networks"]} <= links
    assert {member for link in data["links"] for member in link.get("bond_links", [])} <= links
    assert {link["vlan_link"] for link in data["links"] if "vlan_link" in link} <= links


def test_a_config_drive_tells_what_nocloud_tells():
    seed = openstack(RICH)
    assert seed.files["openstack/latest/user_data"] == linux(RICH).files["user-data"]
    assert meta(seed)["hostname"] == "kvm-1"
    assert list(meta(seed)["public_keys"].values()) == [KEY]
    data = json.loads(seed.files["openstack/latest/network_data.json"])
    [bond] = [link for link in data["links"] if link["type"] == "bond"]
    assert (bond["bond_mode"], bond["bond_links"], bond["bond_miimon"]) == ("802.3ad", ["eno1", "eno2"], 100)
    assert [(n["ip_address"], n["netmask"], n["link"]) for n in data["networks"]] == [
        ("10.77.0.11", "255.255.255.0", "bond0"),
        ("10.78.0.11", "255.255.255.0", "bond0.100"),
        ("fd00:79::11", "ffff:ffff:ffff:ffff::", "enx525400000003"),
    ]
    assert data["networks"][0]["routes"] == [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.77.0.1"}]
    assert data["services"] == [{"type": "dns", "address": "10.77.0.2"}, {"type": "dns", "address": "fd00::2"}]


def test_a_config_drive_leaves_names_of_vlans_to_cloud_init():
    tagged = replace(PLAIN, networks=(MGMT, Nic(network="tenant", mac=THREE, vlan=40, address="10.78.0.11", prefix=24)))
    [summary] = summaries(tagged, openstack)
    assert "enx525400000003.40, which is too long" in summary


# --- Windows ------------------------------------------------------------------------------------------------------


def test_windows_is_told_its_name_and_whom_to_let_in():
    told = meta(windows(WINDOWS))
    assert told["hostname"] == "HV-1"
    assert told["meta"]["admin_username"] == "Admin"
    parts = [told["meta"][f"admin_cert{index}"] for index in range(len(told["meta"]) - 1)]
    assert "".join(parts) == CERTIFICATE
    assert len(parts) == 3
    assert max(map(len, parts)) <= 255


def test_windows_gets_no_password():
    """cloudbase-init takes one from `admin_pass` of meta_data.json, at either level."""
    for text in windows(WINDOWS).files.values():
        assert not re.search("admin_pass|password *[:=]|ConvertTo-SecureString", text, re.IGNORECASE)


def test_windows_opens_winrm_over_https_only():
    text = windows(WINDOWS).files["openstack/latest/user_data"]
    assert text.startswith("#ps1_sysnative\r\n")  # by this cloudbase-init knows what it is
    assert text.isascii()
    assert text.replace("\r\n", "").count("\n") == 0
    assert "-Transport HTTPS" in text
    assert "-Transport HTTP " not in text
    assert r"Auth\Basic' -Value $false" in text
    assert "AllowUnencrypted' -Value $false" in text
    assert "-LocalPort 5986" in text
    assert "dns=HV-1&ipaddress=10.77.0.11" in text
    assert "@" not in re.sub(r"@\(", "", text)  # every mark of the template is filled in


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "HYPERV-RACK-0012"}, "cannot be called that"),
        ({"name": "hv-1.example"}, "cannot be called that"),
        ({"name": "12345"}, "cannot be called that"),
        ({"platform": "debian-12"}, "not windows"),
        ({"user_data": {"timezone": "UTC"}}, "user_data"),
        ({"write_files": (File(path="/x", content=""),)}, "user_data"),
        ({"client_certificate": ""}, "client certificate"),
        ({"client_certificate": CERTIFICATE + "-----BEGIN PRIVATE KEY-----\n"}, "client certificate"),
    ],
)
def test_what_windows_cannot_be_is_refused(changes, words):
    [summary] = summaries(replace(WINDOWS, **changes), windows)
    assert words in summary


def test_fifteen_letters_are_a_name():
    assert meta(windows(replace(WINDOWS, name="HYPERV-RACK-012")))["hostname"] == "HYPERV-RACK-012"


# --- from the spec ------------------------------------------------------------------------------------------------

NETWORKS = {
    "mgmt": Network(name="mgmt", cidr="10.77.0.0/24", gateway="10.77.0.1", vlan=7),
    "tenant": Network(name="tenant", cidr="10.78.0.0/24", gateway="10.78.0.1", vlan=100),
    "storage": Network(name="storage", cidr="10.79.0.0/24", mtu=9000),
    "external": Network(name="external", cidr="10.80.0.0/24"),
}
NODE = Node(name="kvm-1", address="10.77.0.11", connection=Connection(user="ops"))


def laid_out(node=NODE, interfaces=None, **changes):
    given = {
        "node": node,
        "profile": Profile(name="kvm", image="debian-12", interfaces=interfaces or {}, user_data={"timezone": "UTC"}),
        "networks": NETWORKS,
        "boot_network": "mgmt",
        "ports": PORTS,
        "boot_mac": ONE,
        "generation": 1,
        "authorized_keys": (KEY,),
    }
    return host(**given | changes)


def layout_problems(**given):
    with pytest.raises(ProblemsError) as caught:
        laid_out(**given)
    return [problem.summary for problem in caught.value.problems]


def test_one_network_is_on_the_port_that_booted_and_untagged():
    found = laid_out()
    assert found.networks == (MGMT,)
    assert (found.user, found.user_data, found.platform) == ("ops", {"timezone": "UTC"}, "debian-12")
    assert linux(found).kind == "nocloud"


def test_a_user_has_a_name_if_nobody_gives_one():
    assert laid_out(replace(NODE, connection=Connection())).user == "halligan"


def test_networks_with_a_vlan_are_tagged_where_the_boot_network_is():
    found = laid_out(replace(NODE, addresses={"tenant": "10.78.0.11"}))
    assert found.networks == (MGMT, Nic(network="tenant", mac=ONE, address="10.78.0.11", prefix=24, vlan=100))


def test_a_bond_carries_what_the_profile_says():
    found = laid_out(
        replace(NODE, addresses={"mgmt": "10.77.0.11", "tenant": "10.78.0.11", "storage": "10.79.0.11"}),
        {
            "bond0": {"members": ["eno1", TWO.upper().replace(":", "-")], "mode": "802.3ad", "networks": ["mgmt"]},
            "storage0": {"port": "nic2", "networks": ["storage", "external"]},
        },
    )
    assert found.bonds == (Bond(name="bond0", members=(ONE, TWO), mode="802.3ad"),)
    assert found.networks == (
        replace(MGMT, mac="", bond="bond0"),
        Nic(network="tenant", bond="bond0", address="10.78.0.11", prefix=24, vlan=100),
        Nic(network="storage", mac=THREE, address="10.79.0.11", prefix=24, mtu=9000),
        Nic(network="external", mac=THREE),
    )
    assert [port.interface for port in found.ports] == ["eno1", "eno2", "storage0"]


def test_the_boot_network_follows_its_port_into_a_bond():
    found = laid_out(interfaces={"bond0": {"members": ["boot", "eno2"]}})
    assert found.networks == (replace(MGMT, mac="", bond="bond0"),)


def test_the_default_route_is_that_of_the_node_s_own_address():
    other = replace(NODE, address="10.78.0.11", addresses={"mgmt": "10.77.0.11", "tenant": "10.78.0.11"})
    gateways = {nic.network: nic.gateway for nic in laid_out(other).networks}
    assert gateways == {"tenant": "10.78.0.1", "mgmt": ""}
    none = replace(NODE, address="10.79.0.11", addresses={"tenant": "10.78.0.11"})
    interfaces = {"eno2": {"networks": ["storage"]}}
    assert {nic.network: nic.gateway for nic in laid_out(none, interfaces).networks} == {
        "storage": "",
        "tenant": "10.78.0.1",
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"boot_mac": "52:54:00:00:00:99"}, "which discovery did not see"),
        ({"interfaces": {"eno7": {"networks": ["storage"]}}}, "the machine has no NIC eno7"),
        ({"interfaces": {"x": {"port": "nic9"}}}, "no NIC nic9"),
        ({"interfaces": {"bond0": {"members": ["eno1", "eno8"]}}}, "no NIC eno8"),
        ({"interfaces": {"bond0": {"members": []}}}, "a bond without members"),
        ({"interfaces": {"bond0": {"members": "eno1"}}}, "`members` must be a list"),
        ({"interfaces": {"bond0": {"members": ["eno1"], "port": "eno1"}}}, "not both"),
        ({"interfaces": {"bond0": {"members": ["eno1"], "parameters": []}}}, "must be a mapping"),
        ({"interfaces": {"eno1": {"mode": "802.3ad"}}}, "no members"),
        ({"interfaces": {"eno1": {"netwoks": ["storage"]}}}, 'Did you mean "networks"?'),
        ({"interfaces": {"eno1": ["storage"]}}, "must be a mapping"),
        ({"interfaces": {"eno2": {"networks": ["storge"]}}}, 'Did you mean "storage"?'),
        (
            {"interfaces": {"eno1": {"networks": ["mgmt"]}, "eno2": {"networks": ["mgmt"]}}},
            "network mgmt is on eno1 and on eno2",
        ),
        ({"node": replace(NODE, address="10.99.0.1")}, "is in no network of the site"),
        ({"node": replace(NODE, addresses={"storage": "10.79.0.11"})}, "no port is named for network storage"),
        ({"node": replace(NODE, addresses={"tenant": "10.79.0.11"})}, "is not in network tenant, 10.78.0.0/24"),
        ({"node": replace(NODE, addresses={"tennant": "10.78.0.11"})}, 'Did you mean "tenant"?'),
    ],
)
def test_interfaces_that_do_not_fit_are_refused(given, words):
    found = layout_problems(**given)
    assert any(words in summary for summary in found), found


# --- others read it -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("cloud-init") is None, reason="not installed: cloud-init")
@pytest.mark.parametrize("wanted", [PLAIN, RICH, replace(RICH, user_data={"timezone": "UTC", "users": ["audit"]})])
def test_cloud_init_takes_our_user_data(wanted, tmp_path):
    path = tmp_path / "user-data"
    path.write_text(linux(wanted).files["user-data"])
    done = subprocess.run(
        ["cloud-init", "schema", "--config-file", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("cloud-init") is None, reason="not installed: cloud-init")
def test_cloud_init_makes_bonds_and_vlans_of_our_network(tmp_path):
    path = tmp_path / "network-config"
    path.write_text(linux(RICH).files["network-config"])
    convert = ["cloud-init", "devel", "net-convert", "-k", "yaml", "-D", "debian", "-O", "netplan"]
    subprocess.run([*convert, "-p", str(path), "-d", str(tmp_path / "out")], capture_output=True, check=True)
    [made] = (tmp_path / "out").rglob("*.yaml")
    assert yaml.safe_load(made.read_text())["network"] == network_config(RICH)
